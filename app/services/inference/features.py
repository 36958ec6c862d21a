"""Embeddings without a model: signed feature hashing (Weinberger et al. 2009) of words, word pairs and character trigrams.

Texts that share words or spellings come out near each other; meaning plays no part. The same text gives the same vector everywhere.
"""

import math
import re
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise

DIMENSIONS = 256


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1, or of zeros for a text without words."""
    vector = [0.0] * dimensions
    for feature in _features(text.lower()):
        hashed = int.from_bytes(blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        vector[(hashed >> 1) % dimensions] += 1.0 if hashed & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector] if norm else vector


def _features(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text)
    for word in words:
        yield "w:" + word
        padded = f"^{word}$"
        yield from ("t:" + padded[at : at + 3] for at in range(len(padded) - 2))
    yield from (f"b:{first} {second}" for first, second in pairwise(words))
