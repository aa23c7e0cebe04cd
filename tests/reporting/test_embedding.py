import base64
import io

from repro.randomness import Stream

import pytest
from PIL import Image

from reporting.embedding import SHEET_BYTES, SVG_BYTES, is_wide, narrowed, picture, picture_uri, plot_uri, sheet_uris
from reporting.evaluation import Plot


def noisy(width: int, height: int, purpose: str) -> Image.Image:
    """A picture that no format makes small."""
    stream = Stream(0, purpose)
    rows = bytes(int(256 * stream.uniform()) for _ in range(3 * 64 * 64))
    return Image.frombytes("RGB", (64, 64), rows).resize((width, height), Image.Resampling.BICUBIC)


def decoded(uri: str) -> tuple[str, bytes]:
    head, content = uri.split(",", 1)
    return head, base64.b64decode(content)


def test_flat_drawings_stay_png_and_paintings_become_jpeg(tmp_path):
    Image.new("RGB", (200, 100), "teal").save(tmp_path / "flat.png")
    noisy(200, 100, "painting").save(tmp_path / "painting.png")
    assert picture(tmp_path / "flat.png") == ((tmp_path / "flat.png").read_bytes(), "png")
    content, kind = picture(tmp_path / "painting.png")
    assert kind == "jpeg" and len(content) < (tmp_path / "painting.png").stat().st_size
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.size == (200, 100)
        assert [(across, down) for _, across, down, _ in opened.layer] == [(1, 1)] * 3
        assert "progression" not in opened.info


def test_the_uri_names_its_kind(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert decoded(picture_uri(tmp_path / "a.png")) == ("data:image/png;base64", (tmp_path / "a.png").read_bytes())


@pytest.mark.parametrize(("width", "size"), [(None, (400, 100)), (500, (400, 100)), (200, (200, 50))])
def test_only_wider_pictures_are_narrowed(width, size):
    assert narrowed(Image.new("RGB", (400, 100)), width).size == size


def test_sheets_keep_their_width_where_there_is_room_and_fit_where_there_is_none(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        noisy(2000, 300, path.name).save(path)

    def widths() -> set[int]:
        found = set()
        for uri in sheet_uris(paths).values():
            with Image.open(io.BytesIO(decoded(uri)[1])) as opened:
                found.add(opened.width)
        return found

    assert widths() == {2000}
    monkeypatch.setattr("reporting.embedding.SHEET_BYTES", 3 * len(picture(paths[0], 1280)[0]) + 9000)
    assert widths() == {1280}


def test_the_limit_of_all_sheets_is_below_what_a_page_may_take():
    assert SHEET_BYTES * 4 / 3 < 15_000_000


def test_a_plot_is_a_drawing_unless_that_is_missing_or_large(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    drawn = Plot("a", tmp_path / "a.png", tmp_path / "a.svg")
    assert decoded(plot_uri(drawn)) == ("data:image/svg+xml;base64", (tmp_path / "a.svg").read_bytes())
    (tmp_path / "a.svg").write_text(" " * (SVG_BYTES + 1))
    for plot in (drawn, Plot("a", tmp_path / "a.png", None)):
        assert decoded(plot_uri(plot))[0] == "data:image/png;base64"


@pytest.mark.parametrize(("size", "wide"), [((720, 420), False), ((620, 620), False), ((1240, 620), True)])
def test_plots_side_by_side_are_wide(tmp_path, size, wide):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert is_wide(Plot("a", tmp_path / "a.png", None)) is wide
