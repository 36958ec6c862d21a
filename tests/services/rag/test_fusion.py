"""Ranks of several searches, fused into one list."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.rag.fusion import fuse
from app.services.rag.knowledge import Hit
from tests.services.rag.samples import places


def hits(*names: str, scores: float = 0.5) -> list[Hit]:
    return [Hit(name, 0, f"the text of {name}", scores, {"name": name}) for name in names]


RANKED = st.permutations("abcdefgh").flatmap(lambda names: st.integers(0, 8).map(lambda count: hits(*names[:count])))


def test_what_is_first_in_every_list_has_the_score_1() -> None:
    assert [hit.score for hit in fuse([hits("a"), hits("a")])] == [1.0]
    assert [hit.score for hit in fuse([hits("a"), hits("a"), hits("a", "b")])] == [1.0, pytest.approx(11 / 12 / 3)]
    assert [hit.score for hit in fuse([hits("a", "b")])] == [1.0, 11 / 12]


def test_what_is_good_in_both_lists_is_better_than_what_is_best_in_one() -> None:
    found = fuse([hits("words", "both", "x"), hits("vectors", "both", "y")])
    assert [hit.document_id for hit in found] == ["both", "vectors", "words", "x", "y"]
    assert found[0].score == pytest.approx(11 / 12)
    assert found[1].score == found[2].score == 0.5


def test_a_list_that_was_searched_and_found_nothing_counts() -> None:
    assert [hit.score for hit in fuse([hits("a"), []])] == [0.5]
    assert fuse([[], []]) == fuse([]) == []


def test_a_hit_keeps_its_text_and_metadata_and_chunks_of_a_document_are_different_hits() -> None:
    two = [Hit("d", 1, "second", 9.0, {"k": 1}), Hit("d", 0, "first", 8.0, {"k": 1})]
    found = fuse([two, two[::-1]])
    assert [(hit.chunk, hit.text, hit.metadata) for hit in found] == [(0, "first", {"k": 1}), (1, "second", {"k": 1})]


@given(lists=st.lists(RANKED, min_size=1, max_size=4))
def test_fusion_keeps_every_hit_once_with_a_score_up_to_1_and_does_not_depend_on_the_order_of_lists(lists: list[list[Hit]]) -> None:
    found = fuse(lists)
    assert sorted(places(found)) == sorted({place for each in lists for place in places(each)})
    assert all(0 < hit.score <= 1 for hit in found)
    assert found == fuse(random.Random(len(lists)).sample(lists, len(lists)))
    assert [(-hit.score, hit.document_id) for hit in found] == sorted((-hit.score, hit.document_id) for hit in found)


@given(ranked=RANKED)
def test_one_list_alone_keeps_its_order(ranked: list[Hit]) -> None:
    assert places(fuse([ranked])) == places(ranked)
