"""Learning-rate schedules, counted in updates whatever the number of processes.

(Under accelerate's wrapper the published runs advanced a scheduler once a process: "warm-up 1000" on
4 GPUs was 250 updates. Recipes here state updates.)
"""

from repro.params import Train


def rate_factor(update: int, settings: Train) -> float:
    """Factor on the learning rates for update 0, 1, ...; the first update of a warm-up has factor 0.

    constant_with_warmup: min(1, update / warmup). linear: the same rise, then a straight fall that
    would reach 0 at `settings.updates`.
    """
    rise = min(1.0, update / settings.warmup_updates) if settings.warmup_updates else 1.0
    if settings.schedule == "constant_with_warmup" or update < settings.warmup_updates:
        return rise
    return (settings.updates - update) / (settings.updates - settings.warmup_updates)
