"""The laws of a store of knowledge: what is found by words, by vectors, and through filters."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import EmbeddingMismatch
from app.services.rag.knowledge import Chunk, Condition, Cut, Document, Filter, Name, Operator
from app.services.rag.store import KnowledgeStore
from tests.services.rag import reference
from tests.services.rag.samples import MODEL, OF, collection, condition, cut, ids, job, places, vectors

EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
FRESH = itertools.count()

KEYS = st.sampled_from(["a", "b", "", "a.b", "$", 'say "x"', "ключ"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(2**60), 2**60),
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 2.5, 1e300, -1e-300]),
    st.sampled_from(["", "1", "1.0", "true", "a", "A", "aa", "b", "é", "漢", "🙂", "null"]),
)
METADATA = st.dictionaries(KEYS, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
CONDITIONS = st.one_of(
    st.builds(
        Condition, KEYS, st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), st.lists(SCALARS, min_size=1, max_size=3).map(tuple)
    ),
    st.builds(Condition, KEYS, st.just("exists"), st.booleans().map(lambda value: (value,))),
)
FILTERS = st.lists(CONDITIONS, max_size=3).map(tuple)


@EXAMPLES
@given(given_metadata=st.lists(METADATA, min_size=1, max_size=12), where=FILTERS, limit=st.integers(1, 6))
async def test_a_filter_means_the_same_everywhere_and_never_costs_results(
    store: KnowledgeStore, given_metadata: list[dict[str, Any]], where: Filter, limit: int
) -> None:
    of = Name(f"filters-{next(FRESH)}")
    await store.create(collection(of, dimension=2))
    cuts = [vectors(f"d{number:02}", (1.0, float(number)), metadata=each) for number, each in enumerate(given_metadata)]
    await store.put(of, cuts, MODEL)
    matching = [each.document.id for each in cuts if reference.holds(where, each.document.metadata)]
    assert await ids(store, of, where) == matching
    by_vector = await store.by_vector(of, (1.0, 0.0), where, limit)
    assert [hit.document_id for hit in by_vector] == matching[:limit]
    by_words = await store.by_words(of, "chunk", where, limit)
    assert len(by_words) == min(limit, len(matching))
    assert {hit.document_id for hit in by_words} <= set(matching)
    assert await store.delete(of, None, where) == len(matching)
    assert await ids(store, of) == [each.document.id for each in cuts if each.document.id not in matching]
    await store.add_job(job("j", len(cuts), of), [each.document for each in cuts])
    assert await store.delete(of, None, where) == len(matching), "those that wait in a job"
    assert (await store.job(of, "j")).total == len(cuts) - len(matching)
    await store.drop(of)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (condition("n", "eq", 1), ["one", "list"]),
        (condition("n", "eq", 1.0), ["one", "list"]),
        (condition("n", "eq", True), ["true"]),
        (condition("n", "eq", "1"), ["text"]),
        (condition("n", "eq", None), ["null"]),
        (condition("n", "eq", 1, "1"), ["one", "text", "list"]),
        (condition("n", "ne", 1), ["true", "text", "absent", "null", "object"]),
        (condition("n", "ne", 1, "1"), ["true", "absent", "null", "object"]),
        (condition("n", "gt", 0), ["one", "list"]),
        (condition("n", "lt", 0), []),
        (condition("n", "gte", "0"), ["text", "list"]),
        (condition("n", "lte", False), []),
        (condition("n", "gt", None), []),
        (condition("n", "exists", True), ["one", "true", "text", "list", "null", "object"]),
        (condition("n", "exists", False), ["absent"]),
        (condition("n", "eq", {"b": 2, "a": 1}), ["object"]),
        (condition("n", "exists", True) + condition("n", "ne", 1) + condition("n", "lt", "2"), ["text"]),
    ],
)
async def test_a_condition_compares_numbers_with_numbers_and_texts_with_texts_and_lists_by_their_elements(
    store: KnowledgeStore, where: Filter, found: list[str]
) -> None:
    given_metadata: dict[str, dict[str, Any]] = {
        "one": {"n": 1},
        "true": {"n": True},
        "text": {"n": "1"},
        "list": {"n": [1, "x", 7]},
        "absent": {"m": 1},
        "null": {"n": None},
        "object": {"n": {"a": 1, "b": 2}},
    }
    await store.create(collection())
    await store.put(OF, [cut(name, "text", metadata=metadata) for name, metadata in given_metadata.items()], None)
    assert await ids(store, OF, where) == sorted(found)


async def test_whole_numbers_of_any_size_are_kept_and_compared(store: KnowledgeStore) -> None:
    await store.create(collection())
    numbers = {"large": 10**400, "middle": 2**53 + 1, "small": -(10**400)}
    await store.put(OF, [cut(name, "text", metadata={"n": number}) for name, number in numbers.items()], None)
    assert await ids(store, OF, condition("n", "gt", 0)) == ["large", "middle"]
    assert await ids(store, OF, condition("n", "lt", -(10**300))) == ["small"]
    assert await ids(store, OF, condition("n", "eq", float(2**53))) == []
    assert (await store.document(OF, "large"))[0].metadata == {"n": 10**400}


@pytest.mark.parametrize(("is_", "found"), [("eq", ["number", "text"]), ("ne", ["other"])])
async def test_a_filter_may_name_thousands_of_values_of_every_kind(store: KnowledgeStore, is_: Operator, found: list[str]) -> None:
    await store.create(collection())
    await store.put(
        OF, [cut(name, name, metadata={"n": value}) for name, value in (("number", 4999), ("text", "4999"), ("other", 9e9))], None
    )
    where = condition("n", is_, *range(5000), *map(str, range(5000)))
    assert await ids(store, OF, where) == found
    assert sorted(hit.document_id for hit in await store.by_words(OF, "number text other", where, 9)) == found


async def test_few_that_match_are_found_among_many_that_do_not(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    cuts = [vectors(f"d{number:04}", (1.0, number / 1000), metadata={"rare": number % 250 == 249}) for number in range(1000)]
    await store.put(OF, cuts, MODEL)
    where = condition("rare", "eq", True)
    rare = [f"d{number:04}" for number in (249, 499, 749, 999)]
    assert [hit.document_id for hit in await store.by_vector(OF, (1.0, 0.0), where, 4)] == rare
    assert sorted(hit.document_id for hit in await store.by_words(OF, "chunk", where, 4)) == rare


COMPONENTS = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32))


def searches(dimension: int) -> st.SearchStrategy[tuple[list[list[list[float]]], list[float]]]:
    """The vectors of some documents, and a query."""
    vector = st.lists(COMPONENTS, min_size=dimension, max_size=dimension)
    return st.tuples(st.lists(st.lists(vector, max_size=3), max_size=8), vector)


@EXAMPLES
@given(asked=st.integers(1, 5).flatmap(searches), limit=st.integers(1, 8))
async def test_the_nearest_are_exactly_those_of_a_plain_search_through_all(
    store: KnowledgeStore, asked: tuple[list[list[list[float]]], list[float]], limit: int
) -> None:
    of, (given_vectors, query) = Name(f"vectors-{next(FRESH)}"), asked
    await store.create(collection(of, dimension=len(query)))
    cuts = [vectors(f"d{number}", *each, metadata={"odd": number % 2}) for number, each in enumerate(given_vectors)]
    await store.put(of, cuts, MODEL)
    for where in ((), condition("odd", "eq", 1)):
        expected = reference.nearest(cuts, query, where)
        found = await store.by_vector(of, query, where, limit)
        assert [-hit.score for hit in found] == pytest.approx([score for score, _, _ in expected[:limit]], abs=1e-6)
        assert [(-hit.score, hit.document_id, hit.chunk) for hit in found] == sorted(
            (-hit.score, hit.document_id, hit.chunk) for hit in found
        )
        own = {(document_id, chunk): score for score, document_id, chunk in expected}
        assert [-hit.score for hit in found] == pytest.approx([own[place] for place in places(found)], abs=1e-6)
    await store.drop(of)


async def test_equal_vectors_come_in_the_order_of_document_and_chunk(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    names = [f"d{number:03}" for number in range(40)]
    for name in random.Random(1).sample(names, len(names)):
        await store.put(OF, [vectors(name, (0.0, 1.0), (3.0, 4.0), (6.0, 8.0))], MODEL)
    await store.put(OF, [vectors("far", (-1.0, 0.0)), vectors("zero", (0.0, 0.0))], MODEL)
    expected = [(name, chunk) for name in names for chunk in (1, 2)] + [(name, 0) for name in names]
    for limit in (1, 7, 79, 80, 81, 120):
        assert places(await store.by_vector(OF, (3.0, 4.0), (), limit)) == expected[:limit]
    assert places(await store.by_vector(OF, (3.0, 4.0), (), 1000))[-2:] == [("zero", 0), ("far", 0)]


async def test_a_zero_vector_has_the_cosine_0_to_everything(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    await store.put(OF, [vectors("b", (1.0, 0.0), (0.0, 0.0)), vectors("a", (-1.0, 0.0))], MODEL)
    assert [(hit.document_id, hit.chunk, hit.score) for hit in await store.by_vector(OF, (0.0, 0.0), (), 9)] == [
        ("a", 0, 0.0),
        ("b", 0, 0.0),
        ("b", 1, 0.0),
    ]
    assert [round(hit.score, 6) for hit in await store.by_vector(OF, (5.0, 0.0), (), 9)] == [1.0, 0.0, -1.0]


async def test_very_long_and_very_short_vectors_are_compared_by_direction(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    await store.put(OF, [vectors("long", (1e38, 1e38)), vectors("short", (1e-38, 0.0)), vectors("plain", (0.0, 1.0))], MODEL)
    for scale in (1e38, 1.0, 1e-38):
        found = await store.by_vector(OF, (scale, 0.0), (), 3)
        assert places(found) == [("short", 0), ("long", 0), ("plain", 0)]
        assert [hit.score for hit in found] == pytest.approx([1.0, 0.5**0.5, 0.0], abs=1e-6)


async def test_the_nearest_follow_every_change_at_once_also_in_another_process(store: KnowledgeStore, other: KnowledgeStore) -> None:
    await store.create(collection(dimension=2))
    draw, model = random.Random(5), dict[str, Cut]()
    for turn in range(40):
        one, two = (store, other) if turn % 2 else (other, store)
        name = f"d{draw.randrange(8)}"
        if draw.random() < 0.3:
            await one.delete(OF, [name])
            model.pop(name, None)
        else:
            model[name] = vectors(name, *((draw.uniform(-1, 1), draw.uniform(-1, 1)) for _ in range(draw.randrange(4))))
            await one.put(OF, [model[name]], MODEL)
        expected = [(document_id, chunk) for _, document_id, chunk in reference.nearest(list(model.values()), (1.0, 0.5), ())]
        assert places(await one.by_vector(OF, (1.0, 0.5), (), 5)) == expected[:5]
        assert places(await two.by_vector(OF, (1.0, 0.5), (), 100)) == expected


async def test_a_query_vector_of_another_dimension_is_refused(store: KnowledgeStore) -> None:
    await store.create(collection(dimension=0))
    await store.put(OF, [vectors("d", (1.0, 0.0))], MODEL)
    with pytest.raises(EmbeddingMismatch, match=r"ollama/embedder.*2 dimensions.*has 3"):
        await store.by_vector(OF, (1.0, 0.0, 0.0), (), 9)


async def test_a_collection_of_words_alone_refuses_a_query_by_vector(store: KnowledgeStore) -> None:
    await store.create(collection())
    with pytest.raises(EmbeddingMismatch, match="words alone"):
        await store.by_vector(OF, (1.0,), (), 9)


async def test_a_store_says_what_searches_vectors(store: KnowledgeStore) -> None:
    name, version = store.vectors.split()
    assert name in ("sqlite-vec", "numpy", "pgvector")
    assert version[0].isdigit()
    assert store.no_vectors == ""


async def test_chunks_that_share_a_word_are_found_best_first(store: KnowledgeStore) -> None:
    await store.create(collection())
    texts = {"both": "the rusty engine", "one": "an engine of steam and of brass and of wood and of iron", "none": "gardens"}
    await store.put(OF, [cut(name, text) for name, text in texts.items()], None)
    found = await store.by_words(OF, "rusty engine", (), 9)
    assert places(found) == [("both", 0), ("one", 0)]
    assert found[0].score > found[1].score > 0
    assert await store.by_words(OF, "rusty engine", (), 1) == found[:1]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("ENGINE", "an engine"),
        ("engine?", "(engine)"),
        ("what is an engine", "engine"),
        ("42", "the answer is 42."),
        ("Straße", "straße"),
        ("ÄÖÜ", "äöü"),
        ("the engine's", "engine"),
    ],
)
async def test_words_are_compared_without_case_and_punctuation(store: KnowledgeStore, query: str, text: str) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", text), cut("other", "gardens")], None)
    assert places(await store.by_words(OF, query, (), 9)) == [("d", 0)]


QUERIES = [
    "",
    " ",
    "\0",
    "...",
    '"',
    '""',
    "'",
    "*",
    "^",
    "-",
    "NEAR",
    "AND",
    "a AND",
    "OR OR",
    "NOT x",
    "NEAR(a b, 2)",
    "text:",
    "{a b}: c",
]
QUERIES += ["a* ^b -c +d", ")(", "\\", "%", ";--", "\ud800", "\ufffe", "🙂", "a\0b", "<->", "a & b | !c", ":*"]


@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_by_words_is_an_error_or_an_expression(store: KnowledgeStore, query: str) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "needle in gardens"), cut("e", "gardens")], None)
    assert "d" not in [hit.document_id for hit in await store.by_words(OF, query, (), 9)]
    assert places(await store.by_words(OF, f"{query} needle {query}", (), 9)) == [("d", 0)]


async def test_operators_are_words_like_any_other(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("near", "near the end"), cut("garden", "a garden")], None)
    assert places(await store.by_words(OF, "NEAR", (), 9)) == [("near", 0)]
    assert len(await store.by_words(OF, "garden NOT near", (), 9)) == 2


async def test_a_query_of_100_kb_is_searched(store: KnowledgeStore) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "needle"), cut("e", "gardens")], None)
    for query in (
        "needle " + "x" * 100_000,
        "needle " * 14_000,
        "needle " + " ".join(f"w{number}" for number in range(15_000)),
        '" ' * 50_000,
    ):
        assert places(await store.by_words(OF, query, (), 9)) == ([("d", 0)] if "needle" in query else [])


@EXAMPLES
@given(query=st.text(max_size=40), text=st.text(max_size=40))
async def test_any_text_can_be_kept_and_any_query_asked(store: KnowledgeStore, query: str, text: str) -> None:
    of = Name(f"texts-{next(FRESH)}")
    await store.create(collection(of))
    await store.put(of, [Cut(Document("d", text), [Chunk(f"needle {text}")])], None)
    assert await store.document(of, "d") == (Document("d", text), 1)
    assert [hit.text for hit in await store.by_words(of, f"{query} needle", (), 9)] == [f"needle {text}"]
    await store.delete(of, ["d"])
    assert await store.by_words(of, f"{query} needle", (), 9) == []
    await store.drop(of)
