"""The caption stage with what models say of the pictures."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import polars as pl
import pytest
from tiny_annotations import PREFIX, kept_posts, tagger_row, write_annotations, write_kept
from tiny_booru import FIRST_PICTURE, TAGS, folder_bytes, make_database, make_metadata, metadata_post, post, run_script
from tiny_pictures import tiny_picture

import caption_posts

# Asked of the recipe that stands in params.yaml, which has no models of its own.
TAGGER = 'annotate.tags={"path": "wd", "hub": null, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.1}'
AESTHETIC = 'annotate.aesthetic={"path": "shadow", "hub": null, "sha256": {}, "label": "hq"}'
RECIPE = [TAGGER, AESTHETIC, "caption.tags=annotations", "caption.profile=sotediffusion"]
PICTURE = FIRST_PICTURE + 5
IDS = [1, 2, 3, 4, 5, 101, 102, PICTURE]
FOUND = {
    "tags": {
        1: tagger_row({"1girl": 0.9, "solo": 0.8, "skadi_(arknights)": 0.9, "amiya_(arknights)": 0.4}),
        2: tagger_row({"1girl": 0.9, "loli": 0.5}),
        3: tagger_row({"1girl": 0.9}, "explicit"),
        4: tagger_row({"1girl": 0.9, "skadi_(arknights)": 0.7, "saber_(fate)": 0.6}, "sensitive"),
        5: tagger_row({"solo": 0.36}),
        101: tagger_row({}),
        102: tagger_row({"skadi_(arknights)": 0.5}),
        PICTURE: tagger_row({"long_hair": 0.9}),
    },
    "aesthetic": {i: {"score": score} for i, score in zip(IDS, (0.95, 0.95, 0.95, 0.6, 0.05, 0.45, 0.75, 0.95), strict=True)},
    "quality": {i: {"score": 0.6} for i in IDS},
    "text": {4: {"answer": f'{PREFIX} The text says "Hello, world!".'}, PICTURE: {"answer": f"{PREFIX} "}},
}
TEXTS = {
    1: "extremely aesthetic, medium quality, mid, general, skadi, arknights, 1girl, solo",
    4: 'slightly aesthetic, medium quality, mid, sensitive, saber, fate, skadi, arknights, 1girl, The text says "Hello. world!"',
    5: "very displeasing, medium quality, mid, general, solo",
    101: "not displeasing, medium quality, mid, general",
    102: "aesthetic, medium quality, mid, general, skadi, arknights",
    PICTURE: "extremely aesthetic, medium quality, visual_novel_cg, general, long hair",
}


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    rows = [metadata_post(i, tags=[3, 1, 7, 5]) for i in IDS[:-1]] + [metadata_post(PICTURE, rating=None, tags=[30])]
    return write_kept(tmp_path, rows, tags=[*TAGS, (30, "visual_novel_cg", 5)])[0]


@pytest.fixture
def annotations(posts: Path, tmp_path: Path) -> Path:
    return write_annotations(tmp_path / "annotations", FOUND, kept=posts)


def options(posts: Path, annotations: Path, output: Path, *settings: str) -> list[str]:
    return [
        "--posts", str(posts), "--annotations", str(annotations), "--output", str(output / "captions"), "--format", "jsonl",
        "--report", str(output / "captions.json"), "--characters", str(output / "characters.json"),
        "--artists", str(output / "artists.json"), *(word for setting in settings for word in ("--set", setting)),
    ]  # fmt: skip


def caption(posts: Path, annotations: Path, output: Path, *settings: str) -> Path:
    caption_posts.main(options(posts, annotations, output, *settings))
    return output


def lines(output: Path) -> dict[int, str]:
    rows = [json.loads(line) for line in (output / "captions" / "captions.jsonl").read_text().splitlines()]
    return {row["id"]: row["caption"] for row in rows}


def skipped(output: Path) -> list[tuple]:
    return pl.read_parquet(output / "captions" / "not_captioned.parquet").rows()


def read(output: Path, name: str) -> dict:
    return json.loads((output / name).read_text())


def test_captions_are_what_the_models_say(posts: Path, annotations: Path, tmp_path: Path):
    result = run_script("caption_posts.py", *options(posts, annotations, tmp_path / "out", *RECIPE))
    assert result.returncode == 0, result.stderr
    output = tmp_path / "out"
    assert lines(output) == TEXTS
    assert skipped(output) == [(2, "blocked tag"), (3, "rating not allowed")]
    check_manifest(output / "captions")
    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    words = pl.read_parquet(output / "captions" / "words.parquet")["word"].to_list()
    assert {i: ", ".join(words[w] for w in general) for i, _, keep, general, _ in frame.iter_rows() if not keep} == TEXTS
    assert "loli" not in {words[w] for _, _, _, general, _ in frame.iter_rows() for w in general}
    assert frame["repeats"].to_list() == [1] * len(TEXTS)
    names = pl.read_parquet(output / "captions" / "characters.parquet")["name"].to_list()
    assert frame.schema["characters"] == pl.List(pl.UInt32)
    assert {i: [names[n] for n in row] for i, row in zip(frame["id"], frame["characters"].to_list(), strict=True) if row} == {
        1: ["skadi_(arknights)"], 4: ["saber_(fate)", "skadi_(arknights)"], 102: ["skadi_(arknights)"],
    }  # fmt: skip


def test_lists_have_the_boorus_names_and_the_report_the_reasons(posts: Path, annotations: Path, tmp_path: Path):
    output = caption(posts, annotations, tmp_path / "out", *RECIPE)
    assert read(output, "characters.json") == {
        "skadi_(arknights)": {"posts": 3, "class": "< 100"},
        "saber_(fate)": {"posts": 1, "class": "< 100"},
    }
    assert list(read(output, "characters.json")) == ["skadi_(arknights)", "saber_(fate)"]
    assert read(output, "artists.json") == {}
    told = read(output, "captions.json")
    assert (told["posts"], told["tags"]) == (len(TEXTS), "annotations")
    assert told["not_captioned"] == {"blocked tag": 1, "rating not allowed": 1}
    counts = {word: count for word, count in told["posts_with_word"].items() if count}
    assert counts == {
        "aesthetic": 1, "extremely aesthetic": 2, "general": 5, "medium quality": 6, "mid": 5, "not displeasing": 1,
        "sensitive": 1, "slightly aesthetic": 1, "very displeasing": 1,
    }  # fmt: skip


def test_with_the_metadatas_tags_scores_and_texts_are_used(posts: Path, annotations: Path, tmp_path: Path):
    """The ratings of the metadata were the filter's; the tagger's blocked tags count all the same."""
    output = caption(posts, annotations, tmp_path / "out", "caption.profile=sotediffusion")
    assert skipped(output) == [(2, "blocked tag")]
    start = "medium quality, mid, general, mika, lorelei, long hair, 1girl"
    assert lines(output)[3] == f"extremely aesthetic, {start}"
    assert lines(output)[4] == f'slightly aesthetic, {start}, The text says "Hello. world!"'
    assert read(output, "characters.json") == {"mika_(lorelei)": {"posts": 6, "class": "< 100"}}


def test_a_profile_without_such_parts_is_as_without_annotations(posts: Path, tmp_path: Path):
    allowed = {kind: rows for kind, rows in FOUND.items() if kind != "tags"}
    with_models = caption(posts, write_annotations(tmp_path / "annotations", allowed, kept=posts), tmp_path / "a")
    empty = write_annotations(tmp_path / "empty", {})
    assert folder_bytes(caption(posts, empty, tmp_path / "b")) == folder_bytes(with_models)
    arguments = options(posts, empty, tmp_path / "c")
    arguments[2:4] = []
    caption_posts.main(arguments)
    assert folder_bytes(tmp_path / "c") == folder_bytes(with_models)


# Of each line of the golden chain: upload year, rating, custom words, the tagger's tags.
CHAIN = [
    (2023, "general", [], ["skadi_(arknights)", "1girl", "solo"]),
    (2023, "questionable", [], ["1girl"]),
    (2023, "explicit", [], ["1girl", "1boy"]),
    (None, "questionable", [], ["1girl"]),
    (2020, "sensitive", [30], ["sky"]),
    (2006, "explicit", [], []),
    (2023, "general", [], ["explicit", "questionable", "x"]),
]
CHAIN_RATINGS = ("general", "sensitive", "questionable", "explicit")
CHAIN_TAGS = ("1girl", "1boy", "solo", "sky", "explicit", "questionable", "x", "skadi_(arknights)")
CHAIN_VOCABULARY = [*((name, 9) for name in CHAIN_RATINGS), *((name, 0) for name in CHAIN_TAGS[:-1]), (CHAIN_TAGS[-1], 4)]
CHAIN_RECIPE = [TAGGER, AESTHETIC, "caption.tags=annotations", "caption.profile=sotediffusion-scripts",
                f"filter.ratings={json.dumps(CHAIN_RATINGS)}"]  # fmt: skip
STEPS = {
    "after_cleanup": ["tags"], "after_quality": ["tags", "quality"], "after_aesthetic": ["tags", "quality", "aesthetic"],
    "after_text": ["tags", "quality", "aesthetic", "text"],
}  # fmt: skip


def chain(golden: Path, folder: Path, step: str, wording: str) -> tuple[list[str], list[str], dict[str, int]]:
    """The captions of all cases after a step, those of the reference, and how many captions have each rating's word."""
    cases = json.loads((golden / "evaluate" / "sote" / "set" / "expected.json").read_text(encoding="utf-8"))["chain"]
    posts, found = [], {kind: {} for kind in STEPS[step]}
    for number, (case, (year, rating, custom, tags)) in enumerate(zip(cases, CHAIN, strict=True), start=1):
        posts.append(metadata_post(number, created_at=f"{year}-05-05" if year else None, tags=[*custom, 3, 5]))
        places = sorted(4 + CHAIN_TAGS.index(tag) for tag in tags)
        row = {"ratings": [float(name == rating) for name in CHAIN_RATINGS], "tags": places, "probabilities": [0.9] * len(places)}
        said = {
            "tags": row, "quality": {"score": case["quality_score"]}, "aesthetic": {"score": case["aesthetic_score"]},
            "text": {"answer": f'{PREFIX} The text says "Hello, world!".'},
        }  # fmt: skip
        for kind, rows in found.items():
            rows[number] = said[kind]
    kept, _ = write_kept(folder, posts, tags=[*TAGS, (30, "anime wallpaper", 5)])
    annotations = write_annotations(folder / "annotations", found, CHAIN_VOCABULARY, kept)
    output = caption(kept, annotations, folder / "out", *CHAIN_RECIPE, f"caption.wording={wording}")
    counts = read(output, "captions.json")["posts_with_word"]
    words = {word: counts[word] for word in (*CHAIN_RATINGS, "nsfw", "explicit nsfw") if word in counts}
    return list(lines(output).values()), [case[step].rstrip("\n") for case in cases], words


@pytest.mark.golden
@pytest.mark.parametrize("step", STEPS)
def test_the_scripts_whole_chain_letter_for_letter(golden: Path, tmp_path: Path, step: str):
    found, expected, words = chain(golden, tmp_path, step, "exact")
    assert found == expected
    assert words == {"general": 2, "sensitive": 1, "questionable": 1, "explicit": 1, "nsfw": 2, "explicit nsfw": 2}


@pytest.mark.golden
def test_clean_wording_has_the_ratings_words_everywhere(golden: Path, tmp_path: Path):
    found, expected, words = chain(golden, tmp_path, "after_text", "clean")
    assert found[:3] + found[4:5] == expected[:3] + expected[4:5]
    assert found[3] == expected[3].replace(" questionable,", " nsfw,")
    assert found[5] == expected[5].replace(" explicit,", " explicit nsfw,")
    assert "general, explicit, questionable, x" in found[6]  # tags of these names are no ratings
    assert words == {"general": 2, "sensitive": 1, "nsfw": 2, "explicit nsfw": 2}


def test_exact_wording_leaves_captions_of_metadata_alone(posts: Path, annotations: Path, tmp_path: Path):
    exact, clean = (
        caption(posts, annotations, tmp_path / wording, "caption.profile=sotediffusion", f"caption.wording={wording}")
        for wording in ("exact", "clean")
    )
    ids = set(lines(clean)) - {PICTURE}  # whose empty answer is a lone mark
    assert {i: lines(exact)[i] for i in ids} == {i: lines(clean)[i] for i in ids}


def test_a_taggers_characters_are_listed_for_whole_names_too(posts: Path, annotations: Path, tmp_path: Path):
    output = caption(posts, annotations, tmp_path / "out", *RECIPE[:-1])
    names = pl.read_parquet(output / "captions" / "characters.parquet")["name"].to_list()
    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    assert [[names[n] for n in row] for row in frame["characters"]][:2] == [
        ["skadi_(arknights)"], ["saber_(fate)", "skadi_(arknights)"],
    ]  # fmt: skip
    of_metadata = caption(posts, annotations, tmp_path / "metadata")
    assert not (of_metadata / "captions" / "characters.parquet").exists()
    assert "characters" not in pl.read_parquet_schema(of_metadata / "captions" / "captions-00000.parquet")


def test_scores_choose_and_repeat(posts: Path, annotations: Path, tmp_path: Path):
    settings = [
        'caption.above={"aesthetic": 0.5, "quality": null}',
        'caption.repeats=[{"aesthetic": 0.9, "quality": null, "extra": 5}]',
    ]
    output = caption(posts, annotations, tmp_path / "out", *RECIPE, *settings)
    low = "aesthetic score too low"
    assert skipped(output) == [(2, "blocked tag"), (3, "rating not allowed"), (5, low), (101, low)]
    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    assert dict(zip(frame["id"], frame["repeats"], strict=True)) == {1: 6, 4: 1, 102: 1, PICTURE: 6}
    assert frame.schema["repeats"] == pl.Int32


def test_percentiles_of_the_selection_go_by_the_ratings_that_captions_have(tmp_path: Path):
    """By the metadata all are general; the tagger tells sensitive of those with many favourites."""
    rows = [metadata_post(i, fav_count=i, tags=[]) for i in range(1, 41)]
    kept, _ = write_kept(tmp_path, rows)
    found = {"tags": {i: tagger_row({"solo": 0.9}, "sensitive" if i > 20 else "general") for i in range(1, 41)}}
    settings = [TAGGER, "caption.tags=annotations", "caption.percentiles=selection"]
    output = caption(kept, write_annotations(tmp_path / "annotations", found, kept=kept), tmp_path / "out", *settings)
    told = read(output, "captions.json")["favourites_at_percentile"]
    assert (told["general"]["90"], told["sensitive"]["90"]) == (18, 38)
    assert lines(output)[20].endswith("safe, masterpiece")


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_show_in_nothing(
    posts: Path, annotations: Path, tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
):
    from booru.captioning import caption_sources

    monkeypatch.setattr(caption_sources, "SHARD_BYTES_FOR_A_PROCESS", 1)
    one = caption(posts, annotations, tmp_path / "a", *RECIPE, "runtime.processes=1")
    more = caption(posts, annotations, tmp_path / "b", *RECIPE, f"runtime.processes={processes}")
    assert folder_bytes(one) == folder_bytes(more)


def complaint(*arguments: str) -> str:
    with pytest.raises(StageError) as error:
        caption_posts.main(list(arguments))
    return str(error.value)


def test_what_is_refused(posts: Path, annotations: Path, tmp_path: Path):
    output = tmp_path / "out"
    empty = write_annotations(tmp_path / "empty", {})
    text = complaint(*options(posts, empty, output, *RECIPE))
    assert f"{empty}: no annotations of annotate.tags, which caption.tags: annotations needs" in text
    without = options(posts, empty, output, *RECIPE)
    without[2:4] = []
    assert "--annotations: no annotations of annotate.tags" in complaint(*without)
    database = make_database(tmp_path / "m.db", [post(1)])
    arguments = options(posts, annotations, output)
    arguments[:2] = ["--database", str(database)]
    assert "name these with --posts instead of --database" in complaint(*arguments)
    assert not output.exists()


def test_annotations_of_other_pictures_are_refused(posts: Path, annotations: Path, tmp_path: Path):
    """The posts have the same ids; one of them has another picture now."""
    rows = [metadata_post(i, tags=[3, 1, 7, 5]) for i in IDS[:-1]] + [metadata_post(PICTURE, rating=None, tags=[1])]
    same, _ = write_kept(tmp_path / "same", rows)
    caption(same, annotations, tmp_path / "out", *RECIPE)
    other, _ = write_kept(tmp_path / "other", rows, {102: tiny_picture(999)})
    text = complaint(*options(other, annotations, tmp_path / "other-out", *RECIPE))
    assert text.startswith(f"{annotations}: these annotations are not of the pictures that {other}/posts-00001.parquet names")
    early = make_metadata(tmp_path / "early", rows, shard_posts=100)
    assert "these posts have no column sha256" in complaint(*options(early, annotations, tmp_path / "other-out", *RECIPE))
    assert not (tmp_path / "other-out").exists()


SAYS_BLOCKED = ['The text says "I love loli".', "The text says (Oppai-Loli: 2)", "oppai loli!", "A sign: SHOTA\nworld"]


@pytest.mark.parametrize("answer", SAYS_BLOCKED)
@pytest.mark.parametrize("tags", ["metadata", "annotations"])
def test_a_text_that_says_a_blocked_tag_drops_the_post(tmp_path: Path, answer: str, tags: str):
    kept, _ = write_kept(tmp_path, kept_posts([1, 2], tags=[1]))
    found = {
        "tags": {i: tagger_row({"1girl": 0.9}) for i in (1, 2)},
        "text": {1: {"answer": f"{PREFIX} {answer}"}, 2: {"answer": f'{PREFIX} The text says "lollipop"'}},
    }
    annotations = write_annotations(tmp_path / "annotations", found, kept=kept)
    recipe = [TAGGER, "caption.profile=sotediffusion", f"caption.tags={tags}"]
    output = caption(kept, annotations, tmp_path / "out", *recipe)
    assert skipped(output) == [(1, "blocked tag")]
    assert lines(output)[2].endswith(', The text says "lollipop"')
    assert not any("love" in word or "SHOTA" in word for word in pl.read_parquet(output / "captions" / "words.parquet")["word"])


def test_characters_whose_pieces_are_blocked_drop_the_post_where_names_are_expanded(tmp_path: Path):
    tags = [*TAGS, (40, "yuki_(loli)", 2), (41, "yuki_(lollipop)", 2), (42, "art by toddlercon_x", 5)]
    posts = [metadata_post(i, tags=[own, 1]) for i, own in ((1, 40), (2, 41), (3, 42))]
    kept, _ = write_kept(tmp_path, posts, tags=tags)
    empty = write_annotations(tmp_path / "empty", {})
    expanded = caption(kept, empty, tmp_path / "a", "caption.profile=sotediffusion")
    assert skipped(expanded) == [(1, "blocked tag")]
    assert "yuki, lollipop" in lines(expanded)[2]
    assert skipped(caption(kept, empty, tmp_path / "b", "caption.profile=kohaku-xl-epsilon")) == []
    scored = write_annotations(tmp_path / "scored", {"aesthetic": {i: {"score": 0.95} for i in (1, 2, 3)}}, kept=kept)
    assert skipped(caption(kept, scored, tmp_path / "c", "caption.profile=sotediffusion")) == [(1, "blocked tag")]


def test_an_answer_to_another_prompt_is_told_with_its_file(tmp_path: Path):
    kept, _ = write_kept(tmp_path, kept_posts([1], tags=[1]))
    annotations = write_annotations(tmp_path / "annotations", {"text": {1: {"answer": "hm?"}}}, kept=kept)
    text = complaint(*options(kept, annotations, tmp_path / "out", "caption.profile=sotediffusion"))
    assert text.startswith(f"{annotations}/text/text-00000.parquet: the reader's answer 'hm?' does not begin with its prompt")
    assert text.endswith("annotate again, with a prompt in annotate.text that the model's tokenizer knows letter by letter")
