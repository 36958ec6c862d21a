"""Values as bytes, for any store. Texts are UTF-8 in which half a surrogate pair, which JSON may bring, and NUL stay as they came; the
order of the bytes is that of code points."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.services.rag.knowledge import Chunking


def blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")


def json_blob(value: Any) -> bytes:
    return blob(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def mapping(of: bytes) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(text(of))
    return found


def chunking_blob(chunking: Chunking) -> bytes:
    return json_blob(asdict(chunking))


def chunking(of: bytes) -> Chunking:
    found = dict(mapping(of))
    return Chunking(**{**found, "separators": tuple(found["separators"])})
