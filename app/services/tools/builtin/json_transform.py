"""``json_transform``: take parts out of JSON and put them together anew, by a JMESPath expression (jmespath.org)."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from app.services.tools.tool import ToolError

MAX_VISITS, MAX_SIZE = 200_000, 100_000
"""Steps of an evaluation, and elements of any value on the way: an expression of a line can double its data at every step."""


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
        return await asyncio.to_thread(_search, arguments["expression"], arguments["data"])


def _search(expression: str, data: Any) -> Any:
    from jmespath import exceptions, functions, parser, visitor

    class Bounded(visitor.TreeInterpreter):
        visits = 0

        def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
            self.visits += 1
            value = super().visit(node, *args, **kwargs)
            if self.visits > MAX_VISITS or (isinstance(value, list | dict | str) and len(value) > MAX_SIZE):
                raise ToolError("The expression takes too many steps, or makes too much of its data; ask for less.")
            return value

    if isinstance(data, str):
        with suppress(ValueError, RecursionError):
            data = json.loads(data)
    try:
        parsed = parser.Parser().parse(expression).parsed
        value = Bounded(visitor.Options(custom_functions=functions.Functions())).visit(parsed, data)
    except exceptions.JMESPathError as error:
        raise ToolError(f"The expression {expression[:200]!r} does not work: {' '.join(str(error).split())[:300]}.") from None
    except RecursionError:
        raise ToolError("The data or the expression is nested too deeply.") from None
    return _checked(value)


def _checked(value: Any) -> Any:
    """The value, if it is not too large: one that holds itself many times is small in memory and endless as text."""
    waiting, seen = [value], 0
    while waiting:
        each = waiting.pop()
        seen += 1
        if seen > MAX_SIZE:
            raise ToolError(f"The result has over {MAX_SIZE} elements; ask for less.")
        waiting += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
    return value
