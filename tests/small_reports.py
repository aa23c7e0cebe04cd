"""Reports as the other stages write them, small and made up, for tests of the report stage."""

import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from repro.hashing import sha256_file
from repro.randomness import Stream

import polars as pl
from PIL import Image

from characters.references import Reference, references_content
from reporting.inputs import Paths

CHARACTERS = (
    ("eileen_(ren'py)", "ren'py_tutorial"), ("lucy_(ren'py)", "ren'py_tutorial"), ("sylvie_(the_question)", "the_question"),
    ("mika", "adventurer"), ("aoi", "adventurer"), ("haruto", "lorelei"), ("nozomi", "open-peeps"), ("rin", "voxel-art"),
)  # fmt: skip
SAFE = " ()'-_.!"
UPDATES = 120
THRESHOLD = 0.18234567
MODELS = ("base", "merged")
MODES = ("name", "core_tags", "new_artist")
CCIP_COLUMNS = [
    "character", "series", "gender", "training_pictures", "model", "mode", "references", "pictures", "score",
    "score_over_upbound", "upbound", "ref_self", "cosine", "ccip_diff", "best_of_m", "top1", "rank", "diversity",
    "borderline_pairs",
]  # fmt: skip
PICTURE_COLUMNS = [
    "model", "mode", "character", "template", "number", "artist", "seed", "prompt", "archive", "member", "offset", "size",
    "sha256",
]  # fmt: skip


def listed(counts: dict[str, int]) -> dict[str, dict[str, int | str]]:
    """A tag list as the caption stage writes it."""
    return {name: {"posts": count, "class": "< 100"} for name, count in counts.items()}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def figures(score: float, ci95: list[float]) -> dict:
    """One model's figures in ccip.json."""
    return {
        "score": score, "ci95": ci95, "median": score, "above_50_percent": 2, "above_90_percent": 1,
        "score_over_upbound": score, "best_of_m": score + 0.05, "ccip_diff": 0.3, "cosine": 0.4, "top1": 0.5,
        "rank": 2.25, "diversity": 0.125,
    }  # fmt: skip


def write_data_reports(folder: Path) -> None:
    steps, left = [], 934
    for reason, dropped in (("blocked tag", 6), ("deleted", 14), ("banned", 3), ("too small", 0), ("not in the archives", 7)):
        left -= dropped
        steps.append({"reason": reason, "dropped": dropped, "left": left})
    ranges = [
        {"first": 0, "last": 1999999, "posts": 523, "matching": 520, "taken": 440},
        {"first": 2000000, "last": 7999999, "posts": 500, "matching": 494, "taken": 494},
    ]
    selection = {"metadata": 1085, "selected": 934, "repeats": 934, "seed": 1, "revision": "a" * 64, "ranges": ranges}
    _write(folder / "select.json", selection)
    words = {"masterpiece": 141, "best quality": 198, "worst quality": 32, "safe": 736, "sensitive": 32, "newest": 216, "old": 90}
    _write(folder / "captions.json", {"posts": 904, "posts_with_word": words})
    _write(folder / "filter.json", {"revision": "a" * 64, "selected": 934, "kept": left, "steps": steps})
    _write(folder / "artists.json", listed({"lisa_wischofsky": 210, "johan_melin": 120, "piroshki": 12}))
    _write(folder / "characters.json", listed({name: 70 - 3 * i for i, (name, _) in enumerate(CHARACTERS)}))
    latents = folder / "latents"
    latents.mkdir()
    widths, heights = [64] * 800 + [48] * 62 + [80] * 40, [64] * 800 + [80] * 62 + [48] * 40
    pl.DataFrame({"id": range(902), "bucket_width": widths, "bucket_height": heights}).write_parquet(latents / "index.parquet")
    pl.DataFrame({"id": [17, 18], "reason": ["unreadable: truncated", "unreadable: no image"]}).write_parquet(
        latents / "lost.parquet"
    )


def write_model_reports(folder: Path) -> None:
    stream = Stream(0, "small reports")
    rows = []
    for update in range(1, UPDATES + 1):
        warm = min(1.0, update / 20)
        loss = 0.12 + 0.2 * 0.98**update + 0.06 * (stream.uniform() - 0.5)
        rows.append([update, f"{loss:.8g}", f"{1e-3 * warm:.8g}", f"{5e-4 * warm:.8g}", f"{0.2 + stream.uniform():.8g}"])
    _write_csv(folder / "train.csv", ["update", "loss", "lr", "te_lr", "grad_norm"], rows)
    summary = {"updates": UPDATES, "trained_numbers": 1234567, "loss_first_tenth": 0.305123, "loss_last_tenth": 0.141234}
    _write(folder / "train.json", summary)
    (folder / "lokr.safetensors").write_bytes(b"trained" * 1000)
    (folder / "sample.safetensors").write_bytes(b"merged" * 2000)
    _write_pictures(folder / "training_pictures", ["sheet.png"])
    checkpoint = folder / "checkpoints" / "update-00000060.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_bytes(b"middle" * 900)
    _write(checkpoint.parent / "MANIFEST.json", {"content": "e" * 64, "files": {checkpoint.name: sha256_file(checkpoint)}})
    parts = {"unet": (686, 300), "text_encoder": (196, 24), "text_encoder_2": (197, 24), "vae": (250, 0)}
    components = {name: {"tensors": t, "lokr_modules": m, "changed": m} for name, (t, m) in parts.items()}
    merge = {
        "name": "sample", "formula": "lokr(base, trained, 1.0)", "dtype": "fp16",
        "inputs": {"sha256": {"base": "b" * 64, "trained": sha256_file(folder / "lokr.safetensors")}},
        "single_file": {
            "sha256": sha256_file(folder / "sample.safetensors"), "autov2": "a" * 10, "data_sha256": "d" * 64,
            "bytes": 12000, "tensors": 1329,
        },
        "components": components,
    }  # fmt: skip
    _write(folder / "merge.json", merge)


def prompt_of(character: str, series: str, mode: str, template: str) -> str:
    """A prompt much like the generation's."""
    looks = ["blue hair"] if mode == "core_tags" else []
    parts = ["1girl", character.replace("_", " "), series, *looks, f"{template} pose", "safe"]
    return ", ".join(parts)


def seal_evaluation(folder: Path, models: Sequence[str] | None = None) -> None:
    """Name ccip.json and its table, as they are now, in ccip_run.json, and the models if they are others."""
    run = json.loads((folder / "ccip_run.json").read_text())
    run["ccip_json"] = sha256_file(folder / "ccip.json")
    run["characters_csv"] = sha256_file(folder / "ccip_characters.csv")
    _write(folder / "ccip_run.json", run | ({"models": list(models)} if models else {}))


def write_character_scores(folder: Path, characters: Sequence[tuple[str, str]] = CHARACTERS) -> None:
    """The evaluation's table: every second character has no picture of a new artist."""
    rows = []
    for i, (character, series) in enumerate(characters):
        for model, mode in itertools.product(MODELS, MODES[: 2 + i % 2]):
            before, after = 0.04 * (i % 20), round(1 - 0.07 * (i % 14), 6)
            score = (before if model == "base" else after) * (0.5 if mode == "new_artist" else 1)
            pictures = [70 - 3 * (i % 20), model, mode, 8, 1 if mode == "new_artist" else 4]
            shares = [score, score, 0.99, 0.97, 0.4, 0.3, score, 0.75, 1.5 + i, 0.1, 0]
            rows.append([character, series, "1girl", *pictures, *shares])
    _write_csv(folder / "ccip_characters.csv", CCIP_COLUMNS, rows)


def write_references(folder: Path, characters: Sequence[tuple[str, str]] = CHARACTERS) -> None:
    """references.json and pictures.csv of the generate stage."""
    references = [
        Reference(name, series, "1girl", ("blue_hair", "red_eyes"), (), (1, 2), (), 70 - 3 * (i % 20))
        for i, (name, series) in enumerate(characters)
    ]
    _write(folder / "references.json", references_content(references, []))
    rows = []
    for model, (i, (name, series)) in itertools.product(MODELS, enumerate(characters)):
        for mode, (number, template) in itertools.product(MODES[: 2 + i % 2], enumerate(("plain", "smile"))):
            prompt = prompt_of(name, series, mode, template)
            rows.append([model, mode, name, template, number, "piroshki", 7, prompt, "a.tar", "b.png", 0, 1, "c" * 64])
    _write_csv(folder / "pictures.csv", PICTURE_COLUMNS, rows)


def _write_pictures(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        Image.new("RGB", (40, 24), "white").save(folder / name)


def write_evaluation(folder: Path, characters: Sequence[tuple[str, str]] = CHARACTERS) -> None:
    write_references(folder, characters)
    write_character_scores(folder, characters)
    base, merged = 0.14, 0.755
    models = {"base": figures(base, [base - 0.06, base + 0.07]), "merged": figures(merged, [merged - 0.08, merged + 0.09])}
    difference = {"mean": merged - base, "ci95": [0.442, 0.789], "wins": 7, "ties": 1, "losses": 0}
    core = {"base": figures(0.211, [0.1, 0.3]), "merged": figures(0.877, [0.8, 0.9])}
    artist = {"base": figures(0.1, [0.0, 0.2]), "merged": figures(0.5, [0.3, 0.7])}
    evaluation = {
        "characters": len(characters), "headline": "name", "threshold": THRESHOLD, "models": models, "difference": difference,
        "modes": {
            "core_tags": {
                "characters": len(characters), "pictures": 32, "models": core,
                "difference": {"mean": 0.666, "ci95": [0.55, 0.75], "wins": 6, "ties": 1, "losses": 1},
            },
            "new_artist": {
                "characters": 4, "pictures": 4, "models": artist,
                "difference": {"mean": 0.4, "ci95": [0.2, 0.6], "wins": 3, "ties": 1, "losses": 0},
            },
        },
        "training_pictures": {"spearman": {"base": None, "merged": 0.321}},
        "references": {"upbound": 0.99, "ref_self": 0.97, "pictures": 8 * len(characters), "trained": 5},
        "pairs": 1088, "borderline_pairs": 3,
        "skipped": [{"character": "yui", "reason": "3 reference pictures, evaluate.references.pictures needs 8"}],
    }  # fmt: skip
    _write(folder / "ccip.json", evaluation)
    run = {
        "encoder": {"model_feat.onnx": "1" * 64, "model_metrics.onnx": "2" * 64, "metrics.json": "3" * 64},
        "threshold": THRESHOLD, "references": {name: "4" * 64 for name, _ in characters}, "requests": "5" * 64,
        "models": list(MODELS), "headline": "name",
    }  # fmt: skip
    _write(folder / "ccip_run.json", run)
    seal_evaluation(folder)
    _write_pictures(folder / "ccip", ["rank.png", "scatter.png", "own.png"])
    (folder / "ccip" / "rank.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="24"><path d="M0 0L40 24" stroke="red"/></svg>\n'
    )
    _write_pictures(folder / "pictures", ["grid.png", "best.png", "worst.png", "changed.png"])
    _write_pictures(folder / "pictures" / "sheets", [f"{quote(name, safe=SAFE)}.png" for name, _ in characters[:60]])


def write_reports(folder: Path) -> Path:
    """All inputs of the report stage below `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_data_reports(folder)
    write_model_reports(folder)
    write_evaluation(folder)
    return folder


PLACES = {
    "selection": "select.json", "funnel": "filter.json", "captions": "captions.json", "artists": "artists.json",
    "characters": "characters.json", "latents": "latents", "history": "train.csv", "train_metrics": "train.json",
    "training_pictures": "training_pictures", "trained": "lokr.safetensors", "checkpoints": "checkpoints",
    "merge": "merge.json", "model": "sample.safetensors", "references": "references.json", "pictures_list": "pictures.csv",
    "ccip": "ccip.json", "ccip_characters": "ccip_characters.csv", "ccip_run": "ccip_run.json", "ccip_plots": "ccip",
    "pictures": "pictures",
}  # fmt: skip


def report_paths(folder: Path) -> Paths:
    """The inputs of `write_reports(folder)`."""
    return Paths(**{name: folder / place for name, place in PLACES.items()})


def report_arguments(folder: Path) -> list[str]:
    """The command line over `write_reports(folder)`; outputs stand in the same folder."""
    places = {f"--{name.replace('_', '-')}": place for name, place in PLACES.items()}
    places |= {"--card": "MODEL_CARD.md", "--page": "index.html"}
    return [part for option, place in places.items() for part in (option, str(folder / place))]
