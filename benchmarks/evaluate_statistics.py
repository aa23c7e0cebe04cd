"""What benchmarks/evaluate.py measures of the statistics, a process each; needs stages/ in PYTHONPATH.

    python benchmarks/evaluate_statistics.py SIDE CHARACTERS OUT.json

Makes features of CHARACTERS characters: 20 references, 4 pictures by each of two models in each of two modes. Then, timed:

  nothing     the features alone: the memory that every side has
  ours        scores, places, bounds, diversity and borderline pairs of every character, figures of the models with bootstrap
              intervals, and both tables
  numpy       scores and places with plain matrix products and numpy's own bootstrap, in float32
  sdeval      scores alone, of the first 200 characters, as deepghs/sdeval 0.0.4 makes them: CCIP's metrics model in ONNX
              Runtime on a character's references and pictures stacked
  bootstrap   ours and numpy's bootstrap of one column, 2000 resamples, in turn
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import repro  # noqa: F401  before numpy, as in the stages

import numpy as np

from ccip.encoder import METRICS_MODEL, WIDTH, open_session
from ccip.results import CharacterFeatures, evaluate
from ccip.statistics import bootstrap_intervals
from ccip.summary import characters_csv, summary
from characters.references import Reference

ROOT = Path(__file__).resolve().parent.parent
MODELS, MODES = ("base", "merged"), ("name", "core_tags")
REFERENCES, PICTURES, SAMPLES, SEED = 20, 4, 2000, 42
THRESHOLD = 0.178
SLICE, ROUNDS = 200, 5
# Differences between a character's pictures lie on both sides of the threshold with these shares of noise in features.
NOISE = {"references": 0.7, "base": 0.82, "merged": 0.76}
# Pictures of one matrix product.
BLOCK = 512
Scores = dict[tuple[str, str], list[float]]


def make_characters(count: int) -> list[CharacterFeatures]:
    """Features about a random direction for each character."""
    draw = np.random.default_rng(SEED)

    def pictures(centre: np.ndarray, number: int, noise: float) -> np.ndarray:
        return (centre + noise * draw.standard_normal((number, WIDTH), dtype=np.float32)).astype(np.float32)

    characters = []
    for i in range(count):
        centre = draw.standard_normal(WIDTH, dtype=np.float32)
        reference = Reference(f"character_{i:05}", "", "1girl", (), (), tuple(range(REFERENCES)), (), 10 + i)
        drawn = {(model, mode): pictures(centre, PICTURES, NOISE[model]) for model in MODELS for mode in MODES}
        characters.append(CharacterFeatures(reference, pictures(centre, REFERENCES, NOISE["references"]), drawn))
    return characters


def ours(characters: list[CharacterFeatures]) -> Scores:
    evaluation = evaluate(MODELS, MODES, characters, [], THRESHOLD)
    summary(evaluation, SAMPLES, SEED, trained=None)
    characters_csv(evaluation)
    return {(model, mode): [r.scores[model, mode].score for r in evaluation.results] for model in MODELS for mode in MODES}


def plain_numpy(characters: list[CharacterFeatures]) -> Scores:
    scores: Scores = {(model, mode): [] for model in MODELS for mode in MODES}
    merged = np.stack([_units(_units(c.references).mean(axis=0, keepdims=True))[0] for c in characters])
    for character in characters:
        references = _units(character.references)
        for key, features in character.pictures.items():
            differences = (1 - references @ _units(features).T) / 2
            scores[key].append(float((differences < THRESHOLD).mean()))
    pictures = [(own, row) for own, c in enumerate(characters) for features in c.pictures.values() for row in features]
    for start in range(0, len(pictures), BLOCK):
        block = pictures[start : start + BLOCK]
        cosines = _units(np.stack([row for _, row in block])) @ merged.T
        own = np.array([number for number, _ in block])
        (cosines > np.take_along_axis(cosines, own[:, None], axis=1)).sum(axis=1)
    for mode in MODES:
        base, after = (np.array(scores[model, mode]) for model in MODELS)
        for column in (base, after, after - base):
            _numpy_interval(column)
    return scores


def _units(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _numpy_interval(column: np.ndarray) -> tuple[float, float]:
    draw = np.random.default_rng(SEED)
    means = [column[draw.integers(len(column), size=len(column))].mean() for _ in range(SAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def as_sdeval(characters: list[CharacterFeatures]) -> Scores:
    session = open_session(ROOT / "models/sample-ccip" / METRICS_MODEL)
    scores: Scores = {(model, mode): [] for model in MODELS for mode in MODES}
    for character in characters:
        for key, features in character.pictures.items():
            (matrix,) = session.run(["output"], {"input": np.concatenate([character.references, features])})
            scores[key].append(float((matrix[:REFERENCES, REFERENCES:] < THRESHOLD).mean(axis=0).mean()))
    return scores


def timed(work: Callable[[], object]) -> tuple[dict[str, float], object]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}, answer


def compare_bootstraps(rows: int) -> dict[str, dict[str, float]]:
    """Least seconds of one column's bootstrap by each side."""
    column = np.random.default_rng(SEED).random(rows)
    best: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for name, work in (
            ("ours", lambda: bootstrap_intervals({"score": column.tolist()}, SAMPLES, SEED)),
            ("numpy", lambda: _numpy_interval(column)),
        ):
            seconds, _ = timed(work)
            best[name] = {key: min(value, best.get(name, seconds)[key]) for key, value in seconds.items()}
    return best


def main(side: str, count: int, target: Path) -> None:
    if side == "bootstrap":
        target.write_text(json.dumps(compare_bootstraps(count)))
        return
    characters = make_characters(min(count, SLICE) if side == "sdeval" else count)
    work = {"nothing": lambda _: {}, "ours": ours, "numpy": plain_numpy, "sdeval": as_sdeval}[side]
    seconds, scores = timed(lambda: work(characters))
    named = {f"{model} {mode}": values for (model, mode), values in scores.items()}
    target.write_text(json.dumps({"seconds": seconds, "characters": len(characters), "scores": named}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
