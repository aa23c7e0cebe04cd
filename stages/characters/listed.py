"""References that somebody listed: a references.json with each character's posts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from repro.params import References

import polars as pl

from booru.images.archives import ImageIndex
from characters.references import Reference, ReferenceList, Skipped
from characters.training import TrainingPictures

# Why a listed post is no reference, the first that holds: what the image index and the training captions can tell.
NOT_INDEXED, UNREADABLE, TOO_SMALL, TRAINED = "not in the image index", "unreadable", "smaller than min_side", "trained on"
FAULTS = (NOT_INDEXED, UNREADABLE, TOO_SMALL, TRAINED)


def listed_references(
    listed: ReferenceList, wanted: Sequence[str], counts: dict[str, int], settings: References, training: TrainingPictures,
    index: ImageIndex,
) -> ReferenceList:  # fmt: skip
    """The wanted characters with the first `pictures` of their listed posts that have none of FAULTS, and all others that
    are wanted or listed as skipped; those that the list itself skips, for its own reason.

    The posts' ratings and tags are not known here: that they fit is the list's author's to answer for.

    Args:
        counts: training pictures of each character that has any.
    """
    entries = {entry.character: entry for entry in listed.characters}
    faults = _faults([post for entry in listed.characters for post in entry.posts], settings, training, index)
    chosen: list[Reference] = []
    skipped = {one.character: one for one in listed.skipped}
    named = set(wanted)
    for name in sorted((entries.keys() | named) - skipped.keys()):
        entry = entries.get(name)
        if reason := _reason_to_skip(entry, name in named, faults, counts.get(name, 0), settings):
            skipped[name] = Skipped(name, reason)
        else:
            fit = tuple(post for post in entry.posts if post not in faults)
            chosen.append(replace(entry, posts=fit[: settings.pictures], training_pictures=counts[name]))
    return ReferenceList(tuple(chosen), tuple(skipped[name] for name in sorted(skipped)))


def _faults(posts: Iterable[int], settings: References, training: TrainingPictures, index: ImageIndex) -> dict[int, str]:
    """{post: which of FAULTS it has}, of the posts that have one."""
    asked = pl.DataFrame({"id": sorted(set(posts))}, schema={"id": pl.Int64})
    indexed = index.join_to(asked, ["sha256", "width", "height", "unreadable"])
    pictures = asked.join(indexed, on="id", how="left", maintain_order="left")
    rules = (
        pl.col("sha256").is_null(),
        pl.col("unreadable").is_not_null(),
        pl.min_horizontal("width", "height") < settings.min_side,
        pl.lit(training.seen(pictures["id"], pictures["sha256"])) & settings.unseen,
    )
    first = pl.coalesce(pl.when(holds).then(pl.lit(fault)) for fault, holds in zip(FAULTS, rules, strict=True))
    return dict(pictures.select("id", fault=first).drop_nulls().iter_rows())


def _reason_to_skip(
    entry: Reference | None, wanted: bool, faults: dict[int, str], training: int, settings: References
) -> str | None:
    if training < settings.min_posts:
        return f"{training} training pictures, evaluate.references.min_posts needs {settings.min_posts}"
    if not wanted:
        return f"not among the {settings.most_characters} with most training pictures (evaluate.references.most_characters)"
    if not entry:
        return "not in the list of references (evaluate.references.source)"
    left_out = Counter(faults[post] for post in entry.posts if post in faults)
    fit = len(entry.posts) - left_out.total()
    if fit >= settings.pictures:
        return None
    told = ", ".join(f"{left_out[fault]} {fault}" for fault in FAULTS if left_out[fault])
    needed = f"{fit} reference pictures in the list, evaluate.references.pictures needs {settings.pictures}"
    return f"{needed} (left out: {told})" if told else needed
