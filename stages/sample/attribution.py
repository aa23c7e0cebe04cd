"""ATTRIBUTION.md of the sample: who drew it, under which licence, and what was changed."""

from sample.catalogue import catalogue
from sample.pictures import style_definition

INTRODUCTION = """# Who drew the sample

The pictures in `images/` were composed from works by the artists below. Each artist's name stands in the
metadata database as the artist tag of the pictures that use their work. The characters' names and series
are invented, except those of the Ren'Py games.

## Drawn avatars

From the style definitions that the package dicebear-styles 10.6.0 ships. Changed here: colours of hair, skin
and clothes; choice and combination of parts; glasses added where a style has none; mirrored, turned, cropped,
put on a background and rendered to raster; some pictures blurred, compressed or miscoloured on purpose.
"""
RENPY = """
## Ren'Py games

Sprites and backgrounds of the tutorial game and of "The Question", as in Debian's renpy-demo and
renpy-thequestion 8.0.3+dfsg-1. Changed here: scaled down, cropped, mirrored, composed, and, for the training of
the sample's own models, recoloured. Scaled-down sources: `data/art/`.

| tag | work | by |
|---|---|---|
| piroshki | Eileen | Piroshki, (c) 2006 |
| mugenjohncel | Lucy; drawn backgrounds | Mugenjohncel |
| deji | Sylvie, "The Question" | Deji, after original character art by derik |
| (none) | backgrounds of "The Question" | Mugenjohncel, after original background art by DaFool |

Copyright 2004-2022 Tom Rothamel and others; the artwork is released by its copyright holders under the same terms:

> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the "Software"), to deal in the Software without restriction, including without limitation
> the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
> to permit persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of
> the Software.
>
> THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
> THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
> AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
> CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
> IN THE SOFTWARE.
"""


def attribution() -> str:
    """The whole file; the avatars' credits are the lines that the style definitions carry themselves."""
    rows = ["", "| tag | credit |", "|---|---|"]
    for name, style in catalogue()["styles"].items():
        rows.append(f"| {style['artist']} | {style_definition(name)['meta']['license']['text']} |")
    return INTRODUCTION + "\n".join(rows) + "\n" + RENPY
