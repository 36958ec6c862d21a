"""Embeddings without a model: signed feature hashing (Weinberger et al. 2009) of words, word pairs and character trigrams.

Texts that share words or spellings come out near each other; meaning plays no part. The same text gives the same vector everywhere.
"""

import math
import re
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from app.errors import BadRequest
from app.services.inference.answer import embeddings

DIMENSIONS = 256
MAX_NUMBERS = 1_000_000
"""In one answer: 24 MB of floats and 20 MB of JSON, whatever a small request asks for."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI embeddings request, answered. Raises BadRequest for more than MAX_NUMBERS. Takes its time: call it in a thread."""
    given = request["input"]
    texts = [str(text) for text in given] if isinstance(given, list) else [given]
    dimensions = request.get("dimensions") or DIMENSIONS
    if len(texts) * dimensions > MAX_NUMBERS:
        told = f"{len(texts)} texts in {dimensions} dimensions are more than {MAX_NUMBERS} numbers"
        raise BadRequest(f"{told}; send fewer texts or ask for fewer dimensions.", param="input")
    vectors = [embed(text, dimensions) for text in texts]
    tokens = sum(len(text.split()) for text in texts)
    return embeddings(str(request["model"]), vectors, tokens, request.get("encoding_format"))


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1, or of zeros for a text without words."""
    vector = [0.0] * dimensions
    for feature in _features(text.lower()):
        hashed = int.from_bytes(blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        vector[(hashed >> 1) % dimensions] += 1.0 if hashed & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector] if norm else vector


def _features(text: str) -> Iterator[str]:
    before = ""
    for match in re.finditer(r"\w+", text):
        word = match[0]
        yield "w:" + word
        padded = f"^{word}$"
        yield from ("t:" + padded[at : at + 3] for at in range(len(padded) - 2))
        if before:
            yield f"b:{before} {word}"
        before = word
