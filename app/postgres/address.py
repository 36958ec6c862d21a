"""The URL of a database, checked before anything is connected to. What is said of it never has the password in it."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from app.errors import ConfigError, Problem

VARIABLE = "ASTROMESH_DATABASE_URL"
_FORM = "write postgresql://user:password@host:5432/database"
_ESCAPES = "in user and password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23 and % as %25"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the database is; ``str`` is what a person may see of it: "db:5432/astromesh"."""

    url: str = field(repr=False)
    shown: str

    def __str__(self) -> str:
        return self.shown


def parse(url: str, variable: str = VARIABLE) -> Address:
    """The address that a URL is. Raises ConfigError, which names the variable and does not quote the URL."""
    url = url.strip()
    try:
        parts = _split(url)
        hosts = [_check_host(entry) for entry in parts.netloc.rpartition("@")[2].split(",")]
        settings = _settings(parts.query)
    except _Wrong as error:
        message, *remedy = error.args
        problem = Problem("environment", message, variable, remedy=remedy[0] if remedy else _FORM)
        raise ConfigError([problem]) from None
    database = unquote(parts.path.removeprefix("/")) or settings.get("dbname") or settings.get("database") or "its user's database"
    where = ",".join(host for host in hosts if host) or settings.get("host") or "this machine"
    return Address(url, f"{where}/{database}")


class _Wrong(ValueError):
    """What is wrong with a URL, and the remedy where it is not its form."""


def _settings(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, strict_parsing=True)) if query else {}
    except ValueError:
        raise _Wrong("has settings after the ? that are not name=value") from None


def _split(url: str) -> SplitResult:
    """The parts of a URL; what a forgotten escape leads to is found by the @ that then stands in the wrong part."""
    if any(character.isspace() or ord(character) < 0x20 for character in url):
        raise _Wrong("is not a URL: there is a space or a line end in it")
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres"}:
        named = f"begins with {scheme}://" if separator and scheme.isascii() and len(scheme) < 30 else "has no scheme"
        raise _Wrong(f"is not the URL of a PostgreSQL database: it {named}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _Wrong("is not a URL", _ESCAPES) from None  # what urllib says may quote a piece of the password
    beyond = (parts.path, parts.fragment, parts.query)
    if parts.netloc.count("@") > 1 or parts.fragment or ("@" not in parts.netloc and any("@" in part for part in beyond)):
        raise _Wrong("is not a URL: a character of user or password is not escaped", _ESCAPES)
    if not parts.netloc and not parts.query and not parts.path.strip("/"):
        raise _Wrong("names neither host nor database")
    return parts


def _check_host(entry: str) -> str:
    """A host with its port where that is given, as it is; raises _Wrong."""
    name, colon, port = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
    if colon and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise _Wrong("has a port that is no number from 1 to 65535")
    if colon and not name:
        raise _Wrong("has a port without a host")
    return entry
