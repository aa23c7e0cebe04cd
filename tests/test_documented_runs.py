"""The commands of README and docs/ that need what other commands made, each typed as it stands in its page, in two small clones.

`RUN` and `OWN_PICTURES` are what two readers do, one command after the other, so one that fails takes later ones with it.
tests/test_docs.py sees to it that every command of the pages is in one of the two or is run elsewhere.
"""

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.params import read_yaml

import pytest
import yaml
from doc_commands import all_commands, blocks
from live_processes import wait_until_gone
from PIL import Image, ImageDraw
from small_repository import ENVIRONMENT, copy_working_tree

from proof.clone import clone, foreign_environment

pytestmark = pytest.mark.slow

# Of the sample recipe so much that there are three characters to score and each kind of output; and a tagger.
SMALL = {
    "select": {"ranges": [{"first": 1_300_000, "last": 1_799_999, "take": None}]},
    "annotate": {"tags": {"path": "wd", "hub": None, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.05}},
    "train": {
        "updates": 4,
        "warmup_updates": 1,
        "save_every": 2,
        "checkpoints": {"every": 2, "keep_last": 1, "keep_every": None},
        "pictures": {"every": 4, "steps": 1},
    },
    "evaluate": {
        "references": {"min_posts": 1, "most_characters": 3, "pictures": 2},
        "generation": {"pictures": 1, "steps": 1},
        "bootstrap_samples": 50,
    },
    "runtime": {"processes": 1},
}

# What shows that a command did its work, by the clone's folder and by what the command said. In patterns ^ and $ are a line's.
Sign = Callable[[Path, str], object]


def says(pattern: str) -> Sign:
    return lambda folder, told: re.search(pattern, told, re.MULTILINE)


def never_says(pattern: str) -> Sign:
    return lambda folder, told: not re.search(pattern, told, re.MULTILINE)


def runs(*stages: str) -> Sign:
    """DVC runs these stages and no other."""
    return lambda folder, told: re.findall(r"^Running stage '(.+)':$", told, re.MULTILINE) == list(stages)


def leaves(path: str, pattern: str = "") -> Sign:
    """The file or folder is there, and this in it, if it is a file."""

    def is_there(folder: Path, told: str) -> object:
        place = folder / path
        return place.is_dir() or re.search(pattern, place.read_bytes().decode(errors="replace"), re.MULTILINE)

    return is_there


def puts(recipe: str) -> Sign:
    return lambda folder, told: (folder / "params.yaml").read_bytes() == (folder / f"recipes/{recipe}.yaml").read_bytes()


@dataclass(frozen=True)
class Step:
    """A command of a page, the signs of its work, what the reader writes in the place of the page's words and does before."""

    text: str
    signs: list[Sign]
    words: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Path], None] | None = None


LATENTS = "python stages/cache_latents.py --captions data/captions --posts data/kept --base models/base --output data/latents"
GAMMA = 'python stages/merge.py --formula "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)"'
BY_HAND = "import pathlib, repro.hashing as h; h.write_manifest(pathlib.Path('data/captions'), 'by hand')"
# Models of the run in the places of published ones.
BETA7, ANXL3, ANXL2, BASE7 = "models/base", "models/sample.safetensors", "models/sample-base", "models/sample"
FROM_TRAIN_ON = ("train", "merge", "generate-merged", "evaluate-CCIP", "report")
UP_TO_DATE = [runs(), says("Data and pipelines are up to date")]

RUN = [
    # The sample's pipeline, stage by stage.
    Step("make ingest", [runs("ingest")]),
    Step("make annotate caption", [runs("select", "filter", "annotate", "caption")]),
    Step("make cache-latents", [runs("base", "cache-latents")]),
    Step(
        "python stages/train.py --latents data/latents --captions data/captions --base models/base --dry-run",
        [says(r"steps +\d+ updates an epoch, 4 in all")],
    ),
    Step("make train", [runs("train")]),
    Step("make references", [runs("references")]),
    Step("make generate-base", [runs("generate-base")]),
    Step("make generate-merged", [runs("merge", "generate-merged")]),
    Step("make evaluate-CCIP", [runs("evaluate-CCIP"), says("reports/ccip.json: 3 characters")]),
    Step("make", [runs("report"), leaves("reports/index.html"), leaves("reports/MODEL_CARD.md"), leaves("models/sample")]),
    Step("make", UP_TO_DATE),
    # Stages by hand: DVC finds the bytes that it knows. One machine makes both machines' shares of the latents.
    Step(
        "python stages/annotate_images.py --posts data/kept --output data/annotations",
        [says("^annotate: tags, in data/annotations$")],
    ),
    Step(
        "python stages/caption_posts.py --posts data/kept --annotations data/annotations --output data/captions",
        [says("posts in data/captions")],
    ),
    Step(f"{LATENTS} --share 1/2", [says("share 1 of 2 is done")]),
    Step(f"{LATENTS} --share 1/2", [says("share 2 of 2 is done")], {"1/2": "2/2"}),
    Step(LATENTS, [says("images in 3 shards, 0 lost"), never_says("^latents: ")]),
    Step("make cache-latents", UP_TO_DATE),
    Step("dvc repro train", UP_TO_DATE),
    # What a run shows of itself.
    Step("make cost", [says(r"train sample \w+: 1 process .*\(4 updates in 1 run\)")]),
    Step("dvc metrics show", [says(r"models\.merged\.score ")]),
    Step("dvc plots show", [leaves("dvc_plots/index.html", "Training loss")]),
    Step("python stages/filter_posts.py --explain 1503904", [says("^select: selected$"), says("^filter: ")]),
    Step("make attest", [leaves("models/sample.attestation.json")]),
    Step(
        "make check-model FILE=models/sample.safetensors ATTESTATION=models/sample.attestation.json",
        [says("is Sample XL .* to the last byte")],
    ),
    # Experiments. The first one is in place afterwards, the queued one is not.
    Step(
        "dvc exp run -S lr=2e-5",
        [runs(*FROM_TRAIN_ON), leaves("params.yaml", "^lr: 2e-05$"), leaves("reports/train.csv", ",2e-05,")],
    ),
    Step("dvc exp run --queue -S lr=5e-4", [runs(), says("Queued experiment")]),
    Step("dvc exp run --run-all", [runs(*FROM_TRAIN_ON), leaves("params.yaml", "^lr: 2e-05$")]),
    Step(
        "dvc exp show --drop '.*' --keep 'Experiment|lr|models.merged.score$'",
        [says(r"models\.merged\.score +lr +$"), says(r"^  \w+ .* 0\.001 +$"), says(r"\] .* 2e-05 "), says(r"\] .* 0\.0005 ")],
    ),
    Step("dvc params diff", [says(r"params\.yaml +lr +0\.001 +2e-05")]),
    Step("dvc metrics diff", [says(r"reports/train\.json +updates +380 +4 ")]),
    Step("make change BASE=origin/main", [says(r"\| lr +\| 0\.001 +\| 2e-05 ")], {"origin/main": "HEAD"}),
    Step("mkdir -p state/before", [leaves("state/before")]),
    Step(
        "for name in ccip.json ccip_run.json ccip_characters.csv; do git show COMMIT:reports/$name > state/before/$name; done",
        [leaves("state/before/ccip.json", '"characters": 15'), leaves("state/before/ccip_characters.csv", "eileen")],
        {"COMMIT": "HEAD"},
    ),
    # Merges, captions and an index of other files than the run's.
    Step(
        f"{GAMMA} --model beta7=BETA7 --model anxl3=ANXL3 --model anxl2=ANXL2 --model base7=BASE7 --out gamma_rev1.safetensors",
        [leaves("gamma_rev1.safetensors", "anxl3 - anxl2")],
        {"BETA7": BETA7, "ANXL3": ANXL3, "ANXL2": ANXL2, "BASE7": BASE7},
    ),
    Step(
        f"{GAMMA} --model beta7=beta7.safetensors --model anxl3=anxl3.safetensors --model anxl2=anxl2.safetensors"
        " --model base7=base7.safetensors --out gamma_rev1.safetensors",
        [leaves("gamma_rev1.safetensors", "anxl3 - anxl2")],
        {"beta7.safetensors": BETA7, "anxl3.safetensors": ANXL3, "anxl2.safetensors": ANXL2, "base7.safetensors": BASE7},
        before=lambda folder: (folder / "gamma_rev1.safetensors").unlink(),
    ),
    Step("python stages/merge.py --formula m --model m=FOLDER --out m.safetensors", [leaves("m.safetensors")], {"FOLDER": BASE7}),
    Step(
        "python stages/merge.py --formula m --model m=m.safetensors --layout diffusers --configs FOLDER --out FOLDER2",
        [says("^scores/again: [0-9,]+ tensors, m, as fp16$"), leaves("scores/again/model_index.json")],
        {"FOLDER": BASE7, "FOLDER2": "scores/again"},
    ),
    Step(
        "python stages/caption_posts.py --database danbooru2023.db --profile kohaku-xl-epsilon --out captions --format jsonl",
        [leaves("captions/captions.jsonl", '"caption":"1girl, ')],
        {"danbooru2023.db": "data/sample/metadata.db"},
    ),
    Step(
        "python stages/index_images.py --images data/danbooru2023/images --output data/danbooru2023/image_index",
        [says("index: 1059 images in 8 archives")],
        {"data/danbooru2023/images": "data/sample/images"},
    ),
    # Captions of another program, last: the run in place was not made of them.
    Step(f'PYTHONPATH=stages python -c "{BY_HAND}"', [leaves("data/captions/MANIFEST.json", "by hand")]),
    Step("dvc commit --force caption", [says("Updating lock file 'dvc.lock'")]),
]

OWN_DATA = Path("docs/your-own-data.md")
# The folder that this page calls /path/to/images, as a shell and as YAML have it.
IMAGES = {"/path/to/images": "'../my pictures'"}
RECIPES = ("kohaku-xl-delta", "kohaku-xl-gamma-rev1", "sotediffusion-base", "sotediffusion-final", "sample")


def draw_pictures(folder: Path) -> None:
    """Forty pictures as the page lays them out, all but one with a sidecar, of which every other is JSON."""
    for number in range(40):
        colour, shape = ("red", "blue", "green", "yellow")[number % 4], ("square", "circle")[number // 20]
        picture = Image.new("RGB", (96 + number % 3 * 16, 128 - number % 5 * 8), (240 - number * 5, 250, 180 + number))
        draw = ImageDraw.Draw(picture)
        outline = (5 + number, 10 + number % 7 * 4, 60 + number, 90 - number % 6 * 3)
        (draw.rectangle if shape == "square" else draw.ellipse)(outline, fill=colour)
        place = folder.parent / "my pictures" / "mine" / shape / f"{colour}-{number // 4 % 5}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)
        tags = {"general": f"1girl, {colour} {shape}, solo", "artist": "shape painter", "character": f"{colour} knight"}
        if number % 2:
            place.with_suffix(".txt").write_text(", ".join(tags.values()))
        elif number:
            place.with_suffix(".json").write_text(json.dumps({**tags, "rating": "general"}))


def follow_steps_3_and_4(folder: Path) -> None:
    """The page's program for a tag table, and its changes of params.yaml."""
    for program in blocks(OWN_DATA, "sh"):
        type_in(folder, program)
    changes = next(block for block in blocks(OWN_DATA, "yaml") if block.startswith("recipe: "))
    change_params(folder, read_yaml(with_words(changes, IMAGES), str(OWN_DATA)))
    change_params(folder, {"runtime": {"processes": 1}})  # which for so few pictures is quicker


def append_profile(folder: Path) -> None:
    """The profile that docs/extending.md shows."""
    (profile,) = [block for block in blocks(Path("docs/extending.md"), "yaml") if "plain-tags:" in block]
    with open(folder / "stages/booru/captioning/profiles.yaml", "a", encoding="utf-8") as profiles:
        profiles.write(f"\n{profile}\n")


OWN_PICTURES = [
    *(Step(f"make recipe NAME={name}", [puts(name), says("values differ")]) for name in RECIPES),
    Step(
        "python stages/index_images.py --images /path/to/images --output data/image_index",
        [says("index: 40 pictures in folders, 1 of them without a sidecar")],
        IMAGES,
        before=draw_pictures,
    ),
    Step("make check", [lambda folder, told: told == ""], before=follow_steps_3_and_4),
    Step("make plan", [says("posts +36, folder mine")]),
    Step(
        "dvc repro merge",
        [
            runs("ingest", "select", "filter", "annotate", "caption", "base", "cache-latents", "train", "merge"),
            says("ingest: 40 posts in data/metadata"),
            leaves("models/shapes.safetensors"),
            leaves("models/shapes"),
        ],
    ),
    Step(
        "python stages/caption_posts.py --posts data/kept --out state/captions --format jsonl",
        [leaves("state/captions/captions.jsonl", '"caption":"my shapes, 1girl, red knight, shape painter, ')],
    ),
    Step("python stages/filter_posts.py --explain 4929753867038930", [says("metadata: post 4929753867038930 of mine")]),
    Step(
        "python stages/tag_images.py --images FOLDER --model models/annotation/wd-swinv2-tagger-v3 --recursive"
        " --remove_underscore --use_rating_tags --character_tags_first --character_tag_expand --append_tags"
        " --general_threshold 0.35 --character_threshold 0.50",
        [says("40 pictures tagged"), leaves("../my pictures/mine/square/blue-0.txt", "1girl, blue square, solo, .*general")],
        {"FOLDER": IMAGES["/path/to/images"], "models/annotation/wd-swinv2-tagger-v3": "models/sample-taggers/wd"},
    ),
    Step(
        "python stages/caption_posts.py --database data/sample/metadata.db --profile plain-tags --out captions --format jsonl",
        [leaves("captions/captions.jsonl", r'^{"id":7250,"caption":"1boy, male focus, kai, tin orchestra, \|\|\|')],
        before=append_profile,
    ),
]


def change_params(folder: Path, changes: Mapping[str, Any]) -> None:
    params = folder / "params.yaml"
    values = read_yaml(params.read_text(encoding="utf-8"), "params.yaml")
    params.write_text(yaml.safe_dump(changed(values, changes), sort_keys=False), encoding="utf-8")


def changed(values: Any, changes: Any) -> Any:
    """Sections are changed key by key, all else is replaced."""
    if not (isinstance(values, dict) and isinstance(changes, dict)):
        return changes
    return values | {key: changed(values.get(key), change) for key, change in changes.items()}


def with_words(text: str, words: Mapping[str, str]) -> str:
    """The page's text with the reader's words."""
    for word in sorted(words, key=len, reverse=True):  # FOLDER2 before FOLDER
        assert word in text, f"{word} is not in: {text}"
        text = text.replace(word, words[word])
    return text


def type_in(folder: Path, text: str) -> str:
    """What a command prints that must end well, stderr among it, in surroundings of the clone's own."""
    surroundings = foreign_environment(folder.parent) | {
        name: ENVIRONMENT[name] for name in ENVIRONMENT if name.startswith("GIT_")
    }
    for name in ("IMAGE_ROOT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # `make test-all` sets the last three
        surroundings.pop(name, None)
    result = subprocess.run(
        text, shell=True, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    assert result.returncode == 0, f"{text}\n{result.stdout}"
    return result.stdout


def take(folder: Path, step: Step) -> None:
    """Type one command of the pages, and look for its signs and for none of trouble."""
    assert any(command.text == step.text for command in all_commands()), f"no page has it any more: {step.text}"
    if step.before:
        step.before(folder)
    told = type_in(folder, with_words(step.text, step.words))
    for number, sign in enumerate(step.signs):
        assert sign(folder, told), f"sign {number} of its work is missing: {step.text}\n{told}"
    trouble = re.compile("WARNING(?!.* is frozen)|ERROR|Traceback|DVC failed")
    assert not trouble.search(told), told


def numbered(steps: list[Step]) -> list[str]:
    return [f"{number} {step.text[:60]}" for number, step in enumerate(steps)]


def set_up(folder: Path, changes: Mapping[str, Any]) -> Path:
    """A clone with what is in the working tree, and with changed parameters; `make` takes this environment for its own."""
    clone(Path.cwd(), folder)
    copy_working_tree(folder)
    if changes:
        change_params(folder, changes)
    type_in(folder, "git add --all && git commit --quiet --allow-empty --message start")
    (folder / ".venv").mkdir()
    (folder / ".venv/.ready").touch()
    return folder


def processes_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository without outputs, with a committed recipe that takes two minutes."""
    folder = set_up(tmp_path_factory.mktemp("small") / "a clone", SMALL)
    yield folder
    wait_until_gone(processes_in(folder))  # the worker of DVC's queue outlives its command


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without outputs."""
    return set_up(tmp_path_factory.mktemp("fresh") / "a clone", {})


@pytest.mark.parametrize("step", RUN, ids=numbered(RUN))
def test_a_run(small: Path, step: Step) -> None:
    take(small, step)


@pytest.mark.parametrize("step", OWN_PICTURES, ids=numbered(OWN_PICTURES))
def test_pictures_of_ones_own(fresh: Path, step: Step) -> None:
    take(fresh, step)
