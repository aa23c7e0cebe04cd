"""Random draws as a function of (seed, purpose, index): golden values, and independence of everything else."""

from repro.randomness import Stream, seed_for

GOLDEN_WORDS = [12566466031740572891, 13877731153264958374, 2260458278298436201, 7274385141626179013, 4743128723062481990]
GOLDEN_SEED = 1550324817617077927
GOLDEN_SHUFFLE = [6, 3, 5, 7, 2, 1, 4, 0, 8, 9]
GOLDEN_BELOW = [20, 84, 798, 834, 11]
GOLDEN_UNIFORM = 0.8212657714672207


def test_golden_values() -> None:
    """These numbers are part of every recipe's result: a change here changes every dvc.lock."""
    draws = Stream(20240119, "image order", 3, 64, 80)
    assert [draws.word() for _ in range(5)] == GOLDEN_WORDS
    assert seed_for(20240119, "noise", 0, 123) == GOLDEN_SEED
    items = list(range(10))
    Stream(7, "shuffle").shuffle(items)
    assert items == GOLDEN_SHUFFLE
    assert [Stream(7, "below", i).below(1000) for i in range(5)] == GOLDEN_BELOW
    assert Stream(7, "uniform").uniform() == GOLDEN_UNIFORM


def test_streams_do_not_share_state() -> None:
    alone = Stream(1, "a")
    expected = [alone.word() for _ in range(9)]
    first, other = Stream(1, "a"), Stream(1, "b")
    mixed = []
    for _ in range(9):
        other.word()
        mixed.append(first.word())
    assert mixed == expected


def test_each_part_of_the_key_changes_the_draws() -> None:
    keys = [
        (1, "a"),
        (2, "a"),
        (1, "b"),
        (1, "a", 0),
        (1, "a", 1),
        (1, "a", 0, 0),
        (1, "a", "x"),
        (11, "a"),
        (1, "a", 1, 0),
        (1, "a", 10),
    ]
    assert len({seed_for(*key) for key in keys}) == len(keys)
    assert len({Stream(*key).word() for key in keys}) == len(keys)


def test_ranges() -> None:
    draws = Stream(3, "ranges")
    assert all(0 <= seed_for(3, "s", i) < 1 << 63 for i in range(100))
    assert all(0.0 <= draws.uniform() < 1.0 for _ in range(1000))
    counts = [0] * 7
    for _ in range(7000):
        counts[draws.below(7)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
    assert draws.below(1) == 0


def test_a_shuffle_is_a_permutation_and_every_order_occurs() -> None:
    orders = set()
    for seed in range(200):
        items = [0, 1, 2]
        Stream(seed, "orders").shuffle(items)
        orders.add(tuple(items))
    assert len(orders) == 6
    assert all(sorted(order) == [0, 1, 2] for order in orders)
