"""References from the image archives."""

import pickle
import tarfile
from io import BytesIO
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file

import pytest
from damaged_pictures import tiff_with_text_as_offset
from tiny_pictures import tiny_picture

from booru.images.indexing import index_here
from ccip.sources import reference_sources
from characters.references import Reference

POSTS = {7001000: tiny_picture(1), 7002000: tiny_picture(2), 7003000: b"\x89PNG not quite", 7004000: tiff_with_text_as_offset()}
AOI = Reference("aoi", "harbour", "1girl", (), (), (7002000, 7001000), (), 70)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(index, root) of three posts, one broken."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "root").mkdir()
    with tarfile.open(folder / "root/data-0000.tar", "w") as tar:
        for post, data in POSTS.items():
            member = tarfile.TarInfo(f"{post}.png")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    index_here(folder / "root", folder / "index")
    return folder / "index", folder / "root"


def test_posts_in_the_references_order(images, tmp_path):
    mika = Reference("mika", "", "", (), (), (7001000,), (), 0)
    sources = reference_sources([mika, AOI], *images)
    assert [source.name for source in sources] == [
        "post 7001000, a reference of mika",
        "post 7002000, a reference of aoi",
        "post 7001000, a reference of aoi",
    ]
    (tmp_path / "second.png").write_bytes(POSTS[7002000])
    assert sources[1].sha256 == sha256_file(tmp_path / "second.png")
    assert sources[0].sha256 == sources[2].sha256 != sources[1].sha256
    assert pickle.loads(pickle.dumps(sources[1])).open().tobytes() == sources[1].open().tobytes() != sources[0].open().tobytes()


def test_a_post_outside_the_index_is_named(images):
    stray = Reference("rin", "", "", (), (), (7009000,), (), 0)
    with pytest.raises(StageError, match=r"index: post 7009000, a reference of rin, is not in the image index"):
        reference_sources([AOI, stray], *images)


@pytest.mark.parametrize("post", [7003000, 7004000])
def test_a_broken_picture_is_named(images, post):
    broken = Reference("rin", "", "", (), (), (post,), (), 0)
    with pytest.raises(StageError, match=rf"{post}\.png, a reference of rin, cannot be decoded"):
        reference_sources([broken], *images)[0].open()
