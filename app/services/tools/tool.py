"""What a tool is: a name, a description and a schema for the model, and something that runs. One tool is one small object in one file."""

from collections.abc import Mapping
from typing import Any, Protocol


class ToolError(Exception):
    """A tool could not do what it was asked. The message is for the model: what is wrong, the value, the remedy."""


class Tool(Protocol):
    """``parameters`` is a JSON Schema (2020-12) of an object without additional properties; ``run`` gets arguments that fit it.

    A tool that needs configuration says in ``unavailable`` what is missing, and in ``trouble()``, which may block, what is wrong with what
    there is; "" when nothing is.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        """A value that JSON can carry. Raises ToolError."""
        ...
