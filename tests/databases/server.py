"""Real servers for tests, each in a container of its own on a free port of loopback. What a server has kept outlives its processes."""

import asyncio
import itertools
import secrets
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

IMAGE = "astromesh-databases:test"
PASSWORD = "p@ss:w/ord?#%"  # all that must be escaped in a URL
FOLDER = Path(__file__).parent
Kind = Literal["postgres", "redis"]
_START: dict[Kind, tuple[str, ...]] = {
    "postgres": ("pg_ctlcluster", "17", "main", "start"),
    "redis": ("redis-server", "/etc/redis/redis.conf"),
}
_PROCESS: dict[Kind, str] = {"postgres": "postgres", "redis": "redis-server"}
_PORT: dict[Kind, int] = {"postgres": 5432, "redis": 6379}
_POOLER_PORT = 6432


def docker(*arguments: str, check: bool = True) -> str:
    """What a docker command prints; fails with all that it said."""
    done = subprocess.run(("docker", *arguments), check=False, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. Its address stays the same over ``kill`` and ``start``; between them connections are closed at once."""

    kind: Kind
    container: str
    port: int
    pooler_port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def start(self) -> None:
        """Start it, after ``kill``; returns when it answers."""
        docker("exec", self.container, *_START[self.kind])
        if self.kind == "redis":
            self._until_redis_answers()

    def kill(self) -> None:
        """kill -9 for all of its processes."""
        docker("exec", self.container, "pkill", "-KILL", "-x", _PROCESS[self.kind])

    def pause(self) -> None:
        """Freeze it: connections are taken, and nothing is answered."""
        docker("pause", self.container)

    def resume(self) -> None:
        docker("unpause", self.container)

    def run(self, *command: str) -> str:
        """Run a command where the server is; what it prints."""
        return docker("exec", self.container, *command)

    def url(self, database: str | int = 0) -> str:
        scheme, user = ("postgresql", "postgres") if self.kind == "postgres" else ("redis", "")
        return f"{scheme}://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def pooler_url(self, database: str) -> str:
        """The same database by way of PgBouncer, which gives out its two connections for one transaction at a time."""
        return f"postgresql://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{self.pooler_port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> Any:
        """What PostgreSQL answers to one statement: the first value of its first row."""

        async def ask() -> Any:
            import asyncpg

            connection = await asyncpg.connect(self.url(database), timeout=10, command_timeout=30)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as aside:  # a test may have a loop of its own
            return aside.submit(lambda: asyncio.run(ask())).result()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database of its own: in PostgreSQL dropped at the end, in Redis the next of its 1,024 numbers."""
        if self.kind == "redis":
            yield self.url(next(self._numbers))
            return
        name = f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _until_redis_answers(self) -> None:
        deadline = time.monotonic() + 20
        while docker("exec", "--env", f"REDISCLI_AUTH={PASSWORD}", self.container, "redis-cli", "ping", check=False) != "PONG":
            assert time.monotonic() < deadline, "Redis does not answer within 20 s"
            time.sleep(0.05)


@contextmanager
def server(kind: Kind) -> Iterator[Server]:
    """A server in a container of its own, for the time of the block."""
    docker("build", "--quiet", "--tag", IMAGE, str(FOLDER))
    ports = (_PORT[kind], _POOLER_PORT)
    publish = [part for port in ports for part in ("--publish", f"127.0.0.1:0:{port}")]
    container = docker("run", "--detach", *publish, IMAGE)
    try:
        port, pooler = (int(docker("port", container, str(inner)).rpartition(":")[2]) for inner in ports)
        made = Server(kind, container, port, pooler)
        made.start()
        if kind == "postgres":
            docker("exec", "--user", "postgres", container, "pgbouncer", "-d", "/etc/pgbouncer/pgbouncer.ini")
        yield made
    finally:
        docker("rm", "--force", "--volumes", container)
