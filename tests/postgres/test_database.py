"""The ground of all stores on PostgreSQL, on real servers."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from app.errors import ConfigError, StoreUnavailable
from app.postgres import Database, Patience, Schema, parse
from app.postgres.faults import unavailable
from tests.databases.server import PASSWORD, Server

pytestmark = [pytest.mark.databases, pytest.mark.anyio]
NOTES = Schema("notes", ("CREATE TABLE astromesh_notes (id int PRIMARY KEY, text text NOT NULL)",))
MORE_NOTES = Schema("notes", (*NOTES.versions, "ALTER TABLE astromesh_notes ADD COLUMN author text NOT NULL DEFAULT 'unknown'"))
USUAL = Patience()
QUICK = Patience(connect_s=1.0, statement_s=1.0, rollback_s=0.3, connections=2)


def database(url: str, schema: Schema = NOTES, patience: Patience = USUAL) -> Database:
    return Database(parse(url), schema, patience)


@asynccontextmanager
async def opened(url: str, schema: Schema = NOTES, patience: Patience = USUAL) -> AsyncIterator[Database]:
    made = database(url, schema, patience)
    async with made.open():
        yield made


async def add(to: Database, number: int, text: str = "x") -> None:
    async with to.transaction() as connection:
        await connection.execute("INSERT INTO astromesh_notes (id, text) VALUES ($1, $2)", number, text)


async def count(of: Database) -> int:
    async with of.transaction() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM astromesh_notes"))


async def test_nodes_that_start_at_once_agree_on_one_store_and_make_its_tables_once(postgres_url: str) -> None:
    nodes = [database(postgres_url, NOTES if number % 2 else MORE_NOTES) for number in range(8)]
    others = [database(postgres_url, Schema("others", ("CREATE TABLE astromesh_others (id int)",))) for _ in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(node.open()) for node in nodes[::2] + others))
        assert len({node.store_id for node in nodes[::2] + others}) == 1
        assert len(nodes[0].store_id) == 12
        await add(nodes[0], 1)
        assert await count(nodes[2]) == 1
    async with opened(postgres_url, MORE_NOTES) as again:
        assert again.store_id == nodes[0].store_id
        assert await count(again) == 1


async def test_a_copy_whose_id_was_deleted_is_a_store_of_its_own(postgres_url: str) -> None:
    async with opened(postgres_url, MORE_NOTES) as original:
        await add(original, 1)
        async with original.transaction() as connection:
            await connection.execute("DELETE FROM astromesh_store")
    nodes = [database(postgres_url, MORE_NOTES) for _ in range(4)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(node.open()) for node in nodes))
        assert len(nodes[0].store_id) == 12
        assert {node.store_id for node in nodes} == {nodes[0].store_id} != {original.store_id}
        assert await count(nodes[0]) == 1


async def test_tables_of_an_older_build_are_brought_up_to_date_with_what_is_in_them(postgres_url: str) -> None:
    async with opened(postgres_url) as old:
        await add(old, 1, "kept")
    async with opened(postgres_url, MORE_NOTES) as new, new.transaction() as connection:
        assert tuple(await connection.fetchrow("SELECT id, text, author FROM astromesh_notes")) == (1, "kept", "unknown")


async def test_tables_of_a_newer_build_are_refused(postgres_url: str) -> None:
    async with opened(postgres_url, MORE_NOTES):
        pass
    with pytest.raises(ConfigError, match="holds version 2 of the tables of notes, and this build knows 1") as caught:
        async with opened(postgres_url):
            pass
    assert "run the newer build" in caught.value.message


async def test_a_version_that_fails_leaves_the_tables_as_they_were(postgres_url: str) -> None:
    broken = Schema("notes", (*NOTES.versions, "ALTER TABLE astromesh_notes ADD COLUMN author text; SELECT 1 / 0"))
    async with opened(postgres_url) as old:
        await add(old, 1)
    async with opened(postgres_url, broken) as new:
        with pytest.raises(StoreUnavailable, match="division by zero"):
            await count(new)
    async with opened(postgres_url) as old, old.transaction() as connection:
        assert len(await connection.fetchrow("SELECT * FROM astromesh_notes")) == 2


async def test_a_transaction_stands_or_falls_whole(postgres_url: str) -> None:
    async with opened(postgres_url) as notes:

        async def fail() -> None:
            async with notes.transaction() as connection:
                await connection.execute("INSERT INTO astromesh_notes VALUES (1, 'x')")
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await fail()
        assert await count(notes) == 0
        await add(notes, 2)
        with pytest.raises(StoreUnavailable, match="duplicate key"):
            await add(notes, 2)
        await add(notes, 3)
        assert await count(notes) == 2


async def test_a_transaction_that_the_server_rolled_back_is_never_taken_for_committed(postgres_url: str) -> None:
    import asyncpg

    async def swallow(notes: Database) -> None:
        async with notes.transaction() as connection:
            await connection.execute("INSERT INTO astromesh_notes VALUES (1, 'x')")
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("INSERT INTO astromesh_notes VALUES (1, 'y')")

    async with opened(postgres_url) as notes:
        with pytest.raises(StoreUnavailable, match="has rolled back"):
            await swallow(notes)
        assert await count(notes) == 0


async def test_a_snapshot_sees_one_state(postgres_url: str) -> None:
    async with opened(postgres_url) as notes:
        async with notes.transaction(snapshot=True) as connection:
            assert await connection.fetchval("SELECT count(*) FROM astromesh_notes") == 0
            await add(notes, 1)
            assert await connection.fetchval("SELECT count(*) FROM astromesh_notes") == 0
        assert await count(notes) == 1


async def test_what_is_cancelled_ends_at_the_server_too_and_its_connection_serves_on(postgres: Server, postgres_url: str) -> None:
    async with opened(postgres_url, patience=Patience(connections=1)) as notes:
        begun = asyncio.Event()

        async def sleep() -> None:
            async with notes.transaction() as connection:
                await connection.execute("INSERT INTO astromesh_notes VALUES (1, 'x')")
                begun.set()
                await connection.execute("SELECT pg_sleep(14)")

        task = asyncio.create_task(sleep())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            assert await count(notes) == 0
            async with notes.transaction() as connection:
                busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(14)' AND state = 'active'"
                assert await connection.fetchval(busy) == 0


async def test_a_statement_that_takes_too_long_is_given_up_by_the_server(postgres_url: str) -> None:
    async with opened(postgres_url, patience=QUICK) as notes:
        with pytest.raises(StoreUnavailable, match="statement timeout"):
            async with notes.transaction() as connection:
                await connection.execute("SELECT pg_sleep(10)")
        await add(notes, 1)


async def test_a_process_that_stands_still_in_a_transaction_loses_it_and_holds_up_nobody(postgres_url: str) -> None:
    async def stand_still(frozen: Database, other: Database) -> None:
        async with frozen.transaction() as connection:
            await connection.execute("DELETE FROM astromesh_notes")
            async with other.transaction() as waiting:  # for the row that the frozen one holds
                await waiting.execute("UPDATE astromesh_notes SET text = 'y'")
            await connection.execute("SELECT 1")

    async with opened(postgres_url, patience=QUICK) as frozen, opened(postgres_url) as other:
        await add(frozen, 1)
        with pytest.raises(StoreUnavailable, match="the connection was lost"):
            await stand_still(frozen, other)
        assert await count(other) == 1


async def test_more_requests_than_connections_wait_for_each_other_and_not_for_ever(postgres_url: str) -> None:
    async with opened(postgres_url, patience=Patience(connect_s=0.5, connections=2)) as notes:
        await asyncio.gather(*(add(notes, number) for number in range(40)))
        assert await count(notes) == 40
        async with notes.transaction(), notes.transaction():
            with pytest.raises(StoreUnavailable, match="does not answer in time") as caught:
                await count(notes)
        assert caught.value.headers == {"Retry-After": "2"}


async def test_a_database_by_way_of_pgbouncer_works_alike(postgres: Server, postgres_url: str) -> None:
    by_pooler = postgres.pooler_url(postgres_url.rpartition("/")[2])
    async with opened(by_pooler) as one, opened(by_pooler) as two, opened(postgres_url) as direct:
        await asyncio.gather(*(add(one if number % 2 else two, number) for number in range(60)))
        assert await count(direct) == 60
        assert one.store_id == two.store_id == direct.store_id
        with pytest.raises(StoreUnavailable, match="duplicate key"):
            await add(one, 7)
        await one.probe()


async def test_a_probe_writes_and_leaves_nothing(postgres_url: str) -> None:
    async with opened(postgres_url) as notes:
        await asyncio.gather(*(notes.probe() for _ in range(10)))
        async with notes.transaction() as connection:
            assert await connection.fetchval("SELECT count(*) FROM astromesh_probe") == 0


async def test_a_server_that_was_killed_is_told_at_once_and_found_again(troubled_postgres: Server) -> None:
    with troubled_postgres.database() as url:
        async with opened(url) as notes:
            await add(notes, 1)
            troubled_postgres.kill()
            with pytest.raises(StoreUnavailable, match="nodes connect again by themselves"):
                await add(notes, 2)
            await asyncio.to_thread(troubled_postgres.start)
            await add(notes, 3)
            assert await count(notes) == 2


async def test_a_node_starts_while_its_database_is_away_and_finds_it_later(
    troubled_postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with troubled_postgres.database() as url:
        troubled_postgres.kill()
        with caplog.at_level(logging.WARNING):
            async with opened(url, patience=QUICK) as notes:
                assert notes.store_id == ""
                with pytest.raises(StoreUnavailable):
                    await count(notes)
                ready = asyncio.create_task(notes.until_ready())
                await asyncio.to_thread(troubled_postgres.start)
                await ready
                assert len(notes.store_id) == 12
                assert await count(notes) == 0
    assert "the node starts without its database" in caplog.text
    assert PASSWORD not in caplog.text
    assert url.partition("postgres:")[2].partition("@")[0] not in caplog.text


async def test_a_server_that_stands_still_holds_nobody_up_and_is_back_when_it_goes_on(troubled_postgres: Server) -> None:
    with troubled_postgres.database() as url:
        async with opened(url, patience=QUICK) as notes:
            await asyncio.gather(*(add(notes, number) for number in range(4)))
            troubled_postgres.pause()
            for _ in range(3):
                async with asyncio.timeout(4):
                    with pytest.raises(StoreUnavailable, match="does not answer in time"):
                        await count(notes)
            troubled_postgres.resume()
            assert await count(notes) == 4
            troubled_postgres.pause()
        troubled_postgres.resume()


async def _fault(url: str) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        async with opened(url, patience=QUICK) as notes:
            await count(notes)
    assert PASSWORD not in caught.value.message
    return caught.value


async def test_what_is_wrong_with_a_database_is_told_with_the_remedy(postgres: Server, postgres_url: str) -> None:
    server, _, name = postgres_url.rpartition("/")
    assert "password authentication failed" in (await _fault(f"{server.replace('p%40', 'wrong')}/{name}")).message
    assert "correct user and password in ASTROMESH_DATABASE_URL" in (await _fault(f"{server.replace('p%40', 'wrong')}/{name}")).message
    assert "create the database" in (await _fault(f"{server}/nowhere")).message
    assert "Connect call failed" in (await _fault("postgresql://u:p@127.0.0.1:1/a")).message
    assert "names it" in (await _fault("postgresql://u:p@no-such-host.invalid/a")).message
    assert "no schema of the user's search_path" in (await _fault(f"{postgres_url}?search_path=nowhere")).message


async def test_a_user_who_may_not_create_tables_is_told_what_to_grant_and_may_use_those_that_are_there(
    postgres: Server, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    limited = f"postgresql://{name}:secret@{postgres_url.rpartition('@')[2]}"
    try:
        assert "GRANT USAGE, CREATE ON SCHEMA" in (await _fault(limited)).message
        async with opened(postgres_url):
            postgres.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}", name)
        async with opened(limited) as notes:
            await add(notes, 1)
    finally:
        postgres.sql(f"DROP OWNED BY {name}", name)
        postgres.sql(f"DROP ROLE {name}")


async def test_several_stores_share_a_database_in_schemas_of_their_own(postgres: Server, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.sql("CREATE SCHEMA one", name)
    async with opened(postgres_url) as public, opened(f"{postgres_url}?search_path=one") as one:
        await add(one, 1)
        assert await count(public) == 0
        assert one.store_id != public.store_id


async def test_a_database_that_is_not_unicode_and_a_wrong_setting_of_the_url_are_refused(postgres: Server, postgres_url: str) -> None:
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with pytest.raises(ConfigError, match=r"encoding LATIN1.*ENCODING 'UTF8'"):
            async with opened(postgres.url("latin")):
                pass
    finally:
        postgres.sql("DROP DATABASE latin WITH (FORCE)")
    with pytest.raises(ConfigError, match="sslmode"):
        async with opened(f"{postgres_url}?sslmode=perhaps"):
            pass


async def test_what_the_driver_says_of_a_connection_cut_in_its_work_is_told_as_its_loss() -> None:
    cut = asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
    assert "cannot be used: the connection was lost; check that it runs" in unavailable(cut, parse("postgresql://u:p@db/x")).message


async def test_a_missing_driver_is_told_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"driver for PostgreSQL is missing.*requirements-all\.lock"):
        async with opened("postgresql://u:p@127.0.0.1:1/a"):
            pass
