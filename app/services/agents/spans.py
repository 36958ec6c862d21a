"""What an agent does as spans, by OpenTelemetry's conventions for generative AI: invoke_agent, and execute_tool below it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from app.genai import shaped
from app.services.agents.completion import ToolCall
from app.services.agents.usage import Usage
from app.tracing import Span, active, span

TOOL_FAILED = "tool_error"
"""The error.type of a call that the tool itself, or its arguments, made fail."""


class Answer(Protocol):
    """What the span tells of a run that has ended."""

    @property
    def answer(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def steps(self) -> Sequence[Any]: ...
    @property
    def usage(self) -> Usage: ...


class Outcome(Protocol):
    """What the span tells of a call that was carried out."""

    @property
    def status(self) -> str: ...
    @property
    def text(self) -> str: ...


A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Outcome)


def invocation(agent: str, version: str, session: str | None, messages: Sequence[Mapping[str, Any]]) -> Span:
    """The span of one run of an agent."""
    noted = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.agent.version": version or None,
        "gen_ai.conversation.id": session,
    }
    begun = span(f"invoke_agent {agent}", noted)
    if begun.keeps_content:
        begun.tell("gen_ai.input.messages", shaped(messages))
    return begun


def answered(result: A) -> A:
    """Note on the run's span how it ended."""
    run = active()
    run.set("gen_ai.response.model", result.usage.model or None)
    run.set("gen_ai.usage.input_tokens", result.usage.tokens_in)
    run.set("gen_ai.usage.output_tokens", result.usage.tokens_out)
    run.set("astromesh.agent.outcome", result.outcome)
    run.set("astromesh.agent.steps", len(result.steps))
    if run.keeps_content:
        run.tell("gen_ai.output.messages", shaped([{"role": "assistant", "content": result.answer, "finish_reason": result.outcome}]))
    return result


def execution(call: ToolCall) -> Span:
    """The span of one call of a tool."""
    noted = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name[:100],
        "gen_ai.tool.call.id": call.id[:100],
        "gen_ai.tool.type": "function",
    }
    begun = span(f"execute_tool {call.name[:100]}", noted)
    begun.tell("gen_ai.tool.call.arguments", call.arguments)
    return begun


def executed(result: R) -> R:
    """Note on the call's span what came of it."""
    call = active()
    call.set("astromesh.tool.status", result.status)
    if result.status == "error":
        call.fail(TOOL_FAILED)
    call.tell("gen_ai.tool.call.result", result.text)
    return result
