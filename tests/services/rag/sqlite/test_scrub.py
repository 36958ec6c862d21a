"""What was deleted is gone from the disk: from tables, from the index of words, from the WAL, and from unused parts of pages."""

import random
from pathlib import Path

import pytest

from app.services.rag.knowledge import Cut
from app.services.rag.sqlite import SqliteStore, file
from tests.services.rag.samples import OF, collection, condition, cut, documents, job
from tests.services.rag.sqlite.files import found, size


@pytest.mark.parametrize("seed", range(5))
async def test_a_deleted_documents_text_is_in_no_file(store: SqliteStore, folder: Path, seed: int) -> None:
    secrets = await with_secrets(store, seed)
    assert found(folder, secrets)
    assert await store.delete(OF, None, condition("secret", "eq", True)) == 100
    assert found(folder, secrets) == []
    assert (await store.collection(OF)).documents == 200
    assert len(await store.by_words(OF, "everywhere", (), 1000)) == 200


async def test_in_a_large_collection_unused_parts_of_pages_are_overwritten_later(
    store: SqliteStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "SMALL_BYTES", 0)
    secrets = await with_secrets(store, 3)
    await store.delete(OF, ["d1"])  # the first time it is done at once
    await with_secrets(store, 3)
    await store.delete(OF, None, condition("secret", "eq", True))
    assert await store.claim(60) is None
    before = size(folder)
    monkeypatch.setattr(file, "SCRUB_S", 0.0)
    assert await store.claim(60) is None
    assert size(folder) < before, "the file was written anew"
    assert found(folder, secrets) == []
    assert len(await store.by_words(OF, "everywhere", (), 1000)) == 200
    before = size(folder)
    await store.put(OF, [cut("d", "more")], None)
    assert await store.claim(60) is None
    assert size(folder) >= before, "and is left alone where nothing was deleted"


async def with_secrets(store: SqliteStore, seed: int) -> list[str]:
    """Words that a third of the collection's documents hold."""
    draw, alphabet = random.Random(seed), "abcdefghijklmnopqrstuvwxyz"
    secrets = [first + "".join(draw.choices(alphabet, k=11)) for first in alphabet]
    await store.create(collection())
    cuts = list[Cut]()
    for number in range(300):
        text = "everywhere " + " ".join("".join(draw.choices(alphabet, k=9)) for _ in range(60))
        chunks = [f"{' '.join(draw.sample(secrets, 8))} {text}", text] if number % 3 == 0 else [text]
        cuts.append(cut(f"d{number}", *chunks, metadata={"secret": len(chunks) == 2, "first": chunks[0][:12]}))
    for start in range(0, 300, 20):
        await store.put(OF, cuts[start : start + 20], None)
    return secrets


async def test_the_text_of_a_replaced_document_is_in_no_file_also_after_a_job(store: SqliteStore, folder: Path) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "quetzalcoatl lives"), cut("e", "xochipilli lives"), cut("f", "stays")], None)
    await store.put(OF, [cut("d", "somebody else")], None)
    assert found(folder, ["quetzalcoatl"]) == []
    await store.add_job(job("j", 1), documents("e"))
    lease = await store.claim(60)
    assert lease
    await store.put(OF, [cut("e", "nobody")], None, lease)
    await store.finish(lease)
    assert found(folder, ["xochipilli"]) == []


async def test_what_waited_in_a_cancelled_job_is_in_no_file(store: SqliteStore, folder: Path) -> None:
    await store.create(collection())
    await store.add_job(job("j", 1), documents("tlahuizcalpantecuhtli"))
    assert found(folder, ["tlahuizcalpantecuhtli"])
    await store.cancel(OF, "j")
    assert found(folder, ["tlahuizcalpantecuhtli"]) == []
