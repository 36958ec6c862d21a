"""Which store keeps the conversations of a node: its environment says so, for all of its agents."""

from collections.abc import Mapping
from typing import Literal

Backend = Literal["sqlite", "postgres", "redis"]
REDIS_URL, DATABASE_URL = "ASTROMESH_REDIS_URL", "ASTROMESH_DATABASE_URL"


def backend_of(environ: Mapping[str, str]) -> Backend:
    """Redis where there is one, since it is of use for conversations alone; then the database that keeps everything else, too."""
    return "redis" if environ.get(REDIS_URL) else "postgres" if environ.get(DATABASE_URL) else "sqlite"


def told_of(backend: Backend) -> str:
    """A backend and how to have another one, for people."""
    return _TOLD[backend]


_TOLD: Mapping[Backend, str] = {
    "sqlite": f"SQLite (set {DATABASE_URL} or {REDIS_URL} for another)",
    "postgres": f"PostgreSQL ({DATABASE_URL}; set {REDIS_URL}, or unset both, for another)",
    "redis": f"Redis ({REDIS_URL}; unset it for another)",
}
