"""From features to results: the scores of all characters, by every model and in every mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccip.nearest import own_ranks
from ccip.score import CharacterScore, merged_feature, score_character, self_score, upper_bound
from characters.references import Reference, Skipped


@dataclass(frozen=True)
class CharacterFeatures:
    """One character's features: of its K references, float32 [K, 768], and of each model's pictures of it in each mode,
    float32 [M, 768] by (model, mode); K and M may differ from character to character."""

    reference: Reference
    references: np.ndarray
    pictures: dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class CharacterResult:
    """One character's scores by (model, mode).

    references: how many reference pictures it has; upbound: share of them within the threshold of their own merged
    feature; ref_self: the score that they reach against each other, None for one reference.
    """

    reference: Reference
    references: int
    scores: dict[tuple[str, str], CharacterScore]
    upbound: float
    ref_self: float | None


@dataclass(frozen=True)
class Evaluation:
    """The results of all characters, by tag.

    models: in the order given: the first is the one that the others are compared with, the last the one of interest;
    modes: the ways in which pictures were asked for, the headline first.
    """

    models: tuple[str, ...]
    modes: tuple[str, ...]
    results: tuple[CharacterResult, ...]
    skipped: tuple[Skipped, ...]
    threshold: float

    @property
    def headline(self) -> str:
        """The mode whose scores stand for a model: one that all characters have."""
        return self.modes[0]

    def having(self, mode: str) -> list[CharacterResult]:
        """The characters that have pictures in this mode (by every model)."""
        return [result for result in self.results if (self.models[0], mode) in result.scores]


def headline_first(modes: Sequence[str], characters: Sequence[CharacterFeatures]) -> tuple[str, ...]:
    """The modes with the first that every character has in front; the others keep their order.

    Raises:
        ValueError: no mode that all characters have.
    """
    for mode in modes:
        if all(any(asked == mode for _, asked in character.pictures) for character in characters):
            return (mode, *(other for other in modes if other != mode))
    raise ValueError("no mode that all characters have")


def evaluate(
    models: Sequence[str],
    modes: Sequence[str],
    characters: Sequence[CharacterFeatures],
    skipped: Sequence[Skipped],
    threshold: float,
) -> Evaluation:
    """Score every character's pictures against its references; places among all characters are counted over `characters`.

    Args:
        modes: in the order in which they were asked for.
    """
    ordered = sorted(characters, key=lambda character: character.reference.character)
    merged = np.stack([merged_feature(character.references) for character in ordered])
    pictures = [(own, features) for own, character in enumerate(ordered) for features in character.pictures.values()]
    ranks = own_ranks(pictures, merged)
    results = []
    for character in ordered:
        scores = {
            key: score_character(character.references, features, threshold, next(ranks))
            for key, features in character.pictures.items()
        }
        results.append(
            CharacterResult(
                reference=character.reference,
                references=len(character.references),
                scores=scores,
                upbound=upper_bound(character.references, threshold),
                ref_self=self_score(character.references, threshold),
            )
        )
    return Evaluation(tuple(models), headline_first(modes, ordered), tuple(results), tuple(skipped), threshold)
