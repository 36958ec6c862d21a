"""JSON bodies: read and check those that come in, by the schemas that describe the routes; write those that go out."""

import asyncio
import itertools
import json
import math
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from starlette.requests import Request
from starlette.responses import JSONResponse

from app.errors import InvalidBody, InvalidJSON, UnsupportedMediaType

_TOLD = 5
"""Violations named in one answer."""
_EXACT = 2**53
"""Up to there a float is one integer, not some of several."""
_LARGE = 64 * 1024
"""Bytes of JSON above which checking would hold up the loop: 0.3 s for a megabyte."""


def validator(schema: Mapping[str, Any]) -> Validator:
    """A reusable validator (JSON Schema 2020-12); raises jsonschema.SchemaError for a schema that is none. It fetches no references."""
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, registry=Registry())


def json_path(path: Any) -> str:
    """The JSON path of an error ("$.messages[0].role")."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def check(value: Any, schema: Validator) -> None:
    """Raise InvalidBody with the JSON path of each violation; its ``param`` is the first one's."""
    try:
        errors = list(itertools.islice(schema.iter_errors(value), _TOLD))  # a hostile body has a million
    except RecursionError:
        raise InvalidBody("$: the body is nested too deeply to be checked; send flatter JSON.", param="$") from None
    except Unresolvable as error:
        raise InvalidBody(f"$: the schema refers to {error.ref!r}, which is not in it, so nothing fits it.", param="$") from None
    if errors:
        told = [f"{json_path(error.absolute_path)}: {_short(error.message)}" for error in errors]
        raise InvalidBody("; ".join(told), param=json_path(errors[0].absolute_path))


def parse_json(raw: bytes, of: str = "The body") -> Any:
    """Parse UTF-8 JSON; raises InvalidJSON, which says what it is ``of``, also for nesting that no parser should follow and for NaN and
    Infinity."""
    try:
        return _DECODER.decode(raw.removeprefix(BOM_UTF8).decode())  # ten times as fast as the codec utf-8-sig, which is not in C
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"{of} is not UTF-8: {error.reason} at byte {error.start}; send it as UTF-8.") from None
    except RecursionError:
        raise InvalidJSON(f"{of} is nested too deeply; send flatter JSON.") from None
    except ValueError as error:
        raise InvalidJSON(f"{of} is not JSON: {error}; send a JSON document.") from None


class JSONAnswer(JSONResponse):
    """A JSON response in UTF-8. Half of a surrogate pair (a model cut an emoji in two) goes out as JSON's own escape for it."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


async def read_json(request: Request, schema: Validator) -> Any:
    """The request's JSON body, checked. Raises UnsupportedMediaType, InvalidJSON or InvalidBody."""
    require_json(request.headers.get("content-type", ""))
    return await checked_json(await request.body(), schema)


async def checked_json(raw: bytes, schema: Validator) -> Any:
    """JSON, checked. Raises InvalidJSON or InvalidBody."""
    value = parse_json(raw)
    if len(raw) > _LARGE:
        await asyncio.to_thread(check, value, schema)
    else:
        check(value, schema)
    return value


def require_json(content_type: str) -> None:
    """Raise UnsupportedMediaType for a Content-Type other than application/json ("" is a missing one)."""
    if content_type == "application/json":
        return
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(f"Content-Type is {content_type[:100]!r}; send application/json.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> int | float:
    """A number with a fraction or an exponent. JSON Schema takes 1.0 and 1e2 for integers, so as such they come to who counts on one."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_number)


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:200] + " … " + text[-80:]
