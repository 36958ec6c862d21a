"""Files in a folder that several processes use, one of them frozen, damaged, dropped or of a newer build."""

import asyncio
import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.errors import CollectionNotFound, ConfigError, StoreUnavailable
from app.services.rag.knowledge import Name
from app.services.rag.sqlite import SqliteStore, connections, file, unwritten
from tests.services.rag import processes
from tests.services.rag.samples import OF, collection, cut, documents, ids, job, places
from tests.services.rag.sqlite.files import data, left, modes, names
from tests.services.rag.stores import Place

OTHER = Name("other")

STOP_IN_A_TRANSACTION = """
import os, signal
from app.services.rag.sqlite import documents, file
with store._opened(OF) as (path, connection), file.transaction(connection, write=True):
    documents.put(connection, [Cut(Document("inside", "text"), [Chunk("text")])], None)
    os.kill(os.getpid(), signal.SIGSTOP)
print("committed", flush=True)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "BUSY_TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("impatient")
async def test_a_process_frozen_while_it_writes_keeps_others_from_writing_that_collection_and_from_nothing_else(
    store: SqliteStore, place: Place
) -> None:
    for of in (OF, OTHER):
        await store.create(collection(of))
    await store.put(OF, [cut("before", "some text")], None)
    await store.add_job(job("blocked", 0, OF, 1.0), [])
    await store.add_job(job("free", 0, OTHER, 2.0), [])
    async with processes.process(place, STOP_IN_A_TRANSACTION) as frozen:
        await stopped(frozen)
        assert await ids(store) == ["before"]
        assert places(await store.by_words(OF, "text", (), 9)) == [("before", 0)]
        with pytest.raises(StoreUnavailable, match="stands still in the middle of it: try again"):
            await store.put(OF, [cut("late", "text")], None)
        await asyncio.gather(*(store.put(OTHER, [cut(str(number), "text")], None) for number in range(9)))
        assert await store.create(collection(Name("third")))
        lease = await store.claim(60)
        assert lease
        assert lease.job.id == "free"
        assert len(await store.collections()) == 3
        await store.probe()
        frozen.send_signal(signal.SIGCONT)
        assert await processes.line(frozen) == "committed"
        assert await ids(store) == ["before", "inside"]
        await store.put(OF, [cut("late", "text")], None)


@pytest.mark.usefixtures("impatient")
async def test_a_collection_that_a_frozen_process_is_writing_can_be_dropped_and_made_anew(store: SqliteStore, place: Place) -> None:
    await store.create(collection())
    async with processes.process(place, STOP_IN_A_TRANSACTION) as frozen:
        await stopped(frozen)
        assert await store.drop(OF)
        assert await store.create(collection())
        await store.put(OF, [cut("new", "text")], None)
        frozen.send_signal(signal.SIGCONT)
        assert await processes.line(frozen) == "committed"
        await frozen.wait()
        await store.put(OF, [cut("newer", "text")], None)
        assert await ids(store) == ["new", "newer"]


async def test_writes_that_wait_for_a_blocked_file_leave_threads_for_the_others(store: SqliteStore, place: Place) -> None:
    for of in (OF, OTHER):
        await store.create(collection(of))
    async with processes.process(place, STOP_IN_A_TRANSACTION) as frozen:
        await stopped(frozen)
        waiting = [asyncio.create_task(store.put(OF, [cut(str(number), "text")], None)) for number in range(9)]
        for number in range(9):
            await store.put(OTHER, [cut(str(number), "text")], None)
        assert not any(task.done() for task in waiting)
        frozen.send_signal(signal.SIGCONT)
        await asyncio.gather(*waiting)
    assert len(await ids(store)) == 10


async def stopped(child: asyncio.subprocess.Process) -> None:
    """Until it has stopped itself; read from /proc, because waiting for a child is asyncio's alone."""
    async with asyncio.timeout(20):
        while state_of(child.pid) != "T":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


async def test_a_dropped_collection_leaves_no_file_behind(store: SqliteStore, place: Place, folder: Path) -> None:
    second = place.store()
    async with second.open():
        for of in (OF, OTHER):
            await store.create(collection(of))
            await store.put(of, [cut("d", "text")], None)
        assert await ids(second) == await ids(store) == ["d"]
        await store.drop(OF)
        await store.drop(OTHER)
        await second.collections()
    assert names(folder) == set()


async def test_what_a_killed_process_left_of_a_collection_is_removed_and_what_is_being_made_is_not(folder: Path) -> None:
    first, second = SqliteStore(folder, "5" * 12), SqliteStore(folder, "5" * 12)
    async with first.open():
        await first.create(collection())
        await first.put(OF, [cut("d", "text")], None)
    left(folder, "dead.sqlite", "dead.sqlite-wal", "killed.draft", "killed.sqlite")
    async with second.open():
        assert not [name for name in names(folder) if name.startswith(("dead", "killed"))]
        assert await ids(second) == ["d"]
        with second._folder._draft("made", OTHER, folder / "made.sqlite"):
            left(folder, "made.sqlite")
            async with SqliteStore(folder, "5" * 12).open():
                assert "made.sqlite" in names(folder)


async def test_a_file_of_a_newer_build_is_refused_by_name(folder: Path) -> None:
    store = SqliteStore(folder, "5" * 12)
    async with store.open():
        await store.create(collection())
    [name] = data(folder)
    with closing(sqlite3.connect(folder / name)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match=r"has version 99.*run the newer build"):
        async with SqliteStore(folder, "5" * 12).open():
            pass


async def test_a_damaged_file_is_named_with_the_remedy_and_hinders_nobody_else(store: SqliteStore, folder: Path) -> None:
    await store.create(collection(OTHER))
    healthy = data(folder)
    await store.create(collection())
    [name] = data(folder) - healthy
    left(folder, name)
    with pytest.raises(StoreUnavailable, match=rf"{name}.*restore it from a backup, or delete the collection"):
        await store.put(OF, [cut("d", "text")], None)
    await store.add_job(job("j", 0, OTHER), [])
    lease = await store.claim(60)
    assert lease
    assert lease.job.of == OTHER
    assert store.names() == {OF, OTHER}
    assert await store.drop(OF)
    assert [each.of for each in await store.collections()] == [OTHER]


async def test_a_node_starts_with_a_damaged_file_and_names_it_when_it_is_used(store: SqliteStore, place: Place, folder: Path) -> None:
    await store.create(collection())
    [name] = data(folder)
    left(folder, name)
    second = place.store()
    async with second.open():
        assert second.names() == {OF}
        with pytest.raises(StoreUnavailable, match=f"'handbook': .*{name}"):
            await second.collections()


async def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    left(tmp_path, "file")
    with pytest.raises(StoreUnavailable, match=r"Knowledge cannot use .*file"):
        async with SqliteStore(tmp_path / "file" / "rag", "5" * 12).open():
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(store: SqliteStore, folder: Path) -> None:
    with read_only(folder):
        with pytest.raises(StoreUnavailable, match="writable"):
            await store.probe()
        with pytest.raises(StoreUnavailable, match="writable"):
            await store.create(collection())


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


async def test_files_are_the_groups_too(store: SqliteStore, folder: Path) -> None:
    await store.create(collection())
    await store.put(OF, [cut("d", "text")], None)
    assert modes(folder) == dict.fromkeys((".collection", ".sqlite", ".sqlite-wal", ".sqlite-shm"), 0o660)


async def test_a_collection_that_cannot_be_written_leaves_no_file_behind(store: SqliteStore, folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(StoreUnavailable):
            await store.create(collection())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(folder) == set()


async def test_collections_that_nobody_writes_are_not_opened_again_and_again(
    store: SqliteStore, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[Path]()

    def connect(path: Path, real: Callable[[Path], sqlite3.Connection] = file.connect) -> sqlite3.Connection:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(file, "connect", connect)
    monkeypatch.setattr(unwritten, "_SETTLED_S", -1.0)
    monkeypatch.setattr(connections, "MAX_IDLE", 1)
    other = place.store()
    async with other.open():
        for of in (OF, OTHER, Name("third")):
            await other.create(collection(of))
        for _ in range(2):
            await store.collections()
            assert await store.claim(60) is None
        opened.clear()
        for _ in range(9):
            await store.collections()
            assert await store.claim(60) is None
        assert opened == []
        await other.put(OF, [cut("d", "text")], None)
        assert [each.documents for each in await store.collections()] == [1, 0, 0]
        await other.add_job(job("j", 1, OTHER), documents("d"))
        lease = await store.claim(0)
        assert lease
        assert lease.job.of == OTHER
        assert await store.claim(60), "whose lease ran out, though nobody has written"


async def test_whoever_uses_a_collection_that_is_dropped_meanwhile_hears_that_it_is_gone(store: SqliteStore, place: Place) -> None:
    await store.create(collection())
    other = place.store()

    async def use() -> None:
        with store._opened(OF) as (_, connection):
            await other.drop(OF)
            connection.execute("SELECT * FROM no_table")  # stands for the I/O errors that depend on the moment

    async with other.open():
        with pytest.raises(CollectionNotFound, match="'handbook'"):
            await use()
