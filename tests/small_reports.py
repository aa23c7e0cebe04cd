"""Reports as the other stages write them, small and made up, for tests of the report stage."""

import csv
import json
from pathlib import Path

from repro.randomness import Stream

import polars as pl
from PIL import Image

CHARACTERS = (
    ("eileen_(ren'py)", "ren'py_tutorial"), ("lucy_(ren'py)", "ren'py_tutorial"), ("sylvie_(the_question)", "the_question"),
    ("mika", "adventurer"), ("aoi", "adventurer"), ("haruto", "lorelei"), ("nozomi", "open-peeps"), ("rin", "voxel-art"),
)  # fmt: skip
UPDATES = 120
THRESHOLD = 0.18234567
CCIP_COLUMNS = [
    "character", "series", "gender", "model", "references", "pictures", "score", "score_over_upbound", "upbound",
    "ref_self", "cosine", "ccip_diff", "best_of_m", "top1", "borderline_pairs", "held_out_pictures", "held_out_score",
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


def _scores(score: float, ci95: list[float]) -> dict:
    return {
        "score": score, "ci95": ci95, "median": score, "above_50_percent": 2, "above_90_percent": 1,
        "score_over_upbound": score, "best_of_m": score + 0.05, "ccip_diff": 0.3, "cosine": 0.4, "top1": 0.5,
    }  # fmt: skip


def write_data_reports(folder: Path) -> None:
    steps, left = [], 934
    for reason, dropped in (("blocked tag", 6), ("deleted", 14), ("banned", 3), ("too small", 0), ("not in the archives", 7)):
        left -= dropped
        steps.append({"reason": reason, "dropped": dropped, "left": left})
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
    parts = {"unet": (686, 300), "text_encoder": (196, 24), "text_encoder_2": (197, 24), "vae": (250, 0)}
    components = {name: {"tensors": t, "lokr_modules": m, "changed": m} for name, (t, m) in parts.items()}
    merge = {
        "name": "sample", "formula": "lokr(base, trained, 1.0)", "dtype": "fp16",
        "inputs": {"sha256": {"base": "b" * 64, "trained": "c" * 64}},
        "single_file": {"sha256": "a" * 64, "autov2": "a" * 10, "data_sha256": "d" * 64, "bytes": 9876543, "tensors": 1329},
        "components": components,
    }  # fmt: skip
    _write(folder / "merge.json", merge)


def write_evaluation(folder: Path) -> None:
    rows, scores = [], []
    for i, (name, series) in enumerate(CHARACTERS):
        for model, score in (("base", 0.04 * i), ("merged", round(1 - 0.07 * i, 6))):
            held_out = [1, 0.5] if i % 2 else [0, ""]
            rows.append([name, series, "1girl", model, 8, 4, score, score, 0.99, 0.97, 0.4, 0.3, score, 0.75, 0, *held_out])
            scores.append(score)
    _write_csv(folder / "ccip_characters.csv", CCIP_COLUMNS, rows)
    base, merged = sum(scores[::2]) / len(CHARACTERS), sum(scores[1::2]) / len(CHARACTERS)
    evaluation = {
        "models": {"base": _scores(base, [base - 0.06, base + 0.07]), "merged": _scores(merged, [merged - 0.08, merged + 0.09])},
        "difference": {"mean": merged - base, "ci95": [0.442, 0.789], "wins": 7, "ties": 1, "losses": 0},
        "characters": len(CHARACTERS),
        "references": {"upbound": 0.99, "ref_self": 0.97},
        "held_out": {"pairs": 4, "characters": 4, "base": {"score": 0.1}, "merged": {"score": 0.5}},
        "threshold": THRESHOLD,
        "borderline_pairs": 3,
        "skipped": [{"character": "yui", "reason": "3 reference pictures, evaluate.reference_pictures needs 8"}],
    }
    _write(folder / "ccip.json", evaluation)
    for place in ("ccip/rank.png", "ccip/scatter.png", "pictures/grid.png"):
        (folder / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 24), "white").save(folder / place)
    for name, _ in CHARACTERS:
        Image.new("RGB", (40, 24), "white").save(folder / "pictures" / f"{name}.png")
    prompts = [["merged", name, 0, f"1girl, {name.replace('_', ' ')}, {series}, solo, safe"] for name, series in CHARACTERS]
    _write_csv(folder / "pictures" / "pictures.csv", ["model", "character", "number", "prompt"], prompts)


def write_reports(folder: Path) -> Path:
    """All inputs of the report stage below `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_data_reports(folder)
    write_model_reports(folder)
    write_evaluation(folder)
    return folder


def report_arguments(folder: Path) -> list[str]:
    """The command line over `write_reports(folder)`; outputs stand in the same folder."""
    places = {
        "--funnel": "filter.json", "--artists": "artists.json", "--characters": "characters.json", "--latents": "latents",
        "--history": "train.csv", "--train-metrics": "train.json", "--merge": "merge.json", "--ccip": "ccip.json",
        "--ccip-characters": "ccip_characters.csv", "--ccip-plots": "ccip", "--pictures": "pictures",
        "--hash": "latents", "--card": "MODEL_CARD.md", "--page": "index.html",
    }  # fmt: skip
    return [part for option, place in places.items() for part in (option, str(folder / place))]
