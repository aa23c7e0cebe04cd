"""The caption stage as a process, and in this process where its workers are to be seen."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from repro import processes
from repro.errors import StageError
from repro.hashing import check_manifest
from repro.processes import run_workers

import polars as pl
import pytest
from tiny_booru import (
    FIRST_PICTURE,
    TAGS,
    folder_bytes,
    make_database,
    make_metadata,
    make_tables,
    metadata_post,
    post,
    refusal,
    run_script,
    seal_metadata,
)

import caption_posts
from booru.captioning import caption_sources
from booru.metadata import relations

GOLDEN_KEYS = {
    "kohaku-xl-delta": "delta_2024_02_14",
    "kohaku-xl-epsilon": "epsilon_2024_04_12",
    "hakubooru-delta": "delta",
    "hakubooru-epsilon": "epsilon",
}
# (id, changes to a plain post): awkward ones, and a hundred more.
CHANGES = [
    (5, {"tags": [3, 1, 7, 8, 5, 2, 9, 10]}),
    (6, {"tags": []}),
    (7, {"tags": [4, 3, 3, 6, 5, 7], "created_at": "2023-01-01", "rating": 1, "fav_count": 1000}),
    *((100 + i, {"tags": [i % 13 + 1, 5], "fav_count": i}) for i in range(100)),
    (7_200_000, {"tags": [1, 7], "rating": 3, "created_at": "2024-12-31"}),
]
IDS = [post_id for post_id, _ in CHANGES]
TEXTS = {
    5: "1girl, mika (lorelei), lorelei, lisa w, |||long hair, solo, highres, mid, safe, normal quality",
    6: ", |||mid, safe, normal quality",
    7: "mika (lorelei), lisa w, |||^_^, long hair, long hair, newest, sensitive, masterpiece",
    7_200_000: "1girl, mika (lorelei), |||newest, explicit, nsfw",
}


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return make_metadata(tmp_path / "posts", [metadata_post(i, **changes) for i, changes in CHANGES], shard_posts=100)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return make_database(tmp_path / "metadata.db", [post(i, **changes) for i, changes in CHANGES])


def outputs(output: Path) -> list[object]:
    """All outputs of a run lie in the folder `output`."""
    return [
        "--output", output / "captions", "--report", output / "captions.json",
        "--artists", output / "artists.json", "--characters", output / "characters.json",
    ]  # fmt: skip


def caption(output: Path, *arguments: object, **environment: str) -> Path:
    result = run_script("caption_posts.py", *outputs(output), *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return output


def caption_here(output: Path, *arguments: object) -> Path:
    """The stage in this process, which starts half a second sooner."""
    caption_posts.main(list(map(str, [*outputs(output), *arguments])))
    return output


def refused(output: Path, *arguments: object) -> str:
    """The complaint of a run that must fail without writing anything."""
    text = refusal("caption_posts.py", *outputs(output), *arguments)
    assert not output.exists()
    return text


def lines(output: Path) -> dict[int, str]:
    """Captions by id, after a look at the file's form."""
    text = (output / "captions" / "captions.jsonl").read_bytes()
    assert text == b"" or text.endswith(b"\n")
    rows = [json.loads(line) for line in text.splitlines()]
    assert all(list(row) == ["id", "caption"] for row in rows)
    ids = [row["id"] for row in rows]
    assert ids == sorted(set(ids))
    return {row["id"]: row["caption"] for row in rows}


def report(output: Path) -> dict:
    return json.loads((output / "captions.json").read_text(encoding="utf-8"))


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN_KEYS)
def test_a_database_is_captioned_as_by_the_reference(golden: Path, tmp_path: Path, name: str):
    database = golden / "captions" / "golden2k.db"
    options = ["--database", database, "--profile", name, "--out", tmp_path / "out" / "captions", "--format", "jsonl"]
    result = run_script("caption_posts.py", *options)
    assert result.returncode == 0, result.stderr
    captions = lines(tmp_path / "out")
    with sqlite3.connect(database) as db:
        assert list(captions) == [i for (i,) in db.execute("SELECT id FROM post ORDER BY id")]
    answers = json.loads((golden / "captions" / "captions.json").read_text(encoding="utf-8"))
    differing = {i: captions[int(i)] for i, answer in answers.items() if captions[int(i)] != answer[GOLDEN_KEYS[name]]}
    assert not differing


def test_shards_lists_and_report(posts: Path, tmp_path: Path):
    output = caption(tmp_path / "out", "--posts", posts, "--format", "jsonl")
    manifest = check_manifest(output / "captions")
    assert manifest["revision"] == "a" * 64
    assert sorted(manifest["files"]) == [
        "captions-00000.parquet", "captions-00001.parquet", "captions-72000.parquet", "captions.jsonl",
        "not_captioned.parquet", "words.parquet",
    ]  # fmt: skip
    captions = lines(output)
    assert list(captions) == IDS
    assert {i: captions[i] for i in TEXTS} == TEXTS

    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    assert frame.schema == {"id": pl.Int64, "repeats": pl.Int32, "keep": pl.List(pl.UInt32), "general": pl.List(pl.UInt32)}
    assert frame["repeats"].to_list() == [1] * len(IDS)
    words = pl.read_parquet(output / "captions" / "words.parquet")["word"].to_list()
    for post_id, _, keep, general in frame.iter_rows():
        assert ", ".join(words[i] for i in keep) + ", |||" + ", ".join(words[i] for i in general) == captions[post_id]

    assert json.loads((output / "artists.json").read_text()) == {"lisa_w": {"posts": 102, "class": ">= 100"}}
    mika = 3 + sum(7 in changes["tags"] for i, changes in CHANGES if 100 <= i < 200)
    assert json.loads((output / "characters.json").read_text()) == {"mika_(lorelei)": {"posts": mika, "class": "< 100"}}

    told = report(output)
    assert (told["revision"], told["profile"], told["percentiles"]) == ("a" * 64, "kohaku-xl-epsilon", "table")
    assert (told["posts"], told["not_captioned"]) == (len(IDS), {})
    assert told["favourites_at_percentile"]["general"]["90"] == 27
    counts = told["posts_with_word"]
    assert (counts["safe"], counts["sensitive"], counts["explicit"], counts["nsfw"]) == (102, 1, 1, 1)
    assert (counts["newest"], counts["mid"], counts["old"]) == (2, 102, 0)
    assert counts["masterpiece"] == 1 + sum(i > 27 for i in range(100))


def test_without_jsonl_there_are_shards_alone_and_they_are_the_same(posts: Path, tmp_path: Path):
    with_text = folder_bytes(caption_here(tmp_path / "a", "--posts", posts, "--format", "jsonl") / "captions")
    without = folder_bytes(caption_here(tmp_path / "b", "--posts", posts) / "captions")
    assert with_text.keys() - without.keys() == {"captions.jsonl"}
    assert all(with_text[name] == data for name, data in without.items() if name != "MANIFEST.json")
    contents = [json.loads(files["MANIFEST.json"])["content"] for files in (with_text, without)]
    assert contents[0] == contents[1]


def test_shards_databases_and_tables_give_the_same_captions(posts: Path, database: Path, tmp_path: Path):
    without_index = make_database(tmp_path / "bare.db", [post(i, **changes) for i, changes in reversed(CHANGES)])
    with sqlite3.connect(without_index) as db:
        db.execute("DROP INDEX posttagrelation_post_id")
    sources = [
        ("--posts", posts),
        ("--database", database),
        ("--database", without_index),
        ("--database", make_tables(tmp_path / "tables", database)),
    ]
    found = [caption_here(tmp_path / f"out {i}", *source, "--format", "jsonl") for i, source in enumerate(sources)]
    texts = {(output / "captions" / "captions.jsonl").read_bytes() for output in found}
    assert len(texts) == 1
    assert {i: lines(found[1])[i] for i in TEXTS} == TEXTS
    assert len({(output / "artists.json").read_bytes() for output in found}) == 1
    assert [{**report(output), "revision": None} for output in found] == [report(found[1])] * 4
    assert not (found[1] / "captions" / "relations").exists()


def test_names_that_json_must_escape_come_back_whole(tmp_path: Path):
    names = ['"quoted"', "back\\slash", "new\nline", "tab\tbed", "\u2028apart", "ミク_é", "👩‍👧", "\x01low", "</tag>", "a, b"]
    tags = [(i, name, 0) for i, name in enumerate(names, start=1)]
    database = make_database(tmp_path / "m.db", [post(i, tags=[i]) for i, _, _ in tags], tags=tags)
    captions = lines(caption_here(tmp_path / "out", "--database", database, "--format", "jsonl"))
    assert list(captions.values()) == [f", |||{name.replace('_', ' ')}, mid, safe, normal quality" for name in names]


def test_repeats_are_carried_through(posts: Path, tmp_path: Path):
    for shard in posts.glob("posts-*.parquet"):
        frame = pl.read_parquet(shard)
        frame.with_columns(repeats=(pl.col("id") % 6 + 1).cast(pl.Int32)).write_parquet(shard)
    seal_metadata(posts)
    output = caption_here(tmp_path / "out", "--posts", posts)
    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    assert frame["repeats"].to_list() == [i % 6 + 1 for i in IDS]


LACKING = [
    post(1),
    post(2, rating=None),
    post(3, fav_count=None),
    post(4, rating=None, fav_count=None),
    post(5, created_at=None),
]


def test_database_posts_without_rating_or_favourites_are_listed_with_the_reason(tmp_path: Path):
    database = make_database(tmp_path / "m.db", LACKING)
    output = caption_here(tmp_path / "out", "--database", database, "--format", "jsonl")
    assert list(lines(output)) == [1, 5]
    assert lines(output)[5].endswith("|||long hair, solo, early, safe, normal quality")
    skipped = pl.read_parquet(output / "captions" / "not_captioned.parquet")
    assert skipped.rows() == [(2, "no rating"), (3, "no favourite count"), (4, "no rating")]
    assert report(output)["not_captioned"] == {"no favourite count": 1, "no rating": 2}
    assert report(output)["posts"] == 2


def test_folder_pictures_lack_only_the_words_of_what_they_lack(tmp_path: Path):
    pictures = [metadata_post(FIRST_PICTURE + i, **changes) for i, changes in enumerate([{"rating": None}, {"rating": 1}])]
    rows = [metadata_post(1), metadata_post(2, rating=None), *pictures]
    posts = make_metadata(tmp_path / "posts", rows)
    output = caption_here(tmp_path / "out", "--posts", posts, "--format", "jsonl")
    start = "1girl, mika (lorelei), lorelei, lisa w, |||long hair, solo"
    assert lines(output) == {
        1: f"{start}, mid, safe, normal quality",
        FIRST_PICTURE: f"{start}, early",
        FIRST_PICTURE + 1: f"{start}, early, sensitive",
    }
    assert pl.read_parquet(output / "captions" / "not_captioned.parquet").rows() == [(2, "no rating")]


def test_scores_of_a_model_become_words_where_the_posts_have_them(posts: Path, tmp_path: Path):
    shard = posts / "posts-00000.parquet"
    frame = pl.read_parquet(shard)
    frame.with_columns(aesthetic_score=pl.Series([0.95, None, 0.05])).write_parquet(shard)
    seal_metadata(posts)
    captions = lines(caption_here(tmp_path / "out", "--posts", posts, "--profile", "sotediffusion", "--format", "jsonl"))
    assert captions[5] == "extremely aesthetic, mid, general, mika, lorelei, lorelei, long hair, 1girl, solo"
    assert captions[6] == "mid, general"
    assert captions[7] == "very displeasing, newest, sensitive, mika, lorelei, ^_^, long hair, long hair"
    assert captions[7_200_000] == "newest, explicit nsfw, mika, lorelei, 1girl"


@pytest.mark.parametrize("kind", ["posts", "database"])
def test_percentiles_of_the_selection_change_the_words(kind: str, tmp_path: Path):
    values = [{"id": i, "fav_count": 100 + i, "tags": []} for i in range(1, 101)]
    if kind == "posts":
        rows = [metadata_post(row.pop("id"), **row) for row in values]
        source = make_metadata(tmp_path / "posts", rows, shard_posts=30)
    else:
        rows = [post(row.pop("id"), **row) for row in values]
        source = make_database(tmp_path / "m.db", [*rows, post(200, fav_count=None), post(7_200_000, fav_count=10**6)])
    table = caption(tmp_path / "table", f"--{kind}", source, "--format", "jsonl")
    assert set(lines(table).values()) >= {", |||mid, safe, masterpiece"}
    assert report(table)["posts_with_word"]["worst quality"] == 0
    selection = caption(
        tmp_path / "selection", f"--{kind}", source, "--format", "jsonl", "--set", "caption.percentiles=selection"
    )
    told = report(selection)
    assert told["percentiles"] == "selection"
    thresholds = {str(p): 100 + p for p in (10, 30, 45, 60, 75, 90)}
    assert told["favourites_at_percentile"]["general"] == thresholds
    assert told["favourites_at_percentile"]["explicit"]["90"] == 190  # no such posts: the profile's table
    captions = lines(selection)
    ends = {i: captions[i].removeprefix(", |||mid, safe, ") for i in (1, 10, 11, 30, 31, 90, 91, 100)}
    assert ends == {
        1: "worst quality", 10: "worst quality", 11: "low quality", 30: "low quality", 31: "normal quality",
        90: "best quality", 91: "masterpiece", 100: "masterpiece",
    }  # fmt: skip
    assert told["posts_with_word"]["masterpiece"] == 10


def test_the_option_overrules_the_parameter(posts: Path, tmp_path: Path):
    by_parameter = caption_here(tmp_path / "a", "--posts", posts, "--set", "caption.profile=kohaku-xl-delta")
    by_option = caption_here(tmp_path / "b", "--posts", posts, "--profile", "kohaku-xl-delta")
    assert folder_bytes(by_parameter) == folder_bytes(by_option)
    assert "banned_artist" in json.loads((by_option / "artists.json").read_text())


def test_no_posts_and_no_tags(tmp_path: Path):
    empty = caption_here(tmp_path / "a", "--database", make_database(tmp_path / "empty.db", []), "--format", "jsonl")
    assert lines(empty) == {}
    assert report(empty)["posts"] == 0
    check_manifest(empty / "captions")
    bare = make_database(tmp_path / "bare.db", [post(1, tags=[]), post(2, tags=[77])], tags=[])
    output = caption_here(tmp_path / "b", "--database", bare, "--format", "jsonl")
    assert lines(output) == dict.fromkeys((1, 2), ", |||mid, safe, normal quality")
    counts = report(output)["posts_with_word"]
    assert {word: count for word, count in counts.items() if count} == {"mid": 2, "safe": 2, "normal quality": 2}


@pytest.mark.parametrize("kind", ["posts", "database"])
def test_same_bytes_from_one_and_from_two_processes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request):
    monkeypatch.setattr(relations, "POSTS_OF_A_BLOCK", 50)
    source = request.getfixturevalue(kind)
    options = [f"--{kind}", source, "--format", "jsonl", "--set"]
    alone = folder_bytes(caption_here(tmp_path / "alone", *options, "runtime.processes=1"))
    monkeypatch.setattr(caption_sources, "SHARD_BYTES_FOR_A_PROCESS", 1)
    monkeypatch.setattr(caption_sources, "DATABASE_BYTES_FOR_A_PROCESS", 1)
    started = []

    def watched(function, items, count):
        started.append(count)
        return run_workers(function, items, count)

    monkeypatch.setattr(processes, "run_workers", watched)
    assert folder_bytes(caption_here(tmp_path / "together", *options, "runtime.processes=2")) == alone
    assert started == [2]
    assert len([name for name in alone if name.startswith("captions/captions-")]) >= 2


def test_same_bytes_in_any_surroundings(database: Path, tmp_path: Path):
    surroundings = (
        {"PYTHONHASHSEED": "1", "POLARS_MAX_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "POLARS_MAX_THREADS": "4", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
    )
    found = [
        folder_bytes(caption(tmp_path / str(i), "--database", database, "--format", "jsonl", **environment))
        for i, environment in enumerate(surroundings)
    ]
    assert found[0] == found[1]


def many_posts(folder: Path, n_posts: int) -> Path:
    """A database as parquet tables, large enough that its run can be met in the middle."""
    folder.mkdir()
    ids = [20 * i + 1 for i in range(n_posts)]
    columns = {"created_at": "2015-03-04T05:06:07.089-05:00", "rating": 1, "fav_count": 20}
    pl.DataFrame({"id": ids}).with_columns(pl.lit(v).alias(k) for k, v in columns.items()).write_parquet(folder / "post.parquet")
    tags = pl.DataFrame(TAGS, schema={"id": pl.Int64, "name": pl.String, "type": pl.Int64}, orient="row")
    tags.write_parquet(folder / "tag.parquet")
    pairs = pl.DataFrame({"post_id": ids}).join(tags.select(tag_id="id"), how="cross").sample(fraction=0.8, seed=5)
    pairs.with_row_index("id").write_parquet(folder / "posttagrelation.parquet")
    return folder


@pytest.mark.parametrize("moment", ["relations", "captions-00000.parquet"])
def test_killed_in_the_middle_it_leaves_no_output_and_the_next_run_is_as_any(moment: str, tmp_path: Path):
    arguments = ["--database", many_posts(tmp_path / "tables", 60_000), "--format", "jsonl"]
    undisturbed = caption(tmp_path / "undisturbed", *arguments)
    output = tmp_path / "killed"
    command = [sys.executable, "stages/caption_posts.py", *map(str, [*outputs(output), *arguments])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = output / ".captions.partial" / moment
    while process.poll() is None and not partial.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sorted(path.name for path in output.iterdir()) == [".captions.partial"]
    assert folder_bytes(caption(output, *arguments)) == folder_bytes(undisturbed)


@pytest.mark.parametrize("kind", ["posts", "database"])
def test_a_full_disk_leaves_nothing(kind: str, tiny_disk: Path, tmp_path: Path):
    draws = random.Random(5)
    tags = [(i, draws.randbytes(300).hex(), 0) for i in range(1, 400)]
    if kind == "posts":
        source = make_metadata(tmp_path / "posts", [metadata_post(i, tags=[i]) for i in range(1, 400)], tags=tags)
    else:
        source = make_database(tmp_path / "m.db", [post(i, tags=[i] * 200) for i in range(1, 400)], tags=tags)
    text = refusal("caption_posts.py", f"--{kind}", source, "--out", tiny_disk / "captions", "--report", tmp_path / "r.json")
    assert "no space left on the device" in text
    assert str(tiny_disk / "captions") in text
    assert not list(tiny_disk.iterdir())
    assert not (tmp_path / "r.json").exists()


def test_posts_or_a_database_must_be_named_and_not_both(posts: Path, database: Path, tmp_path: Path):
    for sources, complaint in (
        (["--posts", posts, "--database", database], "argument --database: not allowed with argument --posts"),
        ([], "one of the arguments --posts --database is required"),
    ):
        result = run_script("caption_posts.py", *outputs(tmp_path / "out"), *sources)
        assert result.returncode == 2
        assert complaint in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebodys_files_is_refused_and_left_as_it_is(posts: Path, tmp_path: Path):
    own = tmp_path / "thesis"
    own.mkdir()
    (own / "chapter.txt").write_text("years of work")
    text = refusal("caption_posts.py", "--posts", posts, "--out", own)
    assert "thesis: it is there, and no MANIFEST.json in it says that a stage wrote it" in text
    assert folder_bytes(own) == {"chapter.txt": b"years of work"}


def test_an_older_output_is_replaced(posts: Path, tmp_path: Path):
    first = folder_bytes(caption_here(tmp_path / "out", "--posts", posts))
    caption_here(tmp_path / "out", "--posts", posts, "--profile", "sotediffusion", "--format", "jsonl")
    assert folder_bytes(caption_here(tmp_path / "out", "--posts", posts)) == first


def test_an_unknown_profile_names_the_known_ones(posts: Path, tmp_path: Path):
    known = "there are kohaku-xl-delta, kohaku-xl-epsilon, hakubooru-delta, hakubooru-epsilon, sotediffusion,"
    for setting in (["--profile", "kohaku-beta"], ["--set", "caption.profile=kohaku-beta"]):
        text = refused(tmp_path / "out", "--posts", posts, *setting)
        assert f"there is no profile 'kohaku-beta'; {known} sotediffusion-scripts" in text


def test_inputs_that_are_missing_or_of_another_kind(posts: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert "none: no such folder" in refused(output, "--posts", tmp_path / "none")

    def complaint(*source: object) -> str:
        with pytest.raises(StageError) as error:
            caption_posts.main(list(map(str, [*outputs(output), *source])))
        assert not output.exists()
        return str(error.value)

    assert "no such metadata database" in complaint("--database", tmp_path / "none.db")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE post (id INTEGER PRIMARY KEY, rating INTEGER)")
    assert "other.db: table post has no column created_at; it has id, rating" in complaint("--database", other)
    assert "no table tag" in complaint("--database", make_only_posts(tmp_path / "posts.db"))
    shard = posts / "posts-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert "posts-00001.parquet: missing, unexpected or changed since it was written" in complaint("--posts", posts)


def make_only_posts(path: Path) -> Path:
    make_database(path, [post(1)])
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE tag")
    return path
