"""What the failures of a database mean to a person: each is StoreUnavailable, with what was said and what to do."""

from typing import Any

from app.errors import StoreUnavailable
from app.postgres.address import VARIABLE, Address

RETRY_AFTER_S = 2
"""What a client is told to wait: a server that restarts takes about that long."""

_REACH = f"check that it runs and that {VARIABLE} names it; nodes connect again by themselves"
_LOG = "see the log of the database server"
_REMEDIES = {
    "28": f"correct user and password in {VARIABLE}, and the server's pg_hba.conf",
    "3D": f"create the database, or name another in {VARIABLE}",
    "3F": "let the user's search_path name a schema that exists",
    "42501": "let the user create and use tables there: GRANT USAGE, CREATE ON SCHEMA … TO …, or name another schema by search_path",
    "42P01": "tables of this node are missing there: restore them, or restart the node, which makes them anew and empty",
    "25006": "it is a standby: name the primary, or add target_session_attrs=read-write to the URL",
    "53100": "make room on the server's disk",
    "53200": "give the server more memory",
    "53300": "raise max_connections of the server, or put PgBouncer in front of it",
    "57014": "the server is overloaded, or the request asks for too much",
    "57P": "the server starts or stops; nodes connect again by themselves",
    "40": "it was in the way of another one; try again",
    "55P03": "another process holds what it needs; try again",
    "25P": "the process stood still in the middle of it; try again",
}
"""By SQLSTATE, or what it begins with; the longest that fits counts."""


def foreign_errors() -> tuple[type[Exception], ...]:
    """What asyncpg and the network raise."""
    import asyncpg

    return (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that a fresh one may do better. One that does not answer in time is not worth a second wait."""
    import asyncpg

    if isinstance(error, asyncpg.PostgresError):
        return str(getattr(error, "sqlstate", "")).startswith(("08", "57P"))
    return isinstance(error, foreign_errors()) and not isinstance(error, TimeoutError)


def unavailable(error: BaseException, address: Address) -> StoreUnavailable:
    """A foreign error as our own."""
    said, remedy = _told(error)
    return StoreUnavailable(f"The database {address} cannot be used: {said}; {remedy}.", headers={"Retry-After": str(RETRY_AFTER_S)})


def _told(error: Any) -> tuple[str, str]:
    """What was said, in one line, and the remedy."""
    import asyncpg

    if isinstance(error, TimeoutError):
        return "it does not answer in time", f"{_REACH}, unless it is overloaded"
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)) and not isinstance(error, ValueError):
        return "the connection was lost", _REACH  # what asyncpg says of that is for programmers
    state = str(getattr(error, "sqlstate", None) or "")
    fitting = [prefix for prefix in _REMEDIES if state.startswith(prefix)]
    said = " ".join(str(error.args[0] if error.args and not isinstance(error, OSError) else error).split()) or type(error).__name__
    if fitting:
        return said, _REMEDIES[max(fitting, key=len)]
    return said, _LOG if state and not state.startswith("08") else _REACH
