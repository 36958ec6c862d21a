"""Secrets of the environment: read from the files that X_FILE names, parsed into keys, never shown."""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import Problem

ENVIRONMENT = "environment"
KEY_FILE_S = 1.0
"""Seconds between looks at a key file."""
log = logging.getLogger(__name__)
_OWN = ("ASTROMESH_API_KEYS", "ASTROMESH_MESH_KEY", "ASTROMESH_DATABASE_URL", "ASTROMESH_REDIS_URL", "OPENAI_API_KEY")
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEY_SECRET = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients present, and the name under which its holder appears in logs and metrics."""

    name: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    """The environment with the secrets that files hold, what is wrong with the node's own, and what was left alone with the others'."""

    environ: dict[str, str]
    problems: list[Problem]
    notes: tuple[str, ...]


def read_files(environ: Mapping[str, str]) -> Found:
    """Read every secret ``X_FILE`` into ``X`` (a final line end dropped); ``X_FILE`` itself stays.

    Other software has variables of that form too: beyond the node's own, an API key is read where that works, and nothing else is.
    """
    read, problems, notes = dict(environ), list[Problem](), list[str]()
    for variable, file in environ.items():
        name = variable.removesuffix("_FILE")
        if name == variable or not file or not (name in _OWN or name.endswith("_API_KEY")):
            continue
        found = _secret(environ, name)
        if isinstance(found, str):
            read[name] = found
        elif name in _OWN:
            problems.append(found)
        else:
            notes.append(f"{variable} is left alone: {found.path} {found.message}")
    return Found(read, problems, tuple(notes))


def _secret(environ: Mapping[str, str], name: str) -> str | Problem:
    """What the file of a secret holds, or why it is not taken."""
    variable = f"{name}_FILE"
    if environ.get(name):
        return Problem(ENVIRONMENT, f"is set, and {variable} too", name, remedy="set one of the two")
    try:
        return content_of(Path(environ[variable]))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "check the path, its permissions and its content"
        return Problem(ENVIRONMENT, f"names the file {environ[variable]!r}, which gives no secret: {reason}", variable, remedy=remedy)


def is_key(text: str) -> bool:
    """Whether a text can be sent as a key in a header: printable ASCII without spaces."""
    return bool(_KEY_SECRET.fullmatch(text))


def parse_keys(variable: str, text: str) -> tuple[tuple[ApiKey, ...], list[Problem]]:
    """The keys of a list separated by commas or line ends, each "secret" or "name:secret"; a key without a name is "key-<its place>"."""
    keys, problems = list[ApiKey](), _emptiness(variable, text)
    names, secrets = set[str](), set[str]()
    for place, entry in enumerate(_entries(text), start=1):
        name, colon, secret = entry.partition(":")
        key = ApiKey(name.strip(), secret.strip()) if colon else ApiKey(f"key-{place}", entry)
        wrong, remedy = _key_fault(key, names, secrets)
        if wrong:
            problems.append(Problem(ENVIRONMENT, f"has a key in place {place} {wrong}", variable, remedy=remedy))
        names.add(key.name)
        secrets.add(key.secret)
        keys.append(key)
    return tuple(keys), problems


def parse_secrets(variable: str, text: str) -> tuple[tuple[str, ...], list[Problem]]:
    """Like ``parse_keys``, for keys without names."""
    found = tuple(_entries(text))
    bad = [place for place, secret in enumerate(found, start=1) if not is_key(secret)]
    remedy = "use letters, digits and punctuation of ASCII"
    what = "has a key in place {} with a space or a character beyond ASCII in it"
    return found, _emptiness(variable, text) + [Problem(ENVIRONMENT, what.format(place), variable, remedy=remedy) for place in bad]


class KeyFile:
    """Keys in a file, read anew when it changes, so that keys rotate under a running node. A file that cannot be used changes nothing."""

    def __init__(self, variable: str, file: Path, keys: tuple[str, ...]) -> None:
        self._variable, self._file, self._keys = variable, file, _encoded(keys)
        self._stamp: tuple[int, int, int] | None = None  # it may have changed since it was read
        self._looked_at = float("-inf")

    def __call__(self) -> Sequence[bytes]:
        """The keys now; the file is looked at once a second at most."""
        if time.monotonic() - self._looked_at >= KEY_FILE_S:
            self._looked_at = time.monotonic()
            if (stamp := self._now()) != self._stamp:
                self._stamp = stamp
                self._read()
        return self._keys

    def _now(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _read(self) -> None:
        try:
            keys, problems = parse_secrets(self._variable, content_of(self._file))
        except (OSError, ValueError) as error:
            log.warning("%s_FILE names %s, which gives no key now (%s); the keys stay as they were", self._variable, self._file, error)
            return
        if problems:
            log.warning("%s; the keys stay as they were", "; ".join(map(str, problems)))
        elif (encoded := _encoded(keys)) != self._keys:
            self._keys = encoded
            log.info("%s: read %d keys anew", self._file, len(keys))


def _encoded(keys: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(key.encode() for key in keys)


def content_of(file: Path) -> str:
    """What the file holds, without a final line end; an empty one is refused, for no key would mean that anyone may call."""
    try:
        text = re.sub(r"\r?\n\Z", "", file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _emptiness(variable: str, text: str) -> list[Problem]:
    return (
        [Problem(ENVIRONMENT, "is set and holds no key", variable, remedy="write a key, or unset it")]
        if text and not _entries(text)
        else []
    )


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in re.split(r"[,\n]", text) if entry.strip()]


def _key_fault(key: ApiKey, names: set[str], secrets: set[str]) -> tuple[str, str]:
    """What is wrong with a key, without showing it, and the remedy; ("", "") when nothing is."""
    if not _KEY_NAME.fullmatch(key.name):
        return "whose name cannot be used", "write name:secret, the name in 1 to 63 letters, digits and ._-"
    if not is_key(key.secret):
        return "whose secret is empty, or has a space or a character beyond ASCII in it", "write letters, digits and punctuation of ASCII"
    if key.name in names:
        return f"whose name {key.name!r} another key has", "give each key a name of its own"
    if key.secret in secrets:
        return f"({key.name!r}) whose secret another key has", "give each key a secret of its own"
    return "", ""
