"""``json_transform``: take parts out of JSON and put them together anew, by a JMESPath expression (jmespath.org)."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class JsonTransform:
    name: ClassVar[str] = "json_transform"
    description: ClassVar[str] = "Query and reshape JSON by a JMESPath expression, such as people[?age > `30`].{who: name, born: year}."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["data", "expression"],
        "properties": {
            "data": {"description": "The JSON to take from; a text is read as JSON where it is some."},
            "expression": {"type": "string", "minLength": 1, "maxLength": 1000, "description": "A JMESPath expression."},
        },
    }

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        return await asyncio.to_thread(_transform, arguments["expression"], arguments["data"])


def _transform(expression: str, data: Any) -> Any:
    from app.services.tools.builtin.evaluation import evaluate  # the library is loaded by who uses it

    if isinstance(data, str):
        with suppress(ValueError, RecursionError):
            data = json.loads(data)
    return evaluate(expression, data)
