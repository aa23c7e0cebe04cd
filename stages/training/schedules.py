"""Learning-rate schedules, counted in updates whatever the number of processes.

(Under accelerate's wrapper the published runs advanced a scheduler once a process: "warm-up 1000" on
4 GPUs was 250 updates. Recipes here state updates.)
"""

from decimal import Decimal, localcontext

from repro.params import Train

DIGITS = 40
PI = Decimal("3.141592653589793238462643383279502884197")


def rate_factor(update: int, settings: Train, updates: int) -> float:
    """Factor on the learning rates for update 0, 1, ... of `updates`; the first update of a warm-up has factor 0.

    All rise in a straight line over `settings.warmup_updates`. Then: constant stays; linear falls in a straight line and
    cosine along half a period (diffusers' get_cosine_schedule_with_warmup), both to what would be 0 at `updates`.
    """
    warmup = settings.warmup_updates
    if update < warmup:
        return update / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "linear":
        return (updates - update) / (updates - warmup)
    return half_cosine(update - warmup, updates - warmup)


def schedule_words(settings: Train, updates: int) -> str:
    """The schedule for a reader, who is told of a warm-up that a run of so many updates does not end (0: not known)."""
    words = f"{settings.schedule}, warm-up {settings.warmup_updates} updates"
    if updates and settings.warmup_updates >= updates:
        words += f", but the run has {updates}: the rate never reaches lr"
    return words


def half_cosine(numerator: int, denominator: int) -> float:
    """(1 + cos(pi * numerator / denominator)) / 2, correctly rounded, for 0 <= numerator <= denominator.

    By its power series in decimals: the last bit of libm's cosine may differ between machines, and every weight with it.
    """
    with localcontext(prec=DIGITS):
        square = (PI * numerator / denominator) ** 2
        total, term, power = Decimal(1), Decimal(1), 0
        while total + term / 2 != total or power == 0:
            power += 2
            term *= -square / (power * (power - 1))
            total += term / 2
    return float(total)
