"""What the body of a run asks, whichever way it comes."""

from collections.abc import Mapping
from typing import Any

from app.context import current
from app.services.agents.run import Question
from app.session import check_session_id


def session_of(body: Mapping[str, Any]) -> str | None:
    """The session that a body names, else the request's. Raises BadRequest for an id that cannot be used."""
    given = body.get("session_id") or current().session
    return check_session_id(given) if given else None


def question_of(body: Mapping[str, Any], session: str, streaming: bool) -> Question:
    """What a run asks: a query, or the conversation that a swarm passes on."""
    context, carried = body.get("context") or {}, body.get("swarm")
    if carried is None:
        return Question([{"role": "user", "content": body["query"]}], session, context, streaming=streaming)
    return Question(carried["messages"], session, context, streaming=streaming, transfers=carried["transfers"])
