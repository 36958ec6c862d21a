"""System prompts: Jinja2 in a sandbox. The file's author writes the template; what callers send is data in it, never template.

The bounds are there for accidents: output is counted as it is made, and an operator cannot blow a value up.
"""

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import TemplateError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.errors import AgentUnavailable, InvalidBody

_MAX_S = 1.0
_MAX_REPEATED = 100_000
_FAILURES = (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError)


class Prompt:
    """One compiled template. Raises jinja2.TemplateSyntaxError (with the line within the text) when it is none."""

    def __init__(self, source: str) -> None:
        self._template = _environment().from_string(source)

    def render(self, variables: Mapping[str, Any], max_chars: int, whose: str) -> str:
        """The text. ``whose`` names agent and file in errors: InvalidBody for a variable that the run lacks, else AgentUnavailable."""
        parts, length, end = [], 0, time.monotonic() + _MAX_S
        try:
            for part in self._template.generate(**variables):
                parts.append(part)
                length += len(part)
                if length > max_chars or time.monotonic() > end:
                    raise ValueError(f"it grows beyond {max_chars} characters or takes more than {_MAX_S:g} s")
        except UndefinedError as error:
            message = f"The system prompt of {whose} needs something that this run lacks: {error.message}; send it in `context`."
            raise InvalidBody(message, param="$.context") from None
        except _FAILURES as error:
            raise AgentUnavailable(f"The system prompt of {whose} cannot be rendered: {error}; mend the template.") from None
        return "".join(parts)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(right) <= 64):
            raise SecurityError(f"{right!r} is too large an exponent")
        if operator == "*" and not numbers:
            sized, count = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(count, int) and hasattr(sized, "__len__") and len(sized) * count > _MAX_REPEATED:
                raise SecurityError(f"a value repeated {count} times is too large")
        return super().call_binop(context, operator, left, right)


@cache
def _environment() -> _Environment:
    return _Environment(autoescape=False, keep_trailing_newline=False, cache_size=0)
