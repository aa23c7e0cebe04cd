"""Which entries each update sees: a pure function of (seed, epoch, buckets), so that a run can go on
anywhere and on any number of processes.

sd-scripts' order depends on loader workers and on what was drawn before (its issues 1353, 2407);
here an epoch is one permutation, every entry once, cut into micro-batches of one bucket each. An entry
is one showing of an image: an image that is repeated in an epoch has several.
"""

from repro.randomness import Stream

Bucket = tuple[int, int]
MicroBatch = tuple[int, ...]


def epoch_micro_batches(buckets: list[Bucket], micro_batch: int, seed: int, epoch: int) -> list[MicroBatch]:
    """All entries (positions in `buckets`) of an epoch as micro-batches of at most `micro_batch`.

    A bucket whose size is no multiple of `micro_batch` ends in a smaller one: no entry is left out.
    """
    members: dict[Bucket, list[int]] = {}
    for entry, bucket in enumerate(buckets):
        members.setdefault(bucket, []).append(entry)
    batches: list[MicroBatch] = []
    for bucket in sorted(members):
        entries = members[bucket]
        Stream(seed, "image order", epoch, *bucket).shuffle(entries)
        batches += [tuple(entries[i : i + micro_batch]) for i in range(0, len(entries), micro_batch)]
    Stream(seed, "batch order", epoch).shuffle(batches)
    return batches


def updates_per_epoch(buckets: list[Bucket], micro_batch: int, micro_batches_per_update: int) -> int:
    """Number of updates that cover every entry once; the same in every epoch."""
    counts: dict[Bucket, int] = {}
    for bucket in buckets:
        counts[bucket] = counts.get(bucket, 0) + 1
    micro_batches = sum(-(-count // micro_batch) for count in counts.values())
    return -(-micro_batches // micro_batches_per_update)


class DataOrder:
    """The micro-batches of every update of a run.

    Args:
        buckets: bucket (width, height) of each entry; virtual_ranks x accumulation micro-batches of
            at most micro_batch entries make an update. The last update of an epoch may be short.
    """

    def __init__(self, buckets: list[Bucket], micro_batch: int, accumulation: int, virtual_ranks: int, seed: int):
        self.buckets, self.micro_batch, self.seed = buckets, micro_batch, seed
        self.accumulation, self.virtual_ranks = accumulation, virtual_ranks
        self.updates_per_epoch = updates_per_epoch(buckets, micro_batch, accumulation * virtual_ranks)
        self._epoch: tuple[int, list[MicroBatch]] = (-1, [])

    def epoch_of(self, update: int) -> int:
        return update // self.updates_per_epoch

    def update(self, update: int) -> list[list[MicroBatch]]:
        """Micro-batches of update 0, 1, ..., one list a virtual rank (empty where a short update ends)."""
        epoch = self.epoch_of(update)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, epoch_micro_batches(self.buckets, self.micro_batch, self.seed, epoch))
        per_update = self.accumulation * self.virtual_ranks
        first = update % self.updates_per_epoch * per_update
        batches = self._epoch[1][first : first + per_update]
        return [batches[v * self.accumulation : (v + 1) * self.accumulation] for v in range(self.virtual_ranks)]
