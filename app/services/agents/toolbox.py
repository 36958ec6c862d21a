"""An agent's tools at work. Whatever goes wrong with a call becomes its result, for the model to deal with."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from app.body import check, parse_json
from app.context import RequestContext, current
from app.errors import InvalidJSON, NodeError
from app.services.agents.agent import SEARCH, Agent, Tool
from app.services.agents.completion import ToolCall
from app.services.agents.fetch import fetch
from app.services.agents.metrics import Metrics
from app.services.agents.patience import TooLongError, bounded, patient_validator
from app.services.agents.settings import Settings
from app.services.agents.spans import executed, execution
from app.services.agents.usage import Usage
from app.services.contract import Locate

_SECRET = re.compile(r"auth|cookie|key|token|secret|password|signature", re.IGNORECASE)  # in the names of headers that carry one
_TOO_DEEP = "The arguments or the result are nested too deeply; send flatter JSON."
_PUBLIC_ONLY = "Webhooks of agents that were made over HTTP reach public addresses alone; write the agent as a file."
_HANDED_OVER = "The call was handed to the client, who carries it out; its result does not come back in this run."


@dataclass(frozen=True, slots=True)
class ToolResult:
    """``status`` is ok, error, or client (handed over); ``text`` is the result, or what went wrong; ``value`` is the result as JSON."""

    call: ToolCall
    status: str
    text: str
    value: Any
    duration_ms: float = 0.0

    @property
    def content(self) -> str:
        """What the model is told: without the word, a sentence on what went wrong would pass for a result."""
        return f"Error: {self.text}" if self.status == "error" else self.text

    def as_json(self) -> dict[str, Any]:
        outcome = {"error": self.text} if self.status == "error" else {"result": self.value}
        told = {"id": self.call.id, "name": self.call.name, "status": self.status}
        return told | outcome | {"duration_ms": self.duration_ms}


class ToolFailed(Exception):
    """A call cannot be carried out; the message is for the model."""


class Toolbox:
    """The tools of one agent during one run; what agents called by it use is added to ``usage``."""

    def __init__(self, locate: Locate, agent: Agent, settings: Settings, usage: Usage, metrics: Metrics) -> None:
        self._locate, self._metrics = locate, metrics
        self._agent = agent
        self._tools = {tool.name: tool for tool in agent.tools}
        self._settings = settings
        self._usage = usage
        self.moved_to = ""
        """The agent that a call has passed the conversation on to."""

    def is_client(self, call: ToolCall) -> bool:
        tool = self._tools.get(call.name)
        return tool is not None and tool.type == "client"

    async def carry_out(self, call: ToolCall) -> ToolResult:
        with execution(call):
            return executed(await self._outcome(call))

    async def _outcome(self, call: ToolCall) -> ToolResult:
        began = time.perf_counter()
        with self._metrics.call(call.name if call.name in self._tools else "unknown") as timed:
            try:
                result = await self._carry_out(call)
            except (ToolFailed, NodeError) as error:
                result = ToolResult(call, "error", str(error), None)
            except RecursionError:  # from whatever reads or writes the JSON on the way to the tool and back
                result = ToolResult(call, "error", _TOO_DEEP, None)
            timed.outcome = result.status
        duration_ms = round((time.perf_counter() - began) * 1000, 3)
        return replace(result, text=self._cut(result.text), duration_ms=duration_ms)

    async def _carry_out(self, call: ToolCall) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolFailed(f"There is no tool {call.name!r}; there is {', '.join(sorted(self._tools)) or 'none'}.")
        if not self._agent.may_call(tool.name):
            raise ToolFailed(f"The tool {tool.name!r} is not permitted to this agent (spec.permissions); go on without it.")
        arguments = _arguments(call)
        if tool.type == "client":
            return ToolResult(call, "client", _HANDED_OVER, None)
        carry_out = {"agent": self.ask_agent, "webhook": self._post, "rag": self._search}.get(tool.type, self._execute)
        value = await carry_out(tool, arguments)
        return ToolResult(call, "ok", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), value)

    async def _search(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Search the collections of the agent's file, and no others, whatever the model names."""
        return await self._execute(replace(tool, name=SEARCH), {**arguments, "collections": list(tool.collections)})

    async def _execute(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        limit = self._settings.tool_timeout_s
        body = {"tool_name": tool.name, "arguments": arguments}
        try:
            async with asyncio.timeout(limit) as scope:
                answer = await fetch(self._locate("tools", None), "POST", "/v1/tools/execute", body)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ToolFailed(f"The tool {tool.name!r} did not answer within {limit:g} s.") from None
        if answer.get("status") != "ok":
            raise ToolFailed(str(answer.get("error") or "The tool failed without saying why."))
        return answer.get("result")

    async def _post(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Post the arguments to a webhook. The operator wrote the URL in a file, so its host is allowed wherever it is; that of an agent
        which was made over HTTP only where it is public."""
        from app.outbound import Destinations, OutboundError, Request, anywhere, ask, host_of  # only who has webhooks needs the client

        if tool.parameters is not None:
            _check(arguments, tool.parameters)
        context = current()
        headers = {"Content-Type": "application/json", "X-Request-Id": context.request_id, "traceparent": context.traceparent}
        written = {name.lower() for name in tool.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in written} | dict(tool.headers)
        request = Request("POST", tool.url, headers, json.dumps(arguments).encode(), self._settings.tool_timeout_s)
        try:
            answer = await ask(request, Destinations((host_of(tool.url),), () if self._agent.made else anywhere(), _PUBLIC_ONLY))
        except OutboundError as error:
            raise ToolFailed(str(error)) from None
        text = _without_secrets(answer.text(), tool) + (" [cut here]" if answer.truncated else "")
        if not 200 <= answer.status < 300:
            raise ToolFailed(f"The webhook answered {answer.status}: {text[:1000]}")
        try:
            return parse_json(text.encode("utf-8", "backslashreplace"))  # NaN is no JSON: no answer of a run could carry it
        except InvalidJSON:
            return text

    async def ask_agent(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        context = deeper()
        if context.agent_depth > self._settings.max_depth:
            raise ToolFailed(f"Agents may call agents {self._settings.max_depth} deep; answer without {tool.name!r}.")
        query = arguments.get("query")
        body = {"query": query if isinstance(query, str) and query else json.dumps(arguments, ensure_ascii=False)}
        answer = await fetch(self._locate("agents", tool.agent), "POST", f"{path_of(tool.agent)}/run", body, context)
        self._usage.merge(answer["usage"]["by_model"])
        if answer.get("outcome") == "blocked":
            raise ToolFailed(f"The answer of {tool.agent!r} was withheld by its guardrail {answer.get('guardrail')}.")
        return answer["answer"]

    def _cut(self, text: str) -> str:
        limit = self._settings.tool_result_chars
        return text if len(text) <= limit else f"{text[:limit]}\n[cut here: {len(text)} characters, {limit} shown]"


def deeper() -> RequestContext:
    """The context in which this run asks another agent."""
    here = current()
    return replace(here, agent_depth=here.agent_depth + 1, hops=(), from_peer=False)


def path_of(agent: str) -> str:
    return f"/v1/agents/{quote(agent, safe='')}"


def _check(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises InvalidBody for arguments that do not fit, ToolFailed where that cannot be said in time."""
    try:
        with bounded():
            check(arguments, patient_validator(parameters))
    except TooLongError as error:
        raise ToolFailed(f"The arguments cannot be checked by the tool's parameters: {error}; go on without the tool.") from None


def _without_secrets(text: str, tool: Tool) -> str:
    """An answer without the keys that it was asked with, should it repeat them."""
    secret = [value for name, value in tool.headers.items() if _SECRET.search(name)]
    values = {part for value in secret for part in (value, value.rpartition(" ")[2]) if len(part) >= 8}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def _arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments; none at all is an empty object, as models leave them out for tools without parameters."""
    try:
        value = json.loads(call.arguments or "{}")
    except ValueError as error:
        raise ToolFailed(f"The arguments are not JSON ({error}); send one JSON object.") from None
    if not isinstance(value, dict):
        raise ToolFailed("The arguments are not a JSON object; send one JSON object.")
    return value
