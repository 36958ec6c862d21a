"""The tables of a service, by versions: brought up to date in one transaction, by one process at a time, and never behind a newer build.

All tables lie in the first schema of the user's search_path, and their names begin with ``astromesh_``.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import ConfigError, Problem, StoreUnavailable
from app.postgres.address import VARIABLE, Address
from app.postgres.connection import Connection

_GROUND = """
CREATE TABLE IF NOT EXISTS astromesh_versions (service text PRIMARY KEY, version int NOT NULL);
CREATE TABLE IF NOT EXISTS astromesh_store (one bool PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL CHECK (id ~ '^[0-9a-f]{12}$'));
CREATE TABLE IF NOT EXISTS astromesh_probe (id text PRIMARY KEY);
"""
_IS_THERE = "SELECT to_regclass(format('%I.astromesh_versions', current_schema())) IS NOT NULL"
# Held to the end of the transaction. Its number is for the schema, so that two of one database do not wait for each other.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('astromesh in ' || current_schema()))"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a service keeps: script n of ``versions`` leads from version n to n + 1. A script that was released is never changed."""

    service: str
    versions: Sequence[str]


async def install(connection: Connection, schema: Schema, address: Address) -> str:
    """Bring the tables of a service up to date, within a transaction; the id of the store. Raises ConfigError for a newer build's."""
    await _check_ground(connection, address)
    if not await connection.fetchval(_IS_THERE) or await _version(connection, schema) < len(schema.versions):
        await connection.fetchval(_LOCK)
        await connection.execute(_GROUND)
        await _upgrade(connection, schema)
    if (found := await _version(connection, schema)) > len(schema.versions):
        message = f"holds version {found} of the tables of {schema.service}, and this build knows {len(schema.versions)}"
        raise ConfigError([Problem(str(address), message, VARIABLE, remedy="run the newer build, or name another database or search_path")])
    return await _store_id(connection)


async def _store_id(connection: Connection) -> str:
    """The id, made where there is none: by the first node, and in a copy of a database in which its operator has deleted it."""
    asked = "SELECT id FROM astromesh_store"
    if (found := await connection.fetchval(asked)) is None:
        await connection.execute("INSERT INTO astromesh_store (id) VALUES ($1) ON CONFLICT DO NOTHING", secrets.token_hex(6))
        found = await connection.fetchval(asked)
    return str(found)


async def _check_ground(connection: Connection, address: Address) -> None:
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        remedy = "create it with ENCODING 'UTF8' TEMPLATE template0"
        raise ConfigError([Problem(str(address), f"is a database of the encoding {encoding}", VARIABLE, remedy=remedy)])
    if await connection.fetchval("SELECT current_schema()") is None:
        raise StoreUnavailable(f"In the database {address} no schema of the user's search_path exists; create one, or set search_path.")


async def _version(connection: Connection, schema: Schema) -> int:
    found = await connection.fetchval("SELECT version FROM astromesh_versions WHERE service = $1", schema.service)
    return int(found or 0)


async def _upgrade(connection: Connection, schema: Schema) -> None:
    """Run the scripts that are missing, under the lock: another process may have run them while this one waited."""
    missing = schema.versions[await _version(connection, schema) :]
    for script in missing:
        await connection.execute(script)
    if missing:
        keep = "INSERT INTO astromesh_versions VALUES ($1, $2) ON CONFLICT (service) DO UPDATE SET version = excluded.version"
        await connection.execute(keep, schema.service, len(schema.versions))
