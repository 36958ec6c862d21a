"""A Redis server as the store uses it: its address, checked before anything is connected to, and what its failures mean to a person."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from app.config.backend import REDIS_URL
from app.errors import ConfigError, Problem, StoreUnavailable

CONNECT_S = 2.0
ANSWER_S = 5.0
CONNECTIONS = 10
RETRY_AFTER_S = 2
_FORM = (
    "write redis://user:password@host:6379/0, or rediss:// for TLS; in user and password @ is %40, : is %3A, / is %2F, ? is %3F, # is %23, "
    "% is %25"
)
_REACH = f"check that it runs and that {REDIS_URL} names it; nodes connect again by themselves"
_ACCESS = f"correct user and password in {REDIS_URL}"
_ONE = "it is a cluster: name a single server, which may have replicas"
_REMEDIES = {
    "NOAUTH": _ACCESS,
    "WRONGPASS": _ACCESS,
    "invalid username-password": _ACCESS,
    "Authentication required": _ACCESS,
    "NOPERM": "let the user read and write astromesh:* and run scripts (ACL SETUSER … ~astromesh:* +@all)",
    "no permissions": "let the user read and write astromesh:* and run scripts (ACL SETUSER … ~astromesh:* +@all)",
    "OOM": "give it more memory (maxmemory)",
    "maxmemory": "give it more memory (maxmemory)",
    "MISCONF": "make room on its disk: it cannot save, and takes no writes until it can",
    "read only replica": "name the primary: this is a replica",
    "hash to the same slot": _ONE,
    "Hash slot not served": _ONE,
    "LOADING": "it is starting; nodes connect again by themselves",
    "DB index": f"name another database number at the end of {REDIS_URL}",
}
"""By a piece of what Redis says."""


class RedisServer:
    """The server at ``url``; ``str`` is what a person may see of it. Raises ConfigError for a URL that is none, which it does not quote."""

    def __init__(self, url: str) -> None:
        self._url = url.strip()
        self._shown = _shown(self._url)
        self._client: Any = None

    def __str__(self) -> str:
        return self._shown

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Have connections, made when they are needed. Raises ConfigError for a missing driver, and for what the driver cannot use."""
        pool = _make_pool(self._url)
        from redis.asyncio import Redis

        self._client = Redis.from_pool(pool)
        try:
            yield
        finally:
            await self._client.aclose()

    @contextmanager
    def use(self) -> Iterator[Any]:
        """The client. What Redis and the network raise in the block becomes StoreUnavailable."""
        from redis.exceptions import RedisError

        try:
            yield self._client
        except (RedisError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        from redis.exceptions import AskError
        from redis.exceptions import ConnectionError as NotConnectedError
        from redis.exceptions import TimeoutError as TooLateError

        said = " ".join(str(error).split()) or type(error).__name__
        remedy = next((remedy for piece, remedy in _REMEDIES.items() if piece in said), None)
        if isinstance(error, AskError):  # also when a key has moved for good
            remedy = _ONE
        if isinstance(error, (TooLateError, TimeoutError)):
            said = "it does not answer in time"
        if remedy is None:
            away = isinstance(error, (NotConnectedError, TooLateError, OSError))  # a TimeoutError is an OSError, too
            remedy = _REACH if away else "see the log of the server"
        told = f"Redis at {self} cannot be used: {said}; {remedy}."
        return StoreUnavailable(told, headers={"Retry-After": str(RETRY_AFTER_S)})


def _shown(url: str) -> str:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:  # what urllib says may quote a piece of the password
        raise _wrong("is not a URL") from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise _wrong("is not the URL of a Redis server: it has to begin with redis://, rediss:// or unix://")
    if parts.netloc.count("@") > 1 or parts.fragment or ("@" not in parts.netloc and "@" in parts.path + parts.query):
        raise _wrong("is not a URL: a character of user or password is not escaped")
    if parts.scheme == "unix":
        return parts.path
    database = parts.path.strip("/") or "0"
    if not host:
        raise _wrong("names no host")
    if not (database.isascii() and database.isdecimal()):
        raise _wrong(f"names the database {database[:40]!r}, which is no number")
    return f"{host}:{port or 6379}/{database}"


def _wrong(message: str, remedy: str = _FORM) -> ConfigError:
    return ConfigError([Problem("environment", message, REDIS_URL, remedy=remedy)])


def _make_pool(url: str) -> Any:
    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as NotConnectedError
        from redis.exceptions import RedisError
    except ImportError:
        message = "is set, and the driver for Redis is missing (the package redis)"
        remedy = "install requirements-all.lock instead of requirements.lock; build the image with --build-arg LOCK=requirements-all.lock"
        raise _wrong(message, remedy) from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_S,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=CONNECT_S,
            # A connection that was lost while it lay in the pool; what is sent twice by that changes nothing the second time.
            retry=Retry(NoBackoff(), 1, supported_errors=(NotConnectedError,)),
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError) as error:
        raise _wrong(f"cannot be used: {error}", "correct what stands after the ? in it") from None
    return pool
