"""How good a list of found documents is. Pure functions; a list has a document as often as chunks of it were found, best first."""

import random
import statistics
from collections.abc import Sequence

TOP = 10
_DRAWS = 2_000


def recall(found: Sequence[str], answers: frozenset[str]) -> float:
    """The share of the answers that is among the first ten."""
    return len(answers & set(found[:TOP])) / len(answers)


def reciprocal(found: Sequence[str], answers: frozenset[str]) -> float:
    """1 / the rank of the first answer among the first ten, 0 without."""
    return next((1 / rank for rank, document in enumerate(found[:TOP], 1) if document in answers), 0.0)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Where the mean lies with 95 %, were the questions drawn anew: the bootstrap, always with the same draws."""
    draw = random.Random(3)
    means = sorted(statistics.fmean(draw.choices(differences, k=len(differences))) for _ in range(_DRAWS))
    return means[_DRAWS * 25 // 1000], means[_DRAWS * 975 // 1000 - 1]
