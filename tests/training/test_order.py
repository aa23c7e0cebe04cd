"""Data order: every entry once an epoch, one bucket a micro-batch, a pure function of its arguments."""

from itertools import chain

from repro.randomness import Stream

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.order import DataOrder, epoch_micro_batches, updates_per_epoch


def random_buckets(seed: int, entries: int) -> list[tuple[int, int]]:
    draws = Stream(seed, "test buckets")
    return [draws.choice([(64, 64), (48, 80), (80, 48)]) for _ in range(entries)]


GRID = [
    (entries, micro, ranks, accumulation)
    for entries in (1, 7, 64, 201)
    for micro in (1, 2, 5)
    for ranks, accumulation in ((1, 1), (4, 2), (8, 1))
]


@pytest.mark.parametrize(("entries", "micro", "ranks", "accumulation"), GRID)
def test_every_epoch_holds_every_entry_once(entries: int, micro: int, ranks: int, accumulation: int) -> None:
    buckets = random_buckets(entries, entries)
    order = DataOrder(buckets, micro, accumulation, ranks, seed=3)
    for epoch in range(3):
        updates = [order.update(epoch * order.updates_per_epoch + i) for i in range(order.updates_per_epoch)]
        batches = [batch for update in updates for rank in update for batch in rank]
        assert sorted(chain(*batches)) == list(range(entries))
        assert all(len({buckets[i] for i in batch}) == 1 and 1 <= len(batch) <= micro for batch in batches)
        assert all(len(update) == ranks and all(len(rank) <= accumulation for rank in update) for update in updates)
        assert all(any(update) for update in updates), "no update is empty"


RUNS = {
    "counts": st.lists(st.integers(1, 40), min_size=1, max_size=5),
    "micro_batch": st.integers(1, 9),
    "accumulation": st.integers(1, 4),
    "depth": st.integers(0, 4),
    "seed": st.integers(0, 2**31),
}


def order_of(counts: list[int], micro_batch: int, accumulation: int, depth: int, seed: int) -> DataOrder:
    """Buckets of these many images, of sizes 64x64, 128x64, ..., one after the other."""
    buckets = [(64 * (bucket + 1), 64) for bucket, count in enumerate(counts) for _ in range(count)]
    return DataOrder(buckets, micro_batch, accumulation, 1 << depth, seed)


@given(epoch=st.integers(0, 5), **RUNS)
def test_whatever_the_sizes_every_entry_is_shown_once_an_epoch(epoch: int, **run) -> None:
    order = order_of(**run)
    per_update = run["accumulation"] << run["depth"]
    updates = [order.update(epoch * order.updates_per_epoch + i) for i in range(order.updates_per_epoch)]
    assert [order.epoch_of(epoch * order.updates_per_epoch + i) for i in range(len(updates))] == [epoch] * len(updates)
    batches = [[batch for rank in update for batch in rank] for update in updates]
    assert sorted(chain(*chain(*batches))) == list(range(sum(run["counts"])))
    assert all(len(update) == per_update for update in batches[:-1]), "only an epoch's last update is short"
    assert 1 <= len(batches[-1]) <= per_update
    assert order.updates_per_epoch == updates_per_epoch(order.buckets, run["micro_batch"], per_update)
    assert all(len({order.buckets[entry] for entry in batch}) == 1 for batch in chain(*batches))
    assert sum(len(batch) < run["micro_batch"] for batch in chain(*batches)) <= len(run["counts"]), "one short batch a bucket"


@given(asked=st.lists(st.integers(0, 40), max_size=6), update=st.integers(0, 40), **RUNS)
def test_whatever_was_asked_before_an_update_is_the_same(asked: list[int], update: int, **run) -> None:
    order = order_of(**run)
    for earlier in asked:
        order.update(earlier)
    assert order.update(update) == order_of(**run).update(update)


@given(**RUNS)
def test_the_same_micro_batches_in_the_same_order_whatever_makes_an_update(**run) -> None:
    """Virtual ranks and accumulation cut an epoch into updates; what is shown, and in which order, hangs on neither."""

    def epoch(order: DataOrder) -> list[tuple[int, ...]]:
        return [batch for i in range(order.updates_per_epoch) for rank in order.update(i) for batch in rank]

    assert epoch(order_of(**run)) == epoch(order_of(**run | {"accumulation": 1, "depth": 0}))


def test_an_update_does_not_depend_on_what_was_asked_before() -> None:
    buckets = random_buckets(1, 50)
    walked = DataOrder(buckets, 2, 2, 4, seed=9)
    in_order = [walked.update(i) for i in range(30)]
    assert [DataOrder(buckets, 2, 2, 4, seed=9).update(i) for i in reversed(range(30))] == in_order[::-1]


def test_epochs_and_seeds_differ() -> None:
    buckets = random_buckets(1, 50)
    assert len({tuple(epoch_micro_batches(buckets, 2, seed, epoch)) for seed in (1, 2) for epoch in range(5)}) == 10


def test_a_bucket_keeps_its_order_when_another_grows() -> None:
    """The permutation inside a bucket is keyed by the bucket, so that data added elsewhere leaves it alone."""
    few = [(64, 64)] * 9 + [(48, 80)] * 3
    many = [(64, 64)] * 9 + [(48, 80)] * 30

    def square(buckets: list[tuple[int, int]]) -> set[tuple[int, ...]]:
        return {batch for batch in epoch_micro_batches(buckets, 2, 1, 0) if batch[0] < 9}

    assert square(few) == square(many)


def test_updates_per_epoch_counts_short_micro_batches() -> None:
    assert updates_per_epoch([(64, 64)] * 5 + [(48, 80)] * 2, 2, 2) == 2
    assert updates_per_epoch([(64, 64)] * 5 + [(48, 80)] * 2, 4, 2) == 2
    assert updates_per_epoch([(64, 64)], 4, 8) == 1
