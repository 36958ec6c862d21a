import base64
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest, InvalidBody
from app.services.inference.features import DIMENSIONS, MAX_NUMBERS, embed
from tests.services.inference.fakes import ask, inference


def likeness(first: str, second: str) -> float:
    return sum(a * b for a, b in zip(embed(first), embed(second), strict=True))


@given(st.text(), st.integers(min_value=1, max_value=512))
def test_every_text_has_a_vector_of_length_one_or_zero(text: str, dimensions: int) -> None:
    vector = embed(text, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1) or not any(vector)


def test_texts_that_share_words_are_nearer() -> None:
    assert likeness("the cat sat on the mat", "a cat on a mat") > likeness("the cat sat on the mat", "quarterly revenue grew")
    assert math.isclose(likeness("Same Text", "same text"), 1)


def test_another_process_gives_the_same_vector() -> None:
    code = "from app.services.inference.features import embed; print(sum(embed('grüße aus köln')[::3]))"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert float(found.stdout) == sum(embed("grüße aus köln")[::3])


async def test_embeddings_are_answered_as_openai_does(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        one = await ask(app, "/v1/embeddings", {"model": "builtin", "input": "two words"})
        many = await ask(app, "/v1/embeddings", {"model": "default", "input": ["two words", "b"], "encoding_format": "base64"})
        small = await ask(app, "/v1/embeddings", {"input": "two words", "dimensions": 8})
    assert one["data"][0]["embedding"] == embed("two words")
    assert one["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    packed = struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(many["data"][0]["embedding"]))
    assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(packed, embed("two words"), strict=True))
    assert [row["index"] for row in many["data"]] == [0, 1]
    assert len(small["data"][0]["embedding"]) == 8


async def test_a_small_request_for_a_huge_answer_is_refused(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(BadRequest, match="500 texts in 65536 dimensions are more than 1000000 numbers") as caught:
            await ask(app, "/v1/embeddings", {"input": ["a"] * 500, "dimensions": 65536})
        with pytest.raises(InvalidBody) as crowded:
            await ask(app, "/v1/embeddings", {"input": ["a"] * 2049, "dimensions": 1})
        largest = await ask(app, "/v1/embeddings", {"input": ["a"] * 1000, "dimensions": MAX_NUMBERS // 1000})
    assert (caught.value.status, crowded.value.param) == (400, "$.input")
    assert (len(largest["data"]), len(largest["data"][-1]["embedding"])) == (1000, 1000)


async def test_a_model_of_null_is_the_default_model(tmp_path: Path) -> None:
    async with inference(tmp_path) as app:
        vectors = await ask(app, "/v1/embeddings", {"model": None, "input": "a"})
        said = await ask(app, "/v1/chat/completions", {"model": None, "messages": [{"role": "user", "content": "hello"}]})
    assert (vectors["model"], said["model"]) == ("builtin", "builtin")


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]], ["a", 1]])
async def test_tokens_are_refused_for_the_rules_have_none(tmp_path: Path, tokens: list[object]) -> None:
    async with inference(tmp_path) as app:
        with pytest.raises(BadRequest, match="no tokens; send `input` as a text") as caught:
            await ask(app, "/v1/embeddings", {"input": tokens})
    assert caught.value.param == "input"
