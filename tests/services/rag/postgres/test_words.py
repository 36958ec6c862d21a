"""How words are found and ranked in PostgreSQL."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InvalidBody
from app.services.rag.knowledge import Name
from app.services.rag.postgres import PostgresStore
from tests.services.rag.samples import OF, collection, cut, ids, places

pytestmark = pytest.mark.databases
WORDS = ["engine", "steam", "rust", "brass", "a", "of"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Crème brûlée", "creme BRULEE"),
        ("e\u0301te\u0301", "été"),
        ("東京大学", "京大"),
        ("서울특별시", "특별"),
        ("हिन्दी में", "हिन्दी"),
        ("ﬁle", "file"),
    ],
)
async def test_words_are_found_without_accents_in_any_composition_and_within_scripts_that_have_no_spaces(
    store: PostgresStore, text: str, query: str
) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", text), cut("other", "gardens 東")], None)
    assert places(await store.by_words(OF, query, (), 9)) == [("d", 0)]
    assert await store.by_words(OF, "京東 हिन xyz", (), 9) == []


async def test_words_longer_than_an_index_takes_are_found_and_a_chunk_of_too_many_is_refused(store: PostgresStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("one", "x" * 100_000), cut("other", "x" * 99_999)], None)
    assert places(await store.by_words(OF, "x" * 100_000, (), 9)) == [("one", 0)]
    with pytest.raises(InvalidBody, match=r"chunk 0 of the document 'big' .* smaller chunks"):
        await store.put(OF, [cut("big", " ".join(f"word{number}" for number in range(100_000)))], None)
    assert await ids(store) == ["one", "other"]


def bm25(texts: Sequence[str], query: str) -> list[float]:
    """By Robertson and Zaragoza, with k1 = 1.2, b = 0.75 and an idf that is never negative; a word counts up to 16 times in a text."""
    counted = [Counter(text.split()) for text in texts]
    mean = sum(each.total() for each in counted) / len(texts)
    scores = []
    for each in counted:
        score = 0.0
        for word in {*query.split()}:
            holders = sum(word in other for other in counted)
            idf, times = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5)), min(each[word], 16)
            score += idf * 2.2 * times / (times + 1.2 * (0.25 + 0.75 * each.total() / mean))
        scores.append(score)
    return scores


TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=6), query=TEXT, limit=st.integers(1, 6))
async def test_words_are_ranked_by_bm25(store: PostgresStore, texts: list[str], query: str, limit: int) -> None:
    await store.create(collection())
    await store.put(OF, [cut(f"d{number}", text) for number, text in enumerate(texts)], None)
    expected = {f"d{number}": score for number, score in enumerate(bm25(texts, query)) if score}
    found = await store.by_words(OF, query, (), limit)
    assert [hit.score for hit in found] == pytest.approx(sorted(expected.values(), reverse=True)[:limit], abs=1e-6)
    assert [hit.score for hit in found] == pytest.approx([expected[hit.document_id] for hit in found], abs=1e-6)
    assert found == sorted(found, key=lambda hit: (-hit.score, hit.document_id))
    await store.drop(OF)


async def test_one_collection_does_not_count_in_the_ranks_of_another(store: PostgresStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "rust engine"), cut("e", "steam")], None)
    alone = await store.by_words(OF, "rust engine steam", (), 9)
    await store.create(collection(Name("other")))
    await store.put(Name("other"), [cut(f"o{number}", "rust rust rust") for number in range(20)], None)
    assert await store.by_words(OF, "rust engine steam", (), 9) == alone
