"""A run, told as it goes on: the agent's words on stdout; on stderr its tool calls, their results, and what it took."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import click

from app.cli.failure import Failure
from app.cli.node import Event
from app.cli.text import WIDTH, cell, count, cut, duration, printable


class Telling:
    """Tells one run. ``result`` is there when it is done."""

    def __init__(self) -> None:
        self.result: Mapping[str, Any] | None = None
        self._words = ""
        self._step: Any = None
        self._open_line = False
        self._ended = False

    def tell(self, events: Iterator[Event]) -> Mapping[str, Any]:
        """Tell the run to its end and return its result. Raises Failure for the error that it ended in."""
        try:
            for event in events:
                self._event(event)
                if self.result is not None:
                    return self.result
        finally:
            if self._ended:
                _hear_out(events)
        raise Failure("The answer broke off; whether the agent finished its work is not known. Ask again.")

    def end_line(self) -> None:
        """Begin a new line where words stand on this one."""
        if self._open_line:
            click.echo()
            self._open_line = False

    def _event(self, event: Event) -> None:
        match event.kind:
            case "step":
                self._begin(event.data.get("step"))
            case "token":
                self._begin(event.data.get("step"))
                self._say(str(event.data.get("text", "")))
            case "tool_call":
                self._aside(_call(event.data))
            case "tool_result":
                self._aside(_result(event.data))
            case "done":
                self._ended = True
                self._done(event.data)
            case "error":
                self._ended = True
                self.end_line()
                raise Failure(_message(event.data))

    def _begin(self, step: Any) -> None:
        if step != self._step:
            self.end_line()
            self._step, self._words = step, ""

    def _say(self, text: str) -> None:
        self._words += text
        shown = printable(text)
        click.echo(shown, nl=False)
        if shown:
            self._open_line = not shown.endswith("\n")

    def _aside(self, text: str) -> None:
        self.end_line()
        click.echo(click.style(cut(text, WIDTH), dim=True), err=True)

    def _done(self, result: Mapping[str, Any]) -> None:
        """What was not told as it came (an answer that the node changed, or gave whole) is told now."""
        answer = str(result.get("answer", ""))
        if answer.strip() != self._words.strip():
            self.end_line()
            self._say(answer)
        self.end_line()
        self.result = result


def _hear_out(events: Iterator[Event]) -> None:
    """Read what is left, the stream's end: who hangs up before it has not heard the answer, as far as the node can know."""
    with suppress(Failure):
        for _ in events:
            pass


def summary(result: Mapping[str, Any], seconds: float) -> str:
    """What a run took, on one line."""
    usage = result.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    steps: Any = result.get("steps") or []
    parts = [count(len(steps), "step"), f"{usage.get('tokens_in', 0)} + {usage.get('tokens_out', 0)} tokens", cell(usage.get("model"))]
    outcome = result.get("outcome")
    ended = [] if outcome in (None, "answered") else [f"ended by {cell(outcome)}"]
    if guardrail := result.get("guardrail"):
        ended = [f"{cell(outcome)} by the agent's guardrail {cell(guardrail)}"]
    return ", ".join([*parts, duration(seconds), *ended])


def _call(data: Mapping[str, Any]) -> str:
    told = f"  > {cell(data.get('name'))} {cell(data.get('arguments'))}"
    return f"{told} (for a client to carry out; nobody does it here)" if data.get("client") else told


def _result(data: Mapping[str, Any]) -> str:
    took = data.get("duration_ms")
    time = f" ({duration(took / 1000)})" if isinstance(took, int | float) else ""
    failed = data.get("status") == "error"
    return f"  < {cell(data.get('name'))}{time}: {'error: ' if failed else ''}{cell(data.get('error') if failed else data.get('result'))}"


def _message(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    return str(error.get("message")) if isinstance(error, Mapping) else "The run failed, and the node does not say why; look into its log."
