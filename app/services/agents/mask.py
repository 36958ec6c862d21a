"""What answers show in place of secrets in the definition of an agent."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MASK = "***"
SECRET = re.compile(r"(?i)(api[_-]?key|authorization|password|secret|token)$")
"""Names of fields whose text is a secret."""


def masked(value: Any) -> Any:
    """A definition without what is secret in it: keys, a webhook's headers, and all of its URL but the host."""
    if isinstance(value, list):
        return [masked(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    shown = {key: MASK if SECRET.search(key) and isinstance(each, str) else masked(each) for key, each in value.items()}
    if isinstance(value.get("headers"), Mapping):
        shown["headers"] = dict.fromkeys(value["headers"], MASK)
    if isinstance(value.get("url"), str):
        shown["url"] = _bare_url(value["url"])
    return shown


def _bare_url(url: str) -> str:
    """Scheme and host of a URL: the path of a webhook is as often its secret as the query is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    rest = f"/{MASK}" if parts.path not in ("", "/") or parts.query or parts.fragment else parts.path
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{rest}"
