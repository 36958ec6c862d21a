"""The tools that this node has: describe them, check arguments, run them within bounds of time and size."""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.body import check, validator
from app.config.yaml import nearest
from app.errors import ToolNotFound
from app.services.tools.tool import Tool, ToolError
from app.tracing import active


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """``spec.tools``. A result goes into a model's context, where a quarter of a megabyte is already more than most can hold."""

    execute_timeout_s: float = 30.0
    max_result_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an execution: ``result`` when it went well, ``error`` when the tool could not do it."""

    tool: str
    result: Any = None
    error: str | None = None
    duration_ms: float = 0.0

    def as_json(self) -> dict[str, Any]:
        told = {"tool": self.tool, "result": self.result, "status": "error" if self.error else "ok", "duration_ms": self.duration_ms}
        return told | ({"error": self.error} if self.error else {})


class Registry:
    """Tools by name."""

    def __init__(self, tools: Iterable[Tool], settings: ToolSettings) -> None:
        self._settings = settings
        self._tools = {tool.name: tool for tool in tools}
        # Under the name that the request gives them, so that a violation's path is the one in the request ("$.arguments.expression").
        self._schemas = {name: validator({"properties": {"arguments": tool.parameters}}) for name, tool in self._tools.items()}

    def describe(self) -> list[dict[str, Any]]:
        return [_row(tool) for tool in self._tools.values()]

    def trouble(self) -> str:
        """What is wrong with the configuration of tools that are on, "" when nothing is. Blocks."""
        told = {name: tool.trouble() for name, tool in self._tools.items() if hasattr(tool, "trouble")}
        return "; ".join(f"{name}: {text}" for name, text in told.items() if text)

    async def execute(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Run one tool. Raises ToolNotFound, or InvalidBody for arguments that do not fit; what the tool itself cannot do is an Outcome."""
        if name not in self._tools:
            raise ToolNotFound(f"There is no tool {name!r} here; {nearest(name, self._tools)}", param="tool_name")
        active().set("gen_ai.tool.name", name)
        if reason := unavailable(self._tools[name]):
            return Outcome(name, error=f"{name} is off on this node: {reason}.")
        check({"arguments": arguments}, self._schemas[name])
        begun = time.perf_counter()
        try:
            outcome = Outcome(name, result=await self._run(self._tools[name], arguments))
        except ToolError as error:
            outcome = Outcome(name, error=str(error))
        return replace(outcome, duration_ms=round((time.perf_counter() - begun) * 1000, 3))

    async def _run(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        limit_s, limit = self._settings.execute_timeout_s, self._settings.max_result_bytes
        bound = asyncio.timeout(limit_s)
        try:
            async with bound:
                result = await tool.run(arguments)
        except TimeoutError:
            if not bound.expired():
                raise
            raise ToolError(f"{tool.name} took longer than {limit_s:g} s (spec.tools.execute_timeout_s); ask for less.") from None
        try:
            size = len(json.dumps(result, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace"))  # as it is sent
        except RecursionError:
            raise ToolError(f"{tool.name} gave a result that is nested too deeply for JSON; ask for less.") from None
        except (TypeError, ValueError) as error:
            raise ToolError(f"{tool.name} gave a result that JSON cannot carry: {error}.") from None
        if size > limit:
            raise ToolError(f"{tool.name} gave {size} bytes, more than {limit} (spec.tools.max_result_bytes); ask for less.")
        return result


def unavailable(tool: Tool) -> str:
    """Why a tool is off, "" when it is not."""
    return str(getattr(tool, "unavailable", ""))


def _row(tool: Tool) -> dict[str, Any]:
    row = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "type": "builtin"}
    reason = unavailable(tool)
    return row | {"available": not reason} | ({"reason": reason} if reason else {})
