"""Disks that are full, damaged, locked or somebody else's: always 503 store_unavailable with a remedy, never anything else."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.errors import ConfigError, StoreUnavailable
from app.services.memory import sqlite_slots as slots
from app.services.memory.conversation import Conversation, MemorySettings
from app.services.memory.sqlite_conversations import ConversationStore

OF = Conversation("a", "", "s")
SAID = b'[{"role":"user","content":"x"}]'


@contextmanager
def opened(folder: Path) -> Iterator[ConversationStore]:
    store = ConversationStore(folder, MemorySettings())
    store.open()
    try:
        yield store
    finally:
        store.close()


def test_a_full_disk_refuses_the_turn_and_keeps_the_rest(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.append(OF, "t1", SAID)
        pages = store._own._sql.execute("PRAGMA page_count").fetchone()[0]
        store._own._sql.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailable, match="make room on its disk"):
            store.append(OF, "t2", b'["' + b"x" * 100_000 + b'"]')
        assert [turn.turn_id for turn in store.history(OF).turns] == ["t1"]
        store._own._sql.execute("PRAGMA max_page_count = 1000000")
        store.append(OF, "t2", SAID)
        assert [turn.turn_id for turn in store.history(OF).turns] == ["t1", "t2"]


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.append(OF, "t1", SAID)
    (tmp_path / "conversations-0.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"conversations-0\.sqlite.*the file is damaged.*backup or move it away"):
        ConversationStore(tmp_path, MemorySettings()).open()
    with pytest.raises(StoreUnavailable, match="the file is damaged"):
        ConversationStore(tmp_path, MemorySettings()).open()


def test_a_damaged_file_of_another_process_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        (tmp_path / "conversations-7.sqlite").write_bytes(b"no database" * 1000)
        for action in (lambda: store.history(OF), lambda: store.append(OF, "t1", SAID), lambda: store.clear(OF)):
            with pytest.raises(StoreUnavailable, match=r"conversations-7\.sqlite.*damaged"):
                action()


def test_a_file_that_a_foreign_program_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "BUSY_TIMEOUT_S", 0.01)
    with opened(tmp_path) as store, closing(sqlite3.connect(tmp_path / "conversations-0.sqlite", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="stop the backup or shell that has it open"):
            store.append(OF, "t1", SAID)
        shell.execute("COMMIT")
        assert store.append(OF, "t1", SAID)


def test_a_file_of_a_newer_build_is_a_configuration_error(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "conversations-0.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match=r"conversations-0\.sqlite: has version 9, and this build knows 1; run the newer build"):
        ConversationStore(tmp_path, MemorySettings()).open()
    with pytest.raises(ConfigError):
        ConversationStore(tmp_path, MemorySettings()).open()


def test_a_file_in_the_place_of_the_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("")
    with pytest.raises(StoreUnavailable, match="Memory cannot use"):
        ConversationStore(tmp_path / "memory", MemorySettings()).open()


def test_files_removed_while_in_use_are_noticed(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.append(OF, "t1", SAID)
        for file in tmp_path.iterdir():
            file.unlink()
        with pytest.raises(StoreUnavailable, match="gone while in use"):
            store.append(OF, "t2", SAID)


def test_a_half_made_slot_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "conversations-0.new").write_bytes(b"half")
    with opened(tmp_path) as store:
        store.append(OF, "t1", SAID)
        assert sorted(file.name for file in tmp_path.glob("*.new*")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("exists", [True, False], ids=["folder exists", "folder missing"])
def test_a_mount_of_another_user_names_both(exists: bool) -> None:
    with tempfile.TemporaryDirectory() as mount:
        os.chmod(mount, 0o755)
        folder = Path(mount) / "memory"
        if exists:
            folder.mkdir(mode=0o755)
        os.setegid(4321)
        os.seteuid(1234)
        try:
            with pytest.raises(StoreUnavailable, match=r"belongs to another user \(0:0\): own the mount as 1234:4321"):
                ConversationStore(folder, MemorySettings()).open()
        finally:
            os.seteuid(0)
            os.setegid(0)
