"""Secrets of the environment: read from the files that X_FILE names, parsed into keys, never shown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import Problem

ENVIRONMENT = "environment"
_SECRET_NAME = re.compile(r"ASTROMESH_API_KEYS|ASTROMESH_MESH_KEY|.*_(API_KEY|TOKEN|SECRET)")
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEY_SECRET = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that clients present, and the name under which its holder appears in logs and metrics."""

    name: str
    secret: str = field(repr=False)


def read_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The environment with every secret ``X_FILE`` read into ``X`` (a final line end dropped); ``X_FILE`` itself stays."""
    read, problems = dict(environ), list[Problem]()
    for variable, file in environ.items():
        name = variable.removesuffix("_FILE")
        if name == variable or not file or not _SECRET_NAME.fullmatch(name):
            continue
        if environ.get(name):
            problems.append(Problem(ENVIRONMENT, f"is set, and {variable} too", name, remedy="set one of the two"))
            continue
        try:
            read[name] = _content(Path(file))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            remedy = "check the path, its permissions and its content"
            problems.append(Problem(ENVIRONMENT, f"names the file {file!r}, which gives no secret: {reason}", variable, remedy=remedy))
    return read, problems


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
    bad = [place for place, secret in enumerate(found, start=1) if not _KEY_SECRET.fullmatch(secret)]
    remedy = "use letters, digits and punctuation of ASCII"
    what = "has a key in place {} with a space or a character beyond ASCII in it"
    return found, _emptiness(variable, text) + [Problem(ENVIRONMENT, what.format(place), variable, remedy=remedy) for place in bad]


def _content(file: Path) -> str:
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
    if not _KEY_SECRET.fullmatch(key.secret):
        return "whose secret is empty, or has a space or a character beyond ASCII in it", "write letters, digits and punctuation of ASCII"
    if key.name in names:
        return f"whose name {key.name!r} another key has", "give each key a name of its own"
    if key.secret in secrets:
        return f"({key.name!r}) whose secret another key has", "give each key a secret of its own"
    return "", ""
