"""System prompts: Jinja2 in a sandbox. The file's author writes the template; what callers send is data in it, never template."""

import asyncio
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError, UndefinedError

from app.errors import AgentUnavailable, InvalidBody
from app.services.agents.sandbox import compile_prompt, variables_of

_FAILURES = (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError, MemoryError)


class Prompt:
    """One compiled template. Raises jinja2.TemplateSyntaxError (with the line within the text) when it is none."""

    def __init__(self, source: str) -> None:
        self._template, self._quick = compile_prompt(source)

    async def render(self, variables: Mapping[str, Any], max_chars: int, what: str) -> str:
        """The text. ``what`` names the prompt, its agent and its file in errors: InvalidBody for a variable that the run
        lacks, else AgentUnavailable.

        Only what is quick is done at once, in tens of microseconds; whatever may take its time takes it in a thread.
        """
        if self._quick:
            return self._render(variables, max_chars, what)
        return await asyncio.to_thread(self._render, variables, max_chars, what)

    def _render(self, variables: Mapping[str, Any], max_chars: int, what: str) -> str:
        parts, length = [], 0
        try:
            for part in self._template.generate(variables_of(variables)):
                parts.append(part)
                length += len(part)
                if length > max_chars:
                    raise ValueError(f"it grows beyond {max_chars} characters")
        except UndefinedError as error:
            message = f"The {what} needs something that this run lacks: {error.message}; send it in `context`."
            raise InvalidBody(message, param="$.context") from None
        except _FAILURES as error:
            raise AgentUnavailable(f"The {what} cannot be rendered: {error}; mend the template.") from None
        return "".join(parts)
