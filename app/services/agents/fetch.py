"""Ask another service of the node for one JSON answer, whole."""

from typing import Any

from starlette.types import ASGIApp

from app.call import call
from app.context import RequestContext
from app.errors import PeerLost


async def fetch(app: ASGIApp, method: str, target: str, body: Any = None, context: RequestContext | None = None) -> Any:
    """The JSON answer. Raises what the service raised, AnsweredError for a status of 400 and above, PeerLost for what is no JSON."""
    async with call(app, method, target, body=body, context=context) as reply:
        await reply.raise_for_status()
        try:
            return await reply.json()
        except (ValueError, RecursionError):
            raise PeerLost(f"The answer to {method} {target} is not JSON; look into the log of the node that gave it.") from None
