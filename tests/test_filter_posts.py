"""The filter stage as a process, and what its --explain tells of one post."""

import io
import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_booru import (
    FIRST_PICTURE,
    folder_bytes,
    make_metadata,
    make_tar,
    metadata_post,
    refusal,
    run_script,
    seal_metadata,
)

import filter_posts
from booru.filtering.rules import REASONS
from booru.images.archives import ImageArchives
from booru.images.folders import folder_id
from booru.images.indexing import index_here

SAME_MD5 = {"md5": f"{1000:032x}"}
FOLDER_PICTURE = folder_id("art/deep/1.png")
# One post for each reason but the last, in the rules' order.
LEFT_OUT = {
    11_000: {"tags": [1, 12]}, 12_000: {"is_deleted": True}, 13_000: {"is_banned": True},
    14_000: {"md5": None, "has_file": False}, 15_000: {"fav_count": None}, 16_000: {"file_ext": "mp4"}, 17_000: {"rating": 3},
    20_000: {}, 21_000: {}, 22_000: {}, 23_000: {}, 24_000: {}, 25_000: SAME_MD5, 26_000: {},
}  # fmt: skip
KEPT = [1000, 2000, 3000, 200_000, FOLDER_PICTURE]


def drawing(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """A picture unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def webp(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and their index. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("archives")
    members = {f"{i}.webp": webp(drawing(i)) for i in [*KEPT[:4], 11_000, 12_000, 13_000, 14_000, 15_000, 16_000, 17_000]}
    members |= {
        "21000.mp4": b"a film",
        "22000.webp": webp(drawing(22, (40, 60))),
        "23000.webp": webp(drawing(23, (70, 80))),
        "24000.webp": webp(drawing(24, (80, 300))),
        "25000.webp": webp(drawing(25)),
        "26000.webp": webp(drawing(2000).resize((112, 84)), quality=70),
    }
    make_tar(folder / "images" / "data-0000.tar", members)
    picture = folder / "images" / "art" / "deep" / "1.png"
    picture.parent.mkdir(parents=True)
    drawing(99).save(picture)
    index_here(folder / "images", folder / "image_index")
    return folder


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    """Selected posts in three shards."""
    folder = FOLDER_PICTURE, {"source": "art", "rating": None, "file_ext": "png", "md5": None}
    rows = [metadata_post(i) for i in KEPT[:4]] + [metadata_post(i, **changes) for i, changes in [*LEFT_OUT.items(), folder]]
    path = make_metadata(tmp_path / "posts", rows, shard_posts=15_000)
    for shard in path.glob("posts-*.parquet"):
        pl.read_parquet(shard).with_columns(repeats=pl.lit(2, pl.Int32)).write_parquet(shard)
    seal_metadata(path)
    return path


def arguments(posts: Path, archives: Path, output: Path) -> list[object]:
    """All outputs of a run lie in the folder `output`; a third of the pictures may be missing."""
    return [
        "--posts", posts, "--image-index", archives / "image_index", "--output", output / "kept",
        "--funnel", output / "funnel.json", "--ledger", output / "ledger.parquet",
        "--set", "filter.min_pixels=6000", "--set", "filter.max_lost_share=0.3",
    ]  # fmt: skip


def filtered(posts: Path, archives: Path, output: Path, *more: str, **environment: str) -> str:
    result = run_script("filter_posts.py", *arguments(posts, archives, output), *more, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(posts: Path, archives: Path, output: Path, *more: str) -> str:
    """The complaint of a run that must fail without writing anything."""
    text = refusal("filter_posts.py", *arguments(posts, archives, output), *more)
    assert not output.exists()
    return text


def test_kept_posts_ledger_and_funnel(posts: Path, archives: Path, tmp_path: Path):
    output = tmp_path / "out"
    stdout = filtered(posts, archives, output)
    assert f"filter: kept 5 of 19 posts in {output / 'kept'}" in stdout
    assert check_manifest(output / "kept")["revision"] == "a" * 64

    ledger = pl.read_parquet(output / "ledger.parquet")
    dropped = dict(zip(LEFT_OUT, REASONS, strict=False))
    assert ledger["id"].to_list() == sorted([*KEPT, *LEFT_OUT])
    assert dict(ledger.select("id", "reason").rows()) == dict.fromkeys(KEPT, "kept") | dropped
    assert len(dropped) == len(REASONS) - 1
    assert ledger.drop_nulls("instead").select("id", "instead").rows() == [(25_000, 1000), (26_000, 2000)]

    funnel = json.loads((output / "funnel.json").read_text())
    assert (funnel["revision"], funnel["selected"], funnel["kept"]) == ("a" * 64, 19, 5)
    steps = [(step["reason"], step["dropped"], step["left"]) for step in funnel["steps"]]
    assert steps == [(reason, 1, 18 - i) for i, reason in enumerate(REASONS[:-1])]
    assert [f"{dropped:>9} dropped, {left:>9} left: {reason}" for reason, dropped, left in steps] == [
        line.removeprefix("filter: ") for line in stdout.splitlines()[:-1]
    ]


def test_kept_shards_hold_the_selected_posts_and_where_their_pictures_lie(posts: Path, archives: Path, tmp_path: Path):
    output = tmp_path / "out"
    filtered(posts, archives, output)
    names = sorted(path.name for path in (output / "kept").iterdir())
    assert names == ["MANIFEST.json", "posts-00000.parquet", "posts-00013.parquet", "posts-1000000.parquet", "tags.parquet"]
    for name in names[1:4]:
        kept, selected = pl.read_parquet(output / "kept" / name), pl.read_parquet(posts / name)
        assert kept.columns == [*selected.columns, "archive", "member", "offset", "size", "sha256"]
        assert kept.select(selected.columns).equals(selected.filter(pl.col("id").is_in(KEPT)))
        assert (kept["repeats"] == 2).all()
        reader = ImageArchives(archives / "images")
        for row in kept.iter_rows(named=True):
            expected = drawing(99 if row["id"] >= FIRST_PICTURE else row["id"])
            assert Image.open(io.BytesIO(reader.read(row))).size == expected.size
    assert pl.read_parquet(output / "kept" / "tags.parquet").equals(pl.read_parquet(posts / "tags.parquet"))


def test_without_near_duplicates_nobody_looks_for_them(posts: Path, archives: Path, tmp_path: Path):
    filtered(posts, archives, tmp_path / "out", "--set", "filter.near_duplicates=null")
    ledger = dict(pl.read_parquet(tmp_path / "out" / "ledger.parquet").select("id", "reason").rows())
    assert ledger[26_000] == "kept"
    assert ledger[25_000] == "same md5 as another post"


def test_same_bytes_in_any_surroundings(posts: Path, archives: Path, tmp_path: Path):
    filtered(posts, archives, tmp_path / "a", PYTHONHASHSEED="1", POLARS_MAX_THREADS="1")
    more = ["--set", "runtime.processes=5"]
    filtered(posts, archives, tmp_path / "b", *more, PYTHONHASHSEED="2", POLARS_MAX_THREADS="4", LC_ALL="C", TZ="Asia/Tokyo")
    assert len(folder_bytes(tmp_path / "a")) == 7
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


def test_nothing_left_names_the_hardest_rule(posts: Path, archives: Path, tmp_path: Path):
    text = refused(posts, archives, tmp_path / "out", "--set", "filter.min_side=5000")
    assert "none of 19 posts is kept; 'too small' dropped the most (10)" in text


def test_wrong_archives_are_not_taken_for_missing_pictures(posts: Path, archives: Path, tmp_path: Path):
    text = refused(posts, archives, tmp_path / "out", "--set", "filter.max_lost_share=0.02")
    assert "of 12 posts 1 not in the archives and 1 unreadable: more than filter.max_lost_share (0.02)" in text
    images = tmp_path / "images"
    make_tar(images / "data-0000.tar", {"1000.webp": webp(drawing(1000)), "999000.webp": webp(drawing(1))})
    index_here(images, tmp_path / "image_index")
    assert "of 12 posts 11 not in the archives: more than" in refused(posts, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("value", ["[]", "[solo]", "[loli, shota]"])
def test_the_block_list_cannot_be_emptied(posts: Path, archives: Path, tmp_path: Path, value: str):
    text = refused(posts, archives, tmp_path / "out", "--set", f"filter.blocked_tags={value}")
    assert "filter: blocked_tags must contain" in text
    assert "no recipe trains on these" in text


def test_missing_or_damaged_inputs(posts: Path, archives: Path, tmp_path: Path):
    output = tmp_path / "out"
    assert "image_index: no such image index" in refused(posts, tmp_path / "none", output)

    def complaint(posts: Path, archives: Path) -> str:
        with pytest.raises(StageError) as error:
            filter_posts.main(list(map(str, arguments(posts, archives, output))))
        assert not output.exists()
        return str(error.value)

    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "image_index").write_bytes(b"")
    assert "an image index is a folder" in complaint(posts, tmp_path / "file")
    damaged = tmp_path / "damaged" / "image_index"
    damaged.mkdir(parents=True)
    for name, data in folder_bytes(archives / "image_index").items():
        (damaged / name).write_bytes(data[:-1] + b"?" if name == "images-00000.parquet" else data)
    assert "images-00000.parquet: missing, unexpected or changed" in complaint(posts, damaged.parent)
    shard = posts / "posts-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(b"")
    assert "posts-00000.parquet: missing, unexpected or changed" in complaint(posts, archives)
    shard.write_bytes(whole)
    (posts / "tags.parquet").unlink()
    seal_metadata(posts)
    assert "tags.parquet: missing" in complaint(posts, archives)
    assert "none: no such folder" in complaint(tmp_path / "none", archives)


def test_a_folder_of_somebodys_files_is_refused_and_left_as_it_is(posts: Path, archives: Path, tmp_path: Path):
    own = tmp_path / "out" / "kept"
    own.mkdir(parents=True)
    (own / "chapter.txt").write_text("years of work")
    assert "no MANIFEST.json in it says that a stage wrote it" in refusal(
        "filter_posts.py", *arguments(posts, archives, tmp_path / "out")
    )
    assert folder_bytes(tmp_path / "out") == {"kept/chapter.txt": b"years of work"}


def test_a_full_disk_leaves_nothing(posts: Path, archives: Path, tiny_disk: Path):
    (tiny_disk / "filler").write_bytes(bytes(56 * 1024))
    text = refusal("filter_posts.py", *arguments(posts, archives, tiny_disk))
    assert "no space left on the device" in text
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


# What follows tells of one post from the outputs of all data stages.
RANGES = "select.ranges=[{first: 1, last: 9999, take: 3}, {first: 10000, last: 199999, take: null}, {folder: art, take: null}]"


@pytest.fixture(scope="module")
def pipeline(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of select, filter and caption. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("pipeline")
    rows = [metadata_post(i) for i in (1000, 2000, 3000, 4000, 5000, 200_000)]
    rows += [metadata_post(i, **changes) for i, changes in LEFT_OUT.items()]
    rows.append(metadata_post(FOLDER_PICTURE, source="art", rating=None, file_ext="png", tags=[]))
    make_metadata(folder / "metadata", rows)
    select = [
        "--metadata", folder / "metadata", "--output", folder / "posts", "--ledger", folder / "selection.parquet",
        "--report", folder / "select.json", "--set", RANGES, "--set", "select.repeats=[{required_tags: [lorelei], extra: 4}]",
    ]  # fmt: skip
    caption = ["--posts", folder / "kept", "--output", folder / "captions"]
    result = run_script("select_posts.py", *select)
    assert result.returncode == 0, result.stderr
    filtered(folder / "posts", archives, folder, "--set", "filter.max_lost_share=0.9")
    result = run_script("caption_posts.py", *caption)
    assert result.returncode == 0, result.stderr
    return folder


def places(folder: Path, archives: Path) -> list[object]:
    return [
        "--image-index", archives / "image_index", "--metadata", folder / "metadata",
        "--selection", folder / "selection.parquet", "--ledger", folder / "ledger.parquet",
        "--captions", folder / "captions", "--latents", folder / "latents",
        "--set", RANGES, "--set", "filter.min_pixels=6000",
    ]  # fmt: skip


def told(folder: Path, archives: Path, post_id: int) -> list[str]:
    """The lines of --explain, which must change nothing."""
    before = folder_bytes(folder)
    result = run_script("filter_posts.py", "--explain", post_id, *places(folder, archives))
    assert result.returncode == 0, result.stderr
    assert folder_bytes(folder) == before
    return result.stdout.splitlines()


def test_explain_of_a_post_that_there_is_not(pipeline: Path, archives: Path):
    text = refusal("filter_posts.py", "--explain", 77, *places(pipeline, archives))
    assert f"post 77: the metadata in {pipeline / 'metadata'} has no post of this id" in text


def test_explain_of_a_post_outside_the_ranges(pipeline: Path, archives: Path):
    lines = told(pipeline, archives, 200_000)
    assert lines[0] == "metadata: post 200000 of danbooru, uploaded 2015-03-04T05:06:07.089-05:00,"
    assert lines[1].startswith("  score 3, favourites 5, tags: long_hair (general), 1girl (general), mika_(lorelei) (character),")
    assert lines[2:] == ["select: outside the ranges", "  range: none of select.ranges"]


def test_explain_of_a_post_that_was_not_drawn(pipeline: Path, archives: Path):
    ledger = pl.read_parquet(pipeline / "selection.parquet")
    (post_id, *_) = ledger.filter(pl.col("reason") == "not drawn")["id"]
    assert told(pipeline, archives, post_id)[2:] == ["select: not drawn", "  range: ids 1 to 9999, 3 taken"]


def test_explain_names_the_blocked_tag(pipeline: Path, archives: Path):
    assert told(pipeline, archives, 11_000)[2:] == [
        "select: selected",
        "  range: ids 10000 to 199999, all taken",
        "filter: blocked tag",
        "  blocked tags: oppai_loli",
        "  deleted: False, banned: False, md5 and file_url: True",
        "  rating: general (allowed: general, sensitive)",
        "  extension: webp (allowed: webp, jpg, png)",
        "  picture: 128x96 (bounds: min_side 64, min_pixels 6000, max_aspect_ratio 3.0)",
    ]


@pytest.mark.parametrize(
    ("post_id", "reason", "shown"),
    [
        (15_000, "incomplete metadata", "  score 3, favourites unknown, tags: "),
        (17_000, "rating not allowed", "  rating: explicit (allowed: general, sensitive)"),
        (20_000, "not in the archives", "  picture: not in the image index"),
        (21_000, "unreadable", "  picture: not an image (mp4)"),
        (22_000, "too small", "  picture: 40x60 (bounds: min_side 64, min_pixels 6000, max_aspect_ratio 3.0)"),
    ],
)
def test_explain_shows_what_the_rule_looked_at(pipeline: Path, archives: Path, post_id: int, reason: str, shown: str):
    lines = told(pipeline, archives, post_id)
    assert f"filter: {reason}" in lines
    assert any(line.startswith(shown) for line in lines)
    assert not any(line.startswith("caption:") for line in lines)


def test_explain_names_the_near_duplicate_that_stays(archives: Path, tmp_path: Path):
    posts = make_metadata(tmp_path / "metadata", [metadata_post(2000), metadata_post(26_000)])
    filtered(posts, archives, tmp_path)
    ledger = pl.read_parquet(tmp_path / "ledger.parquet")
    ledger.select("id", reason=pl.lit("selected")).write_parquet(tmp_path / "selection.parquet")
    assert "filter: near-duplicate (post 2000 stays instead)" in told(tmp_path, archives, 26_000)


def kept_post(pipeline: Path) -> int:
    return pl.read_parquet(pipeline / "captions" / "captions-00000.parquet")["id"][0]


def test_explain_of_a_kept_post_has_its_caption_and_repeats(pipeline: Path, archives: Path):
    assert told(pipeline, archives, kept_post(pipeline))[-3:] == [
        "caption: 1girl, mika (lorelei), lorelei, lisa w ||| long hair, solo, mid, safe, normal quality",
        "  shown 5 times an epoch",
        "latents: none yet",
    ]


def test_explain_of_a_folders_picture_without_any_words(pipeline: Path, archives: Path):
    lines = told(pipeline, archives, FOLDER_PICTURE)
    assert lines[:4] == [
        f"metadata: post {FOLDER_PICTURE} of art, uploaded at an unknown time,",
        "  score unknown, favourites unknown, tags: none",
        "select: selected",
        "  range: folder art, all taken",
    ]
    assert "  rating: none (allowed: general, sensitive)" in lines
    assert lines[-3:] == ["caption:  ||| early", "  shown 1 time an epoch", "latents: none yet"]


def with_links(pipeline: Path, folder: Path, *names: str) -> Path:
    """A folder that shows these of the pipeline's outputs and has no others."""
    for name in names:
        (folder / name).symlink_to(pipeline / name)
    return folder


def test_explain_tells_as_much_as_there_is(pipeline: Path, archives: Path, tmp_path: Path):
    post_id = kept_post(pipeline)
    text = refusal("filter_posts.py", "--explain", post_id, *places(tmp_path, archives))
    assert f"{tmp_path / 'metadata'}: not there yet; run the ingest stage first" in text
    with_links(pipeline, tmp_path, "metadata")
    assert told(tmp_path, tmp_path, post_id)[2:] == [
        f"select: not run yet ({tmp_path / 'selection.parquet'} is missing)",
        "  range: ids 1 to 9999, 3 taken",
    ]
    with_links(pipeline, tmp_path, "selection.parquet")
    lines = told(tmp_path, archives, post_id)
    assert lines[4] == f"filter: not run yet ({tmp_path / 'ledger.parquet'} is missing)"
    assert lines[-1].startswith("  picture: 128x96")
    with_links(pipeline, tmp_path, "ledger.parquet")
    assert told(tmp_path, archives, post_id)[-2:] == ["caption: none yet", "latents: none yet"]


@pytest.mark.parametrize("lost", [True, False])
def test_explain_ends_with_the_latents(pipeline: Path, archives: Path, tmp_path: Path, lost: bool):
    post_id = kept_post(pipeline)
    with_links(pipeline, tmp_path, "metadata", "selection.parquet", "ledger.parquet", "captions")
    (tmp_path / "latents").mkdir()
    row = {"id": post_id, "shard": "latents-00000.safetensors", "row": 7, "bucket_width": 96, "bucket_height": 64}
    index, gone = pl.DataFrame([row]), pl.DataFrame({"id": [post_id], "reason": ["cannot be decoded"]})
    (index.clear() if lost else index).write_parquet(tmp_path / "latents" / "index.parquet")
    (gone if lost else gone.clear()).write_parquet(tmp_path / "latents" / "lost.parquet")
    expected = "lost: cannot be decoded" if lost else "latents-00000.safetensors row 7, bucket 96x64: trained on"
    assert told(tmp_path, archives, post_id)[-1] == f"latents: {expected}"
