"""What any store holds vectors to: one model and dimension in a collection, finite numbers, and cosines that do not hang on who adds up."""

import math
import operator
import sys
from array import array
from collections.abc import Sequence

from app.errors import EmbeddingMismatch, InvalidBody
from app.services.rag.knowledge import Collection, Cut, Name, Vector


def unit(vector: Vector, of: str) -> Sequence[float]:
    """The vector of length 1 in the direction of this one; zero stays zero. Raises InvalidBody for what is no number."""
    values = [float(value) for value in vector]
    if wrong := [value for value in values if not math.isfinite(value)]:
        raise InvalidBody(f"The vector of {of} holds {wrong[0]}, and a vector is of finite numbers; check what the embedding model gives.")
    largest = max(map(abs, values), default=0.0)
    if not largest:
        return values
    scaled = [value / largest for value in values]  # first, so that no square is too large or too small
    length = math.hypot(*scaled)
    return [value / length for value in scaled]


def kept(vector: Vector, of: str) -> "array[float]":
    """A vector as it is kept: of length 1, in single precision."""
    return array("f", unit(vector, of))


def cosine(query: Sequence[float], vector: Sequence[float]) -> float:
    """Of a query of length 1 and a vector as it is kept, whose length is 1 but for its rounding."""
    length = math.sqrt(_sum_of_products(vector, vector))
    return max(-1.0, min(1.0, _sum_of_products(query, vector) / length)) if length else 0.0


def room(dimension: int) -> float:
    """How far two cosines from sums in single precision can be from what they should be."""
    return 2e-7 * (dimension + 8)


def check_cuts(there: Collection, cuts: Sequence[Cut], model: str | None) -> int:
    """The dimension of the collection once these are in it. Raises EmbeddingMismatch."""
    given = [chunk.vector for cut in cuts for chunk in cut.chunks]
    dimensions = {len(vector) for vector in given if vector is not None}
    named, own = there.of.name, there.embedding
    if own is None:
        if dimensions or model is not None:
            told = f"{named!r} is searched by words alone, and these vectors come from {model!r}"
            raise EmbeddingMismatch(f"The collection {told}; create one with that embedding_model, or ingest without vectors.")
        return 0
    if (model or given) and model != own.model:
        told = f"{named!r} has vectors of {own.model!r}, and these chunks come with {f'those of {model!r}' if model else 'none'}"
        raise EmbeddingMismatch(f"The collection {told}; embed with {own.model!r}, or create another collection for the other model.")
    if any(vector is None for vector in given):
        raise EmbeddingMismatch(f"The collection {named!r} has vectors of {own.model!r}, and a chunk comes with none; embed every chunk.")
    expected = own.dimension or next(iter(dimensions), 0)
    if others := dimensions - {expected}:
        raise mismatch(there.of, own.model, expected, next(iter(others)))
    return expected


def check_query(there: Collection, given: int) -> bool:
    """Whether there are vectors to compare a query of so many dimensions with. Raises EmbeddingMismatch."""
    if there.embedding is None:
        told = f"The collection {there.of.name!r} has no embedding model and is searched by words alone"
        raise EmbeddingMismatch(f"{told}; create one with an embedding_model, or search with the mode words.")
    if there.embedding.dimension not in (0, given):
        raise mismatch(there.of, there.embedding.model, there.embedding.dimension, given)
    return bool(there.embedding.dimension)


def mismatch(of: Name, model: str, dimension: int, given: int) -> EmbeddingMismatch:
    told = f"{of.name!r} has vectors of {model!r} with {dimension} dimensions, and this one has {given}"
    return EmbeddingMismatch(f"The collection {told}; embed with {model!r}, or create another collection for the other model.")


def _sum_of_products(one: Sequence[float], other: Sequence[float]) -> float:
    """Rounded once, so that it is the same in every order of the terms."""
    if sys.version_info >= (3, 12):
        return math.sumprod(one, other)
    return math.fsum(map(operator.mul, one, other))
