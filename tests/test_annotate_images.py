"""annotate_images.py as a process and here: what it writes, from any number of workers, after a kill, and what it refuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro import state as stage_states
from repro.errors import StageError
from repro.hashing import check_manifest
from repro.params import Annotate

import onnx
import polars as pl
import pytest
from PIL import Image
from tiny_annotations import kept_posts, write_kept
from tiny_booru import TAGS, folder_bytes, make_metadata, metadata_post, run_script
from tiny_pictures import tiny_picture
from tiny_taggers import CHARACTERS, GENERAL, RATINGS, annotate_overrides, annotate_settings, write_taggers

import annotate_images
from booru.captioning.annotations import KINDS, SCHEMAS, annotated_kinds, read_vocabulary
from booru.images.archives import ImageArchives
from booru.images.decoding import decode
from tagging import describing
from tagging.model import asked_models

IDS = [*range(3, 120), *range(205, 260)]
# Posts whose metadata has the reader's tag.
WITH_TEXT = {10, 210, 211}
METADATA_TAGS = [*TAGS, (20, "english_text", 0)]


class Job:
    """Kept posts and models in a folder, and the options that name them."""

    def __init__(self, folder: Path):
        self.folder, self.models = folder, folder / "models"
        posts = [metadata_post(i, tags=[20, 1] if i in WITH_TEXT else [1]) for i in IDS]
        self.kept, self.images = write_kept(folder, posts, tags=METADATA_TAGS)
        write_taggers(self.models)
        self.settings = annotate_settings(self.models)

    def arguments(self, output: Path, *settings: str, processes: int = 1) -> list[str]:
        runtime = [f"runtime.image_root={self.images}", f"runtime.processes={processes}", *settings]
        return [
            "--posts", str(self.kept), "--output", str(output), *annotate_overrides(self.settings),
            *(word for setting in runtime for word in ("--set", setting)),
        ]  # fmt: skip

    def of(self, folder: Path, posts: list[dict], pictures: dict[int, bytes] | None = None) -> "Job":
        """The same models asked of other posts."""
        other = Job.__new__(Job)
        other.folder, other.models, other.settings = folder, self.models, self.settings
        other.kept, other.images = write_kept(folder, posts, pictures, tags=METADATA_TAGS)
        return other

    def here(self, output: Path, *settings: str, **options: int) -> Path:
        annotate_images.main(self.arguments(output, *settings, **options))
        return output


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


@contextmanager
def counted(asked: list[str]) -> Iterator[None]:
    """Tasks of this process are listed as they are worked off: kind and number of pictures."""

    def counting(function, tasks, processes):
        asked.extend(f"{task.asked.kind} {len(task.portion)}" for task in tasks)
        yield from map(function, tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describing, "run_here_or_there", counting)
        yield


@contextmanager
def states_below(folder: Path) -> Iterator[None]:
    """State of stages in this process below a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (stage_states, annotate_images):
            patch.setattr(module, "STATE_ROOT", folder)
        yield


@pytest.fixture(scope="module")
def annotations(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all four models say, in one process."""
    folder = tmp_path_factory.mktemp("annotations")
    with states_below(folder / "state"):
        return job.here(folder / "annotations")


@pytest.fixture
def own_state(tmp_path: Path) -> Iterator[Path]:
    with states_below(tmp_path / "state"):
        yield tmp_path / "state" / "annotate"


def test_shards_have_the_numbers_and_ids_of_the_posts(job: Job, annotations: Path) -> None:
    assert annotated_kinds(annotations) == sorted(KINDS)
    assert check_manifest(annotations)["revision"] == "a" * 64
    numbers = [file.stem.removeprefix("posts-") for file in sorted(job.kept.glob("posts-*.parquet"))]
    for kind in KINDS:
        files = sorted((annotations / kind).glob(f"{kind}-*.parquet"))
        assert [file.stem.removeprefix(f"{kind}-") for file in files] == numbers
        for file in files:
            frame = pl.read_parquet(file)
            assert frame.schema == {"id": pl.Int64} | SCHEMAS[kind]
            posts = pl.read_parquet(job.kept / file.name.replace(kind, "posts"))
            if kind != "text":
                assert frame["id"].to_list() == posts["id"].to_list()
    vocabulary = read_vocabulary(annotations)
    assert vocabulary["name"].to_list() == [*RATINGS, *GENERAL, *CHARACTERS]
    assert vocabulary["category"].to_list() == [9] * 4 + [0] * len(GENERAL) + [4] * len(CHARACTERS)


def rows_of(annotations: Path, kind: str) -> dict[int, tuple]:
    return {row[0]: row[1:] for row in pl.read_parquet(annotations / kind / f"{kind}-*.parquet").iter_rows()}


def test_each_row_is_the_models_own_answer_to_the_picture_alone(job: Job, annotations: Path) -> None:
    """Whatever its neighbours are: a batch of nothing else gives the same, in one of its places."""
    archives = ImageArchives(job.images)
    places = {row["id"]: row for row in pl.read_parquet(job.kept / "posts-*.parquet").to_dicts()}
    for asked in asked_models(Annotate.model_validate(job.settings), job.models, "cpu"):
        model, found = asked.open(), rows_of(annotations, asked.kind)
        assert model.schema == SCHEMAS[asked.kind]
        for post in [10, *list(found)[::40]]:
            answers = model.describe([decode(archives.read(places[post]))] * 2)
            assert found[post] in pl.DataFrame(answers, schema=SCHEMAS[asked.kind], orient="row").rows(), (asked.kind, post)


def test_answers_differ_from_picture_to_picture(annotations: Path) -> None:
    for kind in KINDS:
        found = list(rows_of(annotations, kind).values())
        assert len({str(row) for row in found}) > len(found) // 2


def test_the_reader_is_asked_where_metadata_or_tagger_say_that_there_is_text(annotations: Path) -> None:
    place = 4 + GENERAL.index("english_text")
    tagged = {
        post
        for post, (_, tags, probabilities) in rows_of(annotations, "tags").items()
        if dict(zip(tags, probabilities, strict=True)).get(place, 0) >= 0.35
    }
    assert tagged - WITH_TEXT and len(tagged) < len(IDS) - 5
    assert set(rows_of(annotations, "text")) == tagged | WITH_TEXT


def test_what_the_models_are_is_told(job: Job, annotations: Path) -> None:
    told = json.loads((annotations / "models.json").read_text())
    assert told["text"]["prompt"] == job.settings["text"]["prompt"]
    assert set(told["tags"]["files"]["annotate.tags"]) == {"model.onnx", "selected_tags.csv"}
    assert set(told["quality"]["files"]) == {"annotate.quality", "annotate.quality.clip"}
    assert str(job.folder) not in json.dumps(told)


ONLY_TAGS = ("annotate.aesthetic=", "annotate.quality=", "annotate.text=")


def run(job: Job, output: Path, *settings: str, processes: int = 1) -> Path:
    arguments = job.arguments(output, *settings, processes=processes)
    result = run_script("annotate_images.py", *arguments, STATE_ROOT=str(output.parent / "state"))
    assert result.returncode == 0, result.stderr
    return output


def test_two_workers_of_a_process_write_the_same(job: Job, annotations: Path, tmp_path: Path) -> None:
    output = run(job, tmp_path / "out", *ONLY_TAGS, processes=2)
    assert folder_bytes(output / "tags") == folder_bytes(annotations / "tags")


def portions(state: Path) -> dict[Path, int]:
    """The files of finished portions and when they were written."""
    return {path: path.stat().st_mtime_ns for path in state.glob("annotate/*/??/*.parquet")}


def test_a_killed_run_goes_on_to_the_same_bytes(job: Job, annotations: Path, tmp_path: Path) -> None:
    """Workers die with their parent; what they have finished stays."""
    command = [sys.executable, "stages/annotate_images.py", *job.arguments(tmp_path / "out", *ONLY_TAGS, processes=2)]
    state = tmp_path / "state"
    running = subprocess.Popen(
        command, env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not portions(state):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out").exists()
    before = portions(state)
    run(job, tmp_path / "out", *ONLY_TAGS)
    assert folder_bytes(tmp_path / "out" / "tags") == folder_bytes(annotations / "tags")
    assert portions(state).items() >= before.items()


def test_what_is_known_is_not_asked_again(job: Job, tmp_path: Path, own_state: Path) -> None:
    """Another model, other thresholds and more posts leave what is there; only what is new is worked off."""
    asked: list[str] = []
    with counted(asked):
        _ask_for_more_and_more(job, tmp_path, asked)


def _ask_for_more_and_more(job: Job, tmp_path: Path, asked: list[str]) -> None:
    job.here(tmp_path / "a", *ONLY_TAGS)
    assert asked and all(task.startswith("tags") for task in asked)
    asked.clear()
    job.here(tmp_path / "a", *ONLY_TAGS, "caption.general_threshold=0.5")
    assert asked == []
    with_scores = job.here(tmp_path / "b", *ONLY_TAGS[1:])
    assert asked and all(task.startswith("aesthetic") for task in asked)
    assert rows_of(with_scores, "tags") == rows_of(tmp_path / "a", "tags")
    asked.clear()
    posts = [metadata_post(i, tags=[1]) for i in [*IDS, 261]]
    job.of(tmp_path / "more", posts).here(tmp_path / "c", *ONLY_TAGS)
    assert 1 <= len(asked) <= 2
    found = rows_of(tmp_path / "c", "tags")
    assert {i: found[i] for i in IDS} == rows_of(tmp_path / "a", "tags")


def test_alone_a_picture_is_asked_of_once_wherever_it_stands(job: Job, tmp_path: Path, own_state: Path) -> None:
    """With a batch_size of 1: one picture in three is new, some are equal, one is gone; the bytes are those of a fresh run."""
    alone = (*ONLY_TAGS, "annotate.batch_size=1")
    old = job.of(tmp_path / "old", kept_posts([i for i in range(1, 200) if i % 3], tags=[1]))
    twins = {61: tiny_picture(60), 63: tiny_picture(60), 65: tiny_picture(64)}
    new = job.of(tmp_path / "new", kept_posts([i for i in range(1, 200) if i != 7], tags=[1]), twins)
    asked: list[str] = []
    with counted(asked):
        old.here(tmp_path / "a", *alone)
        assert sum(int(task.split()[1]) for task in asked) == len([i for i in range(1, 200) if i % 3])
        asked.clear()
        new.here(tmp_path / "b", *alone)
        assert sum(int(task.split()[1]) for task in asked) == len([i for i in range(1, 200) if not i % 3]) - 1
        asked.clear()
        old.here(tmp_path / "c", *alone)
        assert asked == []
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "c")
    with states_below(tmp_path / "other"):
        new.here(tmp_path / "d", *alone)
    assert folder_bytes(tmp_path / "b") == folder_bytes(tmp_path / "d")
    found = rows_of(tmp_path / "b", "tags")
    assert found[60] == found[61] == found[63] != found[64] == found[65]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('annotate.aesthetic.label="lovely"', r"annotate\.aesthetic\.label: 'lovely' is no label"),
        ('annotate.text.prompt="what?"', r"annotate\.text\.prompt: .* must say <image> once"),
        ("annotate.text.max_length=5", r"annotate\.text\.max_length: 5, but the prompt alone has"),
        ('annotate.text.only_tags=["engish_text"]', r"annotate\.text\.only_tags: .*'engish_text'"),
    ],
)
def test_mistakes_of_any_model_are_told_before_the_first_picture(
    job: Job, tmp_path: Path, own_state: Path, setting: str, message: str
) -> None:
    asked: list[str] = []
    with counted(asked), pytest.raises(StageError, match=message):
        job.here(tmp_path / "out", setting)
    assert asked == []
    assert not own_state.exists()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_answer_that_is_no_number_names_the_post(tmp_path: Path, own_state: Path, batch_size: int) -> None:
    broken = Job(tmp_path / "job")
    light = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(light, "WEBP", lossless=True)
    job = broken.of(tmp_path / "posts", kept_posts(range(1, 8), tags=[1]), {6: light.getvalue()})
    break_for_light(broken.models / "tags" / "model.onnx")
    text = refused(job, tmp_path / "out", *ONLY_TAGS, f"annotate.batch_size={batch_size}")
    assert text.startswith("post 6: ") and "its answers are not numbers from 0 to 1" in text


def break_for_light(path: Path) -> None:
    """Let the tagger answer NaN to white pictures alone: by the root of what only they make negative."""
    model, make = onnx.load(path), onnx.helper.make_node
    (last,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    last.input[0] = "broken"
    model.graph.initializer.append(onnx.helper.make_tensor("limit", onnx.TensorProto.FLOAT, [1], [254.9]))
    nodes = [
        make("ReduceMean", ["flat"], ["light"], axes=[1], keepdims=1),
        make("Sub", ["limit", "light"], ["rest"]),
        make("Sqrt", ["rest"], ["root"]),
        make("Sub", ["root", "root"], ["zero"]),
        make("Add", ["logits", "zero"], ["broken"]),
    ]
    place = list(model.graph.node).index(last)
    for number, node in enumerate(nodes):
        model.graph.node.insert(place + number, node)
    onnx.save(model, path)


@pytest.mark.parametrize("setting", ["annotate.batch_size=3", 'annotate.tags.preprocess="imgutils"', "annotate.tags.floor=0.3"])
def test_other_settings_are_another_state(job: Job, tmp_path: Path, own_state: Path, setting: str) -> None:
    job.here(tmp_path / "a", *ONLY_TAGS)
    job.here(tmp_path / "b", *ONLY_TAGS, setting)
    assert len(list(own_state.iterdir())) == 2


def test_with_no_model_the_folder_says_so(job: Job, tmp_path: Path, own_state: Path) -> None:
    output = job.here(tmp_path / "out", *(f"annotate.{kind}=" for kind in KINDS))
    assert annotated_kinds(output) == []
    assert sorted(path.name for path in output.iterdir()) == ["MANIFEST.json", "models.json"]


def test_no_picture_with_text_leaves_empty_shards(tmp_path: Path, own_state: Path, job: Job) -> None:
    alone = job.of(tmp_path, kept_posts([5, 105], tags=[1]))
    output = alone.here(tmp_path / "out", "annotate.tags=", "annotate.aesthetic=", "annotate.quality=")
    frames = [pl.read_parquet(file) for file in sorted((output / "text").glob("*.parquet"))]
    assert [frame.shape for frame in frames] == [(0, 2), (0, 2)]


def refused(job: Job, output: Path, *settings: str) -> str:
    with pytest.raises(StageError) as error:
        job.here(output, *settings)
    assert not output.exists()
    return str(error.value)


def test_what_is_refused_names_file_or_tag(job: Job, tmp_path: Path, own_state: Path) -> None:
    text = refused(job, tmp_path / "out", 'annotate.text.only_tags=["engish_text"]')
    assert "annotate.text.only_tags" in text and "'engish_text'" in text
    assert "nowhere/model.onnx: no such file" in refused(job, tmp_path / "out", 'annotate.tags.path="nowhere"')
    digest = {"model.onnx": "0" * 64}
    text = refused(job, tmp_path / "out", f"annotate.tags.sha256={json.dumps(digest)}")
    assert "model.onnx" in text and "0" * 64 in text


def test_a_picture_that_cannot_be_read_is_named(job: Job, tmp_path: Path, own_state: Path) -> None:
    whole = tiny_picture(7)
    broken = job.of(tmp_path, kept_posts([5, 7, 9], tags=[1]), {7: whole[: len(whole) // 2]})
    text = refused(broken, tmp_path / "out", *ONLY_TAGS)
    assert text.startswith("post 7: its picture in data-0000.tar cannot be read")


def test_a_changed_archive_is_noticed(job: Job, tmp_path: Path, own_state: Path) -> None:
    changed = job.of(tmp_path, kept_posts([5, 7], tags=[1]))
    archive = changed.images / "data-0000.tar"
    data = bytearray(archive.read_bytes())
    data[512 + 20] ^= 1
    archive.write_bytes(data)
    assert "the image of post 5 is not the one that was indexed" in refused(changed, tmp_path / "out", *ONLY_TAGS)


def test_a_folder_of_somebodys_files_is_left_alone(job: Job, tmp_path: Path) -> None:
    own = tmp_path / "thesis"
    own.mkdir()
    (own / "chapter.txt").write_text("years of work")
    with pytest.raises(StageError, match=r"no MANIFEST\.json in it says that a stage wrote it"):
        job.here(own)
    assert folder_bytes(own) == {"chapter.txt": b"years of work"}


def test_posts_of_an_earlier_stage_are_refused(job: Job, tmp_path: Path, own_state: Path) -> None:
    early = job.of(tmp_path, kept_posts([1]))
    early.kept = make_metadata(tmp_path / "posts", kept_posts([1, 2]))
    assert "have no column archive; name the folder of the filter stage" in refused(early, tmp_path / "out")
