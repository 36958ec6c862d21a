"""PostgreSQL for services that share a store: one database of ASTROMESH_DATABASE_URL for all nodes. asyncpg is imported when it is used."""

from app.postgres.address import VARIABLE as VARIABLE
from app.postgres.address import Address as Address
from app.postgres.address import parse as parse
from app.postgres.connection import Connection as Connection
from app.postgres.database import Database as Database
from app.postgres.database import Patience as Patience
from app.postgres.schema import Schema as Schema
