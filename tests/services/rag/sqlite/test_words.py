"""What SQLite's search by words does beyond the laws of every store: texts without spaces, and accents."""

import pytest

from app.services.rag.sqlite import SqliteStore
from tests.services.rag.samples import OF, collection, cut, places

WITHOUT_SPACES = {
    "大学": "東京大学は本郷にある",
    "学": "東京大学",
    "カフェー": "新しいカフェーで",
    "한국어": "한국어로 쓰다",
    "vLLM推理": "使用 vLLM 进行推理",
}
ACCENTS = {"cafe": "Café", "naïve": "naive", "Ångström": "angstrom", "हिन्दी": "हिन्दी भाषा"}


@pytest.mark.parametrize("query", WITHOUT_SPACES)
async def test_texts_without_spaces_are_found_by_their_parts(store: SqliteStore, query: str) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", WITHOUT_SPACES[query]), cut("other", "大きい学び 別の文"), cut("none", "gardens")], None)
    assert places(await store.by_words(OF, query, (), 9))[0] == ("d", 0)
    await store.delete(OF, ["d"])
    assert ("d", 0) not in places(await store.by_words(OF, query, (), 9))


@pytest.mark.parametrize("query", ACCENTS)
async def test_words_are_compared_without_accents(store: SqliteStore, query: str) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", ACCENTS[query]), cut("other", "gardens")], None)
    assert places(await store.by_words(OF, query, (), 9)) == [("d", 0)]
