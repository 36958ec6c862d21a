"""One database as a service uses it: a pool that connects when it is used and again after a loss, and transactions with limits on all.

The rules: what a transaction did is on the server's disk when its block has ended, or nothing of it is; every failure of the database is
StoreUnavailable. Only what lives in a transaction is used of a connection, so that PgBouncer may give it out for one at a time.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from app.errors import ConfigError, Problem, StoreUnavailable
from app.postgres import faults
from app.postgres.address import VARIABLE, Address
from app.postgres.connection import Connection
from app.postgres.schema import Schema, install

IDLE_S = 60.0
_MAX_RETRY_S = 15.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited: for a connection, for one statement, and for the end of what was given up; and how many connections there are.

    Five for each service of a node: a server takes 100 by default, and a statement takes milliseconds.
    """

    connect_s: float = 4.0
    statement_s: float = 15.0
    rollback_s: float = 1.0
    connections: int = 5


class Database:
    """The database at ``address``, with the tables of ``schema``. Constructing it does no I/O."""

    def __init__(self, address: Address, schema: Schema, patience: Patience = Patience()) -> None:
        self.address = address
        self._schema = schema
        self._patience = patience
        self._store_id = ""
        self._preparing = asyncio.Lock()
        self._returning = set[asyncio.Task[None]]()
        """What gives connections back whose callers have left before they had them."""

    @property
    def store_id(self) -> str:
        """The id that the database was given when its first node came (12 hex digits); "" until it has been reached once."""
        return self._store_id

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Use the database within the block. One that is away may come later: ``until_ready`` waits for it, and every use tries anew.

        Raises ConfigError where no waiting helps: the driver is missing, the URL cannot be used, or a newer build has written there.
        """
        async with self._pooled():
            try:
                await self._prepare()
            except StoreUnavailable as error:
                log.warning("the node starts without its database: %s", error)
            yield

    async def until_ready(self) -> None:
        """Try until the database has been reached once; ``store_id`` is known then. For the background work of a service."""
        wait_s = 0.5
        while not self._store_id:
            try:
                await self._ready()
            except StoreUnavailable as error:
                log.warning("still without its database: %s", error)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_RETRY_S)

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """A transaction: committed at the end of the block, rolled back where that raises. With ``snapshot`` all its statements see the
        same state. Raises StoreUnavailable; nothing but statements belongs into the block, for it holds a connection."""
        await self._ready()
        async with self._begun(snapshot=snapshot) as connection:
            yield connection

    async def probe(self) -> None:
        """Write something, and delete it. Raises StoreUnavailable."""
        async with self.transaction() as connection:
            mark = secrets.token_hex(8)
            await connection.execute("INSERT INTO astromesh_probe VALUES ($1)", mark)
            await connection.execute("DELETE FROM astromesh_probe WHERE id = $1", mark)

    @asynccontextmanager
    async def _pooled(self) -> AsyncIterator[None]:
        """Have a pool, which connects when it is used. At the end, connections that do not close at once are cut."""
        self._pool = _make_pool(self.address, self._patience)
        await self._pool
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(self._patience.rollback_s):
                    await asyncio.gather(*self._returning)
                    await self._pool.close()
            except faults.foreign_errors():
                self._pool.terminate()

    async def _ready(self) -> None:
        """Be prepared. Raises StoreUnavailable, also for what a newer build has written since this node started."""
        try:
            await self._prepare()
        except ConfigError as error:
            raise StoreUnavailable(error.message) from error

    async def _prepare(self) -> None:
        """Bring the tables up to date and learn the id of the store; done once."""
        if self._store_id:
            return
        async with self._preparing:
            if not self._store_id:
                async with self._begun() as connection:
                    self._store_id = await install(connection, self._schema, self.address)

    @asynccontextmanager
    async def _begun(self, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        with self._mapped():
            connection = await self._begin(snapshot=snapshot)
            try:
                yield connection
                if await connection.execute("COMMIT") != "COMMIT":  # a statement had failed, so that it was rolled back
                    raise StoreUnavailable(f"The database {self.address} has rolled back a transaction; try again.")
            except BaseException:
                await self._undo(connection)
                raise
            finally:
                await self._pool.release(connection, timeout=self._patience.rollback_s)

    async def _begin(self, *, snapshot: bool) -> Any:
        """A connection in a transaction. One that was lost while it lay in the pool is replaced: nothing has happened in it yet."""
        opening = _opening(self._patience, snapshot=snapshot)
        for _ in range(self._patience.connections):
            connection = await self._acquire()
            try:
                await connection.execute(opening, timeout=self._patience.connect_s)
            except BaseException as error:
                _cut(connection)
                await self._pool.release(connection)
                if not faults.is_lost(error):
                    raise
                lost = error
            else:
                return connection
        raise lost

    async def _acquire(self) -> Any:
        """A connection. Whoever leaves meanwhile leaves the connecting to its end: cancelled, asyncpg would report an error of nobody's."""
        acquiring = asyncio.ensure_future(self._pool.acquire(timeout=self._patience.connect_s))
        try:
            return await asyncio.shield(acquiring)
        except asyncio.CancelledError:
            returning = asyncio.create_task(self._give_back(acquiring))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            raise

    async def _give_back(self, acquiring: asyncio.Future[Any]) -> None:
        with suppress(*faults.foreign_errors()):
            await self._pool.release(await acquiring)

    async def _undo(self, connection: Any) -> None:
        """Roll back what has failed or was cancelled; a connection where that is not possible at once is cut, and the server rolls back."""
        try:
            await connection.execute("ROLLBACK", timeout=self._patience.rollback_s)
        except BaseException as error:
            _cut(connection)
            if not isinstance(error, faults.foreign_errors()):
                raise

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn what the database and the network raise into errors of our own."""
        import asyncpg

        try:
            yield
        except asyncpg.exceptions.ClientConfigurationError as error:
            remedy = "correct what stands after the ? in it"
            raise ConfigError([Problem("environment", f"cannot be used: {error.args[0]}", VARIABLE, remedy=remedy)]) from None
        except faults.foreign_errors() as error:
            raise faults.unavailable(error, self.address) from error


def _opening(patience: Patience, *, snapshot: bool) -> str:
    """What begins a transaction, in one round trip. The limits are the transaction's own, so that they hold behind PgBouncer, too; a node
    that stands still in one loses it. Compiling a statement (jit) costs more than it ever saves here."""
    limit_ms = int(patience.statement_s * 1000)
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    level = "REPEATABLE READ" if snapshot else "READ COMMITTED"
    return f"BEGIN ISOLATION LEVEL {level}; " + "".join(f"SET LOCAL {name} = {limit_ms}; " for name in limits) + "SET LOCAL jit = off"


def _cut(connection: Any) -> None:
    with suppress(*faults.foreign_errors()):  # it is the pool's again once it has closed
        connection.terminate()


async def _keep(connection: Any) -> None:
    """What is to be done to a connection before another takes it: nothing, for whatever was set is gone with its transaction."""


def _make_pool(address: Address, patience: Patience) -> Any:
    """A pool that holds no connection yet. Raises ConfigError where the driver is missing."""
    try:
        import asyncpg
    except ImportError:
        message = "is set, and the driver for PostgreSQL is missing (the package asyncpg)"
        remedy = "install requirements-all.lock instead of requirements.lock; build the image with --build-arg LOCK=requirements-all.lock"
        raise ConfigError([Problem("environment", message, VARIABLE, remedy=remedy)]) from None
    return asyncpg.create_pool(
        address.url,
        min_size=0,
        max_size=patience.connections,
        max_inactive_connection_lifetime=IDLE_S,
        reset=_keep,
        timeout=patience.connect_s,
        command_timeout=patience.statement_s + 1,  # the server gives up first, and says so
        statement_cache_size=0,  # a prepared statement would stay behind at a connection that PgBouncer gives to others
        server_settings={"application_name": "astromesh"},
    )
