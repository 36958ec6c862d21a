"""Cutting texts: the laws that hold of any text and chunking, and where the cuts of real prose fall."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidBody
from app.services.rag.boundaries import joined
from app.services.rag.boundaries import sentences as ends_of_sentences
from app.services.rag.cutting import check_chunking, chunking_of, cut, spans
from app.services.rag.headings import outline
from app.services.rag.knowledge import Chunking
from app.services.rag.measure import count_tokens

PIECES = (
    *("# Title\n\n", "## Part\n", "Title\n=====\n", "```\n# no heading\n```\n", "\n\n", "\r\n\r\n", "\n", " ", "   \t", "    # code\n"),
    *(
        "One sentence. ",
        "Is it? ",
        "Dr. Who said 3.14 vs. e.g. 2. ",
        "word ",
        "unbreakable" * 5,
        "これは文です。",
        "「はい。」",
        "नमस्ते",
        "ก็",
        "\x00",
    ),
    *(
        "e\u0301",
        "👩\u200d👩\u200d👧",
        "🇫🇷🇩🇪",
        "👍🏽",
        "\ud83d\ude00",
        "1234567",
        "- item\n",
        "| a | b |\n",
        "...",
        "\u2028",
        "한국어",
        "각",
    ),
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=12)), max_size=40).map("".join)


@st.composite
def chunkings(draw: st.DrawFn) -> Chunking:
    size = draw(st.integers(1, 80))
    strategy = draw(st.sampled_from(["recursive", "sentence", "fixed"]))
    separators = draw(st.sampled_from([(), ("\n\n", ". ", " "), ("or", "e")])) if strategy == "recursive" else ()
    return Chunking(strategy, size, draw(st.integers(0, size - 1)), draw(st.sampled_from(["characters", "tokens"])), separators)


def length(text: str, unit: str) -> int:
    return count_tokens(text) if unit == "tokens" else len(text)


@given(texts, chunkings())
@example("# A\n\n" + "word " * 30, Chunking(size=20, overlap=19))
def test_every_chunk_fits_and_nothing_of_the_text_is_lost(text: str, chunking: Chunking) -> None:
    end = 0
    for span, chunk in zip(spans(text, chunking), cut(text, chunking), strict=True):
        assert chunk.strip()
        assert length(chunk, chunking.unit) <= chunking.size
        assert chunk.endswith(text[span.start : span.end].rstrip())
        assert not text[end : span.start].strip(), "something between two chunks is lost"
        assert length(text[span.start : end], chunking.unit) <= chunking.overlap
        assert span.end > end
        end = span.end
    assert not text[end:].strip()


@given(texts, chunkings())
def test_a_cut_parts_no_character_that_the_new_part_of_a_chunk_has_room_for(text: str, chunking: Chunking) -> None:
    found = list(spans(text, replace(chunking, overlap=min(chunking.overlap, chunking.size // 3))))
    for before, after in pairwise(found):
        for at in (before.end, after.start):
            if joined(text, at, before.start):
                last = at
                while joined(text, last, before.start):
                    last -= 1
                assert length(text[last : at + 1], chunking.unit) >= chunking.size // 3


@given(texts, st.integers(2, 80))
def test_the_overlap_goes_over_no_heading(text: str, size: int) -> None:
    found = list(spans(text, Chunking(size=size, overlap=size // 2)))
    for before, after in pairwise(found):
        heading = outline(text).last(before.end - 1)
        assert after.start >= before.end or heading is None or heading.start <= after.start


PROSE = """# Guide

Before all of it.

## Install

First get the package. It is on the index, e.g. under its name. Dr. Ruiz wrote version 3.14 of it.

Then run it. Nothing else is needed.

```sh
# not a heading
run --now
```

### From source

Clone it, build it, test it.

## Use

Ask a question. Read the answer.
"""


def test_cuts_fall_on_headings_and_a_chunk_says_what_it_stands_under() -> None:
    chunks = cut(PROSE, Chunking(size=150, overlap=0))
    assert chunks[0] == "# Guide\n\nBefore all of it."
    assert chunks[1].startswith("# Guide\n## Install\n\nFirst get the package.")
    assert chunks[2].startswith("# Guide\n## Install\nThen run it. Nothing else is needed.\n\n```sh\n# not a heading\nrun --now\n```")
    assert chunks[-1].endswith("## Use\n\nAsk a question. Read the answer.")


def test_headings_that_would_take_more_than_a_quarter_are_left_out_the_outermost_first() -> None:
    text = "# A rather long title of all\n\n## Part\n\n" + "Some words here. " * 12
    assert all(chunk.startswith("## Part\nSome words") for chunk in cut(text, Chunking(size=60, overlap=0))[1:])
    assert all(chunk.startswith("Some words") for chunk in cut(text, Chunking(size=30, overlap=0))[2:])


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "word " * 18 + "\n\n# Next\n\n## Deeper\n\n" + "more " * 18
    chunks = cut(text, Chunking(size=100, overlap=0))
    assert chunks[0] == ("word " * 18).strip()
    assert chunks[1].startswith("# Next\n\n## Deeper\n\nmore")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It costs 3.50 today. Buy it now.", ["It costs 3.50 today.", "Buy it now."]),
        ("Dr. No met Mrs. Bond, e.g. at St. Ives. They left.", ["Dr. No met Mrs. Bond, e.g. at St. Ives.", "They left."]),
        ("J. R. R. Tolkien wrote. We read.", ["J. R. R. Tolkien wrote.", "We read."]),
        ('"Why?" he asked. "So!" She left.', ['"Why?" he asked.', '"So!"', "She left."]),
        ("これは文です。次の文\uff01「はい。」終わり", ["これは文です。", "次の文\uff01", "「はい。」", "終わり"]),
        ("See z.B. Seite 4. Danach geht es weiter.", ["See z.B. Seite 4.", "Danach geht es weiter."]),
        ("A heading\n\nThe text", ["A heading", "The text"]),
        ("1. First of all.\n2. Second of all.", ["1. First of all.", "2. Second of all."]),
    ],
)
def test_sentences_end_where_they_do(text: str, sentences: Sequence[str]) -> None:
    ends = [*ends_of_sentences(text, 0, len(text)), len(text)]
    assert [text[start:end].rstrip() for start, end in zip([0, *ends], ends, strict=False) if start < end] == list(sentences)


def test_the_overlap_is_whole_sentences_else_whole_words() -> None:
    text = "The first one is here. The second is too. The third one follows. The fourth ends it."
    chunks = cut(text, Chunking("sentence", 46, 23))
    assert chunks == [
        "The first one is here. The second is too.",
        "The second is too. The third one follows.",
        "The third one follows. The fourth ends it.",
    ]
    assert cut("aaaa bbbb cccc dddd eeee", Chunking(size=14, overlap=6)) == ["aaaa bbbb cccc", "cccc dddd eeee"]


def test_fixed_cuts_by_size_alone() -> None:
    assert cut("abcdefghijklmnopqrst", Chunking("fixed", 8, 3)) == ["abcdefgh", "fghijklm", "klmnopqr", "pqrst"]


def test_separators_take_the_place_of_structure() -> None:
    assert cut("one;two;three, four;five", Chunking(size=12, overlap=0, separators=(";", ", "))) == ["one;two;", "three, four;", "five"]
    assert cut("abcdefghij", Chunking(size=4, overlap=0, separators=("|",))) == ["abcd", "efgh", "ij"]


def test_tokens_are_counted_as_the_documentation_says() -> None:
    counted = {"": 0, "  \n": 0, "hello, world!": 4, "tokenization": 2, "1234": 2, "日本語": 3, "слово": 2}
    assert {text: count_tokens(text) for text in counted} == counted


def _calls(text: str, chunking: Chunking) -> int:
    """How many calls, of Python and of C, a cut makes."""
    count = 0

    def seen(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(seen)
    try:
        cut(text, chunking)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("unit", ["characters", "tokens"])
@pytest.mark.parametrize("strategy", ["recursive", "sentence", "fixed"])
def test_the_work_grows_with_the_text_and_no_faster(unit: str, strategy: str) -> None:
    chunking = Chunking(strategy, 300, 100, unit)
    cut(PROSE, chunking)  # imports the parser
    assert _calls(PROSE * 160, chunking) < 8.5 * _calls(PROSE * 20, chunking)


HOSTILE = (
    "a",
    " ",
    "\n",
    ".",
    '."',
    ". ",
    "\n ",
    "# a\n",
    "#",
    "```\n",
    "- a\n",
    "e" + "\u0301" * 50,
    "🇫🇷",
    "👩\u200d",
    "。",
    "a\n---\n",
    "<a>\n",
    "\r",
    "> ",
)


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    "chunking", [Chunking(), Chunking(size=100_000, overlap=99_999), Chunking("sentence", 500, 100, "tokens")], ids=str
)
def test_no_text_takes_longer_than_its_length_is_worth(piece: str, chunking: Chunking) -> None:
    """Where the time grew with the square of it, a quarter of a megabyte would take a minute, also where each step is one of a regex."""
    text = piece * (250_000 // len(piece))
    begun = time.thread_time()
    chunks = cut(text, chunking)
    assert time.thread_time() - begun < 5
    assert sum(map(len, chunks)) >= len("".join(text.split()))


@pytest.mark.parametrize(
    ("chunking", "param", "told"),
    [
        (Chunking(size=0, overlap=0), "$.chunk_size", "chunk_size is 0; take a whole number from 1 to 100000."),
        (Chunking(size=100_001), "$.chunk_size", "is 100001"),
        (Chunking(size=100, overlap=100), "$.chunk_overlap", "is 100, and a chunk has 100 characters; take less than the chunk's size."),
        (Chunking(overlap=-1), "$.chunk_overlap", "is -1; take 0 or more."),
        (Chunking(unit="words"), "$.chunk_unit", "is 'words', which there is not; take one of characters, tokens."),
        (Chunking(strategy="semantic"), "$.chunk_strategy", "take one of recursive, sentence, fixed."),
    ],
)
def test_a_chunking_that_cannot_be_followed_is_refused(chunking: Chunking, param: str, told: str) -> None:
    with pytest.raises(InvalidBody) as raised:
        check_chunking(chunking)
    assert raised.value.param == param
    assert told in raised.value.message


def test_a_new_size_without_an_overlap_has_the_usual_part_as_overlap() -> None:
    assert chunking_of(Chunking(), size=200).overlap == 30
    assert chunking_of(Chunking(), size=200, overlap=0).overlap == 0
    assert chunking_of(Chunking(), unit="tokens") == Chunking(unit="tokens", overlap=150)
    assert chunking_of(Chunking(overlap=40), strategy="sentence").overlap == 40
    assert chunking_of(Chunking(), separators=("|",)) == Chunking(separators=("|",))
