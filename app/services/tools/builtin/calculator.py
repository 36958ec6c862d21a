"""``calculator``: the value of an arithmetic expression, exact where it can be."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

from app.services.tools.builtin.arithmetic import CONSTANT_NAMES, FUNCTION_NAMES, MAX_LENGTH, evaluate
from app.services.tools.tool import ToolError


class Calculator:
    """Answers {expression, result}: a whole result as an integer with all its digits, any other as the nearest double."""

    name: ClassVar[str] = "calculator"
    description: ClassVar[str] = (
        "Evaluate an arithmetic expression exactly. Knows + - * / // % ** and parentheses, "
        f"the functions {', '.join(FUNCTION_NAMES)}, and the constants {', '.join(CONSTANT_NAMES)}."
    )
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["expression"],
        "properties": {
            "expression": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_LENGTH,
                "description": "The expression, such as 17*23 or (1.5 + 2) / sqrt(16).",
            }
        },
    }

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        expression = arguments["expression"]
        return {"expression": expression, "result": _shown(evaluate(expression))}


def _shown(value: Fraction) -> int | float:
    if value.denominator == 1:
        return value.numerator
    try:
        shown = float(value)
    except OverflowError:
        raise ToolError("The result is above 1.8e308 and not whole; round it with floor(…) to see it.") from None
    if shown == 0:
        raise ToolError("The result is nearer to zero than 1e-323, and not zero; multiply it to see it.")
    return shown
