"""A store on a database, open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.postgres import Patience, parse
from app.services.rag.postgres import PostgresStore

USUAL = Patience()
QUICK = Patience(connect_s=1.0, statement_s=1.0, rollback_s=0.3)


@asynccontextmanager
async def opened(url: str, patience: Patience = USUAL) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(parse(url), patience)
    async with store.open():
        yield store
