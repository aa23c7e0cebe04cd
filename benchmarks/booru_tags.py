"""Made-up tags for made-up posts: a tag table, and draws of each post's tags with realistic frequencies."""

import itertools
from dataclasses import dataclass

import numpy as np

GENERAL, ARTIST, CHARACTER, COPYRIGHT, META = range(5)  # values of tag.type
SPECIAL = {
    "1girl": 0.62, "2girls": 0.11, "3girls": 0.03, "4girls": 0.012, "5girls": 0.006, "6+girls": 0.012, "multiple_girls": 0.17,
    "1boy": 0.19, "2boys": 0.04, "3boys": 0.01, "4boys": 0.004, "5boys": 0.002, "6+boys": 0.004, "multiple_boys": 0.055,
    "male_focus": 0.075, "1other": 0.01, "2others": 0.002, "3others": 0.0006, "4others": 0.0003, "5others": 0.0002,
    "6+others": 0.0004, "multiple_others": 0.003, "solo": 0.6, "no_humans": 0.02,
}  # fmt: skip
"""Share of the posts that have each of these general tags (HakuBooru's 22 special ones, and two more)."""
FIRST_NAMES = {
    GENERAL: "long_hair breasts looking_at_viewer blush smile short_hair open_mouth blue_eyes simple_background shirt"
    " blonde_hair skirt brown_hair large_breasts black_hair hair_ornament gloves thighhighs long_sleeves hat bangs red_eyes"
    " hair_between_eyes :d off-shoulder_shirt crossed_bangs ^_^ décolletage video_game bad_food o_o fate/stay_night_(style)"
    " ;) ||_|| <o>_<o> °_° +_+ =_= >:) :3 ^^^ ♥ ... @_@ !? x-shaped_pupils kimono_(short) x_x heart_(symbol)",
    ARTIST: "banned_artist artist_request_circle kurumi_(forbanned) ixy m_(maroyaka) yaegashi_nan ゆきむら",
    CHARACTER: "hatsune_miku hakurei_reimu artoria_pendragon_(fate) saber_(fate)_(cosplay) rem_(re:zero) pokémon_trainer",
    COPYRIGHT: "original touhou kantai_collection fate_(series) fate/grand_order idolmaster pokémon_(game) k-on!",
    META: "highres absurdres commentary_request commentary bad_id translated bad_pixiv_id translation_request"
    " english_commentary official_art photoshop_(medium) scan bad_link revision md5_mismatch animated video sound"
    " artist_request tagme third-party_edit audible_audio traditional_media symbol-only_commentary",
}
"""The most frequent tags of each type: the ones that caption rules treat in their own ways."""
SYLLABLES = [c + v for c in ("", *"kstnhmrgzdbpyw", "sh", "ch", "ts") for v in "aiueo"]
HIGHEST_ID = 2_300_000
KEY_BITS = 17  # of an index into the tag table in a sort key
ORDER_BITS = 24  # of a random number in a sort key


@dataclass(frozen=True)
class Kind:
    """One type of tag: how many there are, and the Zipf-Mandelbrot weights 1 / (rank + shift) ** slope of their use."""

    tag_type: int
    tags: int
    shift: float
    slope: float


KINDS = (
    Kind(GENERAL, 40_000, shift=4, slope=1.05),
    Kind(ARTIST, 35_000, shift=50, slope=0.75),
    Kind(CHARACTER, 19_500, shift=8, slope=0.95),
    Kind(COPYRIGHT, 5_000, shift=2, slope=1.1),
    Kind(META, 500, shift=2, slope=1.7),
)
TAGS = sum(kind.tags for kind in KINDS)


@dataclass(frozen=True)
class TagTable:
    """Rows of table tag without their popularity; the rows of a kind stand together, the most frequent first."""

    ids: np.ndarray
    names: list[str]
    types: np.ndarray


def make_tag_table(rng: np.random.Generator) -> TagTable:
    names: list[str] = []
    taken: set[str] = set()
    for kind in KINDS:
        fixed = [*(SPECIAL if kind.tag_type == GENERAL else ()), *FIRST_NAMES[kind.tag_type].split()]
        taken.update(fixed)
        made = itertools.islice(_new_names(rng, kind.tag_type, taken), kind.tags - len(fixed))
        names += [*fixed, *made]
    ids = rng.choice(HIGHEST_ID, size=TAGS, replace=False) + 1
    return TagTable(ids, names, np.repeat([kind.tag_type for kind in KINDS], [kind.tags for kind in KINDS]))


def _new_names(rng: np.random.Generator, tag_type: int, taken: set[str]):
    """Endless names of a type that are not yet taken."""
    while True:
        syllables = [SYLLABLES[i] for i in rng.integers(0, len(SYLLABLES), size=9)]
        words = ["".join(syllables[:3]), "".join(syllables[3:5]), "".join(syllables[5:])]
        form = rng.random()
        if tag_type == CHARACTER:
            name = f"{words[0]}_{words[1]}_({words[2]})" if form < 0.45 else f"{words[0]}_{words[1]}"
        elif form < 0.01:
            name = words[0] + "é"
        elif form < 0.05:
            name = f"{words[0]}_({words[1]})"
        else:
            name = "_".join(words[: 1 + int(form * (3 if tag_type == GENERAL else 2))])
        if name not in taken:
            taken.add(name)
            yield name


class TagDrawer:
    """Draws the tags of posts; about 33 a post."""

    def __init__(self, table: TagTable):
        self._ids = table.ids
        self._starts = np.cumsum([0] + [kind.tags for kind in KINDS])
        self._cumulative = [_cumulative_weights(kind) for kind in KINDS]

    def draw(self, rng: np.random.Generator, posts: int) -> tuple[np.ndarray, np.ndarray]:
        """(row number of the post, tag id) of each relation: posts ascending, a post's tags distinct and in random order."""
        rows, indices = zip(*self._draws(rng, posts), strict=True)
        pairs = np.sort((np.concatenate(rows).astype(np.int64) << KEY_BITS) | np.concatenate(indices))
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        row, index = pairs >> KEY_BITS, pairs & ((1 << KEY_BITS) - 1)
        order = rng.integers(0, 1 << ORDER_BITS, size=len(pairs))
        keys = np.sort((((row << ORDER_BITS) | order) << KEY_BITS) | index)
        return keys >> (KEY_BITS + ORDER_BITS), self._ids[keys & ((1 << KEY_BITS) - 1)]

    def _draws(self, rng: np.random.Generator, posts: int):
        """Pieces (row numbers, indices into the tag table), with doubles."""
        for index, share in enumerate(SPECIAL.values()):
            row = np.flatnonzero(rng.random(posts) < share)
            yield row, np.full(len(row), index)
        for kind, start, cumulative in zip(KINDS, self._starts, self._cumulative, strict=False):
            row = np.repeat(np.arange(posts), _tags_a_post(rng, kind.tag_type, posts))
            yield row, start + np.searchsorted(cumulative, rng.random(len(row)), side="right")


def _cumulative_weights(kind: Kind) -> np.ndarray:
    drawn_apart = len(SPECIAL) if kind.tag_type == GENERAL else 0
    ranks = np.arange(kind.tags - drawn_apart) + 1
    weights = np.concatenate([np.zeros(drawn_apart), 1 / (ranks + kind.shift) ** kind.slope])
    cumulative = np.cumsum(weights)
    return cumulative / cumulative[-1]


def _tags_a_post(rng: np.random.Generator, tag_type: int, posts: int) -> np.ndarray:
    """How many tags of a type each post draws."""
    if tag_type == GENERAL:
        return 2 + rng.negative_binomial(4, 4 / (4 + 23.9), size=posts)
    if tag_type == META:
        return rng.poisson(3.6, size=posts)
    shares = {
        ARTIST: [0.06, 0.88, 0.05, 0.01],
        CHARACTER: [0.24, 0.5, 0.15, 0.06, 0.03, 0.02],
        COPYRIGHT: [0.03, 0.8, 0.13, 0.04],
    }[tag_type]
    return rng.choice(len(shares), size=posts, p=shares)
