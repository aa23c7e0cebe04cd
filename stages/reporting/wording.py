"""Figures and names as people read them; shared by both templates."""

from generation.modes import MODE_WORDS

# For headings of columns.
SHORT_MODE_WORDS = {"name": "by name", "core_tags": "with core tags", "new_artist": "new artist", "given": "given"}


def count(value: int) -> str:
    """3,665,398"""
    return f"{value:,}"


def score(value: float | None) -> str:
    """Three decimals, a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def loss(value: float | None) -> str:
    """Four decimals, or "none"."""
    return "none" if value is None else f"{value:.4f}"


def signed(value: float) -> str:
    """Three decimals with the sign."""
    return f"{value:+.3f}"


def place(value: float) -> str:
    """A mean rank: one decimal."""
    return f"{value:,.1f}"


def percent(value: float) -> str:
    """Of a share 0..1: at most one decimal."""
    return f"{round(100 * value, 1):g} %"


def rate(value: float) -> str:
    """A learning rate as cards write it: 2e-5."""
    return f"{value:g}".replace("e-0", "e-")


def megabytes(value: int) -> str:
    return f"{value / 1e6:,.1f} MB"


def interval(value: list[float]) -> str:
    return f"[{value[0]:.3f}, {value[1]:.3f}]"


def mode(name: str) -> str:
    """What a mode of asking is, in words."""
    return MODE_WORDS.get(name, name)


def short_mode(name: str) -> str:
    """A mode of asking as a column's heading."""
    return SHORT_MODE_WORDS.get(name, name)


def figure(value: float | int | list[float] | None, how: str) -> str:
    """A value written by the function of this module that `how` names."""
    return {"count": count, "score": score, "place": place, "interval": interval}[how](value)


FILTERS = {
    f.__name__: f for f in (count, score, loss, signed, place, percent, rate, megabytes, interval, mode, short_mode, figure)
}
