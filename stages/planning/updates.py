"""How many updates a number of images takes, whatever buckets they fall into."""

from dataclasses import dataclass

from repro.params import Train


@dataclass(frozen=True)
class Updates:
    """Updates of a whole run: the fewest, the expected and the most."""

    fewest: int
    expected: int
    most: int

    def allow(self, number: int) -> bool:
        return self.fewest <= number <= self.most


def planned_updates(settings: Train, images: int, buckets: int | None, rounding: int = 1) -> Updates:
    """Updates for `images` shown in an epoch, of at most `buckets` buckets (None: the images decide how many there are).

    Each bucket ends in a micro-batch that may lack up to micro_batch_size - 1 images, half of that on average; `rounding`
    widens the limits for a number of images that is known to so many.
    """
    if settings.updates is not None:
        return Updates(settings.updates, settings.updates, settings.updates)
    most_lacking = (settings.micro_batch_size - 1) * min(buckets or 0, images)
    half = (rounding - 1) / 2
    return Updates(
        _updates(settings, max(1, images - half)),
        _updates(settings, images + most_lacking / 2),
        _updates(settings, images + half + most_lacking),
    )


def _updates(settings: Train, places: float) -> int:
    """Updates of all epochs for so many places in micro-batches an epoch, which need not be whole."""
    micro_batches = -int(-places // settings.micro_batch_size)
    return settings.epochs * -(-micro_batches // (settings.virtual_ranks * settings.accumulation))
