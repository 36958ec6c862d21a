"""`run`, one question to an agent, and `chat`, a conversation with it."""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from app.cli.failure import Failure
from app.cli.invocation import Asked, asks_node
from app.cli.node import RUN_S, Node
from app.cli.output import note, show_json
from app.cli.telling import Telling, summary

INTERRUPTED = 130
_PROMPT = "> "


@dataclass(slots=True)
class Talk:
    """Questions to one agent, in one session once it has one."""

    node: Node
    agent: str
    session: str | None = None
    context: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        return f"/v1/agents/{quote(self.agent, safe='')}/run"

    def body(self, query: str) -> dict[str, Any]:
        given = {"session_id": self.session, "context": self.context}
        return {"query": query, **{name: value for name, value in given.items() if value}}

    def ask(self, query: str) -> Mapping[str, Any]:
        """Ask, and tell the run as it goes on. An interrupt closes the connection, which cancels the run."""
        telling, begun = Telling(), time.monotonic()
        try:
            with self.node.events(self.path, self.body(query)) as events:
                result = telling.tell(events)
        except BaseException:
            telling.end_line()
            raise
        self.session = str(result.get("session_id") or self.session or "") or None
        note(f"({summary(result, time.monotonic() - begun)})")
        return result


@click.command()
@click.argument("agent")
@click.argument("question", default="-")
@click.option("--session", metavar="ID", help="The conversation to go on with; without it a new one begins.")
@click.option("--context", "context_text", metavar="JSON", help="An object for the agent's prompt, where it asks for one.")
@asks_node
def run(asked: Asked, agent: str, question: str, session: str | None, context_text: str | None) -> int:
    """Ask AGENT a QUESTION; - reads it from standard input.

    The answer goes to stdout as it comes; tool calls and what the run took go to stderr. With --json, the whole result at the end.
    """
    talk = Talk(asked.node, agent, session, _context(context_text))
    query = _question(question)
    try:
        if asked.as_json:
            show_json(asked.node.post(talk.path, talk.body(query), RUN_S).body)
            return 0
        result = talk.ask(query)
    except KeyboardInterrupt:
        note("interrupted; the run was cancelled")
        return INTERRUPTED
    trace = result.get("trace")
    note(f"session {talk.session}, trace {trace.get('trace_id') if isinstance(trace, Mapping) else 'unknown'}")
    return 0


def _question(text: str) -> str:
    if text == "-":
        if sys.stdin.isatty():
            raise click.UsageError('There is no question; write one: astromeshctl run AGENT "What is 17*23?"')
        text = sys.stdin.read().strip()
    if not text.strip():
        raise click.UsageError("The question is empty.")
    return text


def _context(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--context is no JSON: {error}.") from None
    if not isinstance(parsed, dict):
        raise click.UsageError('--context is not an object; write one like {"customer": "Ada"}.')
    return parsed


@click.command()
@click.argument("agent")
@click.option("--session", metavar="ID", help="The conversation to go on with; without it a new one begins.")
@asks_node
def chat(asked: Asked, agent: str, session: str | None) -> int:
    """A conversation with AGENT, until Ctrl-D. Ctrl-C stops an answer.

    Without a terminal each line of standard input is a question, and the first failure ends it.
    """
    on_terminal = sys.stdin.isatty()
    talk = Talk(asked.node, agent, session)
    asked.node.get(f"/v1/agents/{quote(agent, safe='')}")  # a wrong name or address is told before anything is typed
    if on_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited then, and earlier ones come back
        note(f"Talking to {agent}. Ctrl-C stops an answer, Ctrl-D ends.")
    code = 0
    while code == 0 and (query := _next(on_terminal)) is not None:
        if query.strip():
            code = _turn(talk, query.strip(), asked.as_json, on_terminal)
    if talk.session:
        note(f"session {talk.session}; go on with: astromeshctl chat {agent} --session {talk.session}")
    return code


def _next(on_terminal: bool) -> str | None:
    """The next line that a person writes; None at the end."""
    if not on_terminal:
        return sys.stdin.readline() or None
    try:
        return str(click.prompt(_PROMPT, prompt_suffix="", default="", show_default=False, err=True))
    except click.Abort:  # Ctrl-D, or Ctrl-C at the prompt
        note("")
        return None


def _turn(talk: Talk, query: str, as_json: bool, on_terminal: bool) -> int:
    """One question. Returns the code to end with, 0 to go on: at a terminal a failure is told, and the person may ask again."""
    try:
        if as_json:
            result = talk.node.post(talk.path, talk.body(query), RUN_S).body
            talk.session = str(result.get("session_id") or "") or talk.session
            click.echo(json.dumps(result))
        else:
            talk.ask(query)
    except Failure as failure:
        failure.show()
        return 0 if on_terminal else failure.exit_code
    except KeyboardInterrupt:
        note("interrupted; the run was cancelled")
        return 0 if on_terminal else INTERRUPTED
    return 0
