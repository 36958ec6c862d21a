"""Which of several stores keeps a session's conversation: the one its id names, else the first in rendezvous order that has it.

A store that has no history is not believed to be the home before the others were asked, once; what is found is remembered.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from starlette.types import ASGIApp, Receive, Scope, Send

from app.call import call
from app.context import CURRENT, current
from app.errors import NodeError
from app.session import rank_stores, store_of

_REMEMBERED = 10_000
AtStore = Callable[[str], ASGIApp]


class SessionHomes:
    """Remembers, for the conversations lately asked for, the store that keeps each."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    def app(self, session: str, stores: Sequence[str], at: AtStore) -> ASGIApp:
        """An ASGI app that answers a memory request at the session's home; ``at`` gives the app of a store."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            history = "/".join(scope["raw_path"].decode("ascii").split("/")[:6])
            store = await self._home(session, history, stores, at)
            CURRENT.set(replace(current(), store=store))
            await at(store)(scope, receive, send)

        return answer

    async def _home(self, session: str, history: str, stores: Sequence[str], at: AtStore) -> str:
        # ``history`` is the raw path of one agent's conversation; each principal has its own behind it.
        if (told := current().store) in stores:
            return told
        ranked = rank_stores(session, stores)
        if store_of(session) == ranked[0]:
            return ranked[0]
        conversation = (current().principal, history)
        known = self._known.get(conversation)
        if known in ranked:
            self._known.move_to_end(conversation)
            return known
        for store in ranked:
            if await _has(at, store, history):
                self._known[conversation] = store
                if len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
                return store
        return ranked[0]


async def _has(at: AtStore, store: str, history: str) -> bool:
    # As a part of the request, with the nodes that it has passed and the store that is meant: else stores that know each other would
    # ask in circles.
    context = replace(current(), store=store)
    try:
        async with call(at(store), "GET", f"{history}?max_turns=1", context=context) as reply:
            return reply.status == 200
    except NodeError:
        return False
