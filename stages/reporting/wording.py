"""Figures as people read them; shared by both templates."""


def count(value: int) -> str:
    """3,665,398"""
    return f"{value:,}"


def score(value: float | None) -> str:
    """Three decimals, a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """Three decimals with the sign."""
    return f"{value:+.3f}"


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


def figure(value: float | int | list[float] | None, how: str) -> str:
    """A value written by the function of this module that `how` names."""
    return {"count": count, "score": score, "interval": interval}[how](value)


FILTERS = {f.__name__: f for f in (count, score, signed, percent, rate, megabytes, interval, figure)}
