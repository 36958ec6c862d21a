"""Evaluate a JMESPath expression in bounded time and memory: steps are counted, and before they are taken.

An expression of a line can double its data at every step, and a function or a comparison goes through all of that at once. So a step is an
element that is looked at or made, or a few characters of text.
"""

from typing import Any

from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from app.services.tools.tool import ToolError

MAX_STEPS, CHARS_PER_STEP = 1_000_000, 16
_MAKING = frozenset(("flatten", "slice", "projection", "value_projection", "filter_projection", "function_expression"))
_FOREIGN = (ArithmeticError, AttributeError, KeyError, TypeError, ValueError)  # of functions that get numbers they did not think of


def evaluate(expression: str, data: Any) -> Any:
    """What the expression takes from the data. Raises ToolError, and nothing else."""
    try:
        running = _Bounded()
        value = running.visit(Parser().parse(expression).parsed, data)
        running.pay(value)  # one that holds itself many times is small in memory and endless as text
    except (JMESPathError, *_FOREIGN) as error:
        raise ToolError(f"The expression {expression[:200]!r} does not work: {' '.join(str(error).split())[:300]}.") from None
    except RecursionError:
        raise ToolError("The data or the expression is nested too deeply.") from None
    return value


class _Bounded(TreeInterpreter):
    def __init__(self) -> None:
        super().__init__()
        self._known = Functions()
        self._left = MAX_STEPS

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._take(1)
        value = super().visit(node, *args, **kwargs)
        if node["type"] in _MAKING and isinstance(value, list | dict):
            self._take(len(value))
        return value

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        for argument in arguments:
            self.pay(argument)
        match node["value"], arguments:
            case "join", [str() as glue, list() as parts]:
                self._take(len(glue) * len(parts) // CHARS_PER_STEP)
        return self._known.call_function(node["value"], arguments)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        self.pay(left)
        self.pay(right)
        ordered = (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))
        return self.COMPARATOR_FUNC[node["value"]](left, right) if ordered or node["value"] in ("eq", "ne") else None

    def pay(self, value: Any) -> None:
        """Pay for going through a value, all of it."""
        waiting = [value]
        while waiting:
            each = waiting.pop()
            self._take(1)
            if isinstance(each, str):
                self._take(len(each) // CHARS_PER_STEP)
            elif isinstance(each, dict):
                self._take(sum(map(len, each)) // CHARS_PER_STEP)
                waiting += each.values()
            elif isinstance(each, list):
                waiting += each

    def _take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise ToolError(f"The expression takes over {MAX_STEPS} steps, or makes too much of its data; ask for less.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
