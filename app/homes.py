"""Which of several stores keeps a conversation whose id names none: the first in rendezvous order that has it.

A store without the history is not believed to be the home before the others were asked, once; what is found is remembered. A store that
cannot be asked may be the home, so a conversation that nobody else has is then refused: better no answer than one that forgot.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace

from starlette.types import ASGIApp

from app.call import call
from app.context import current
from app.errors import BadRequest, NodeError, StoreUnavailable
from app.session import rank_stores

_REMEMBERED = 10_000
AtStore = Callable[[str], ASGIApp]


class SessionHomes:
    """Remembers, for the conversations lately asked for, the store that keeps each."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def find(self, session: str, history: str, stores: Iterable[str], at: AtStore, silent: str = "") -> str:
        """The store of the current principal's conversation at ``history`` (its raw path); ``at`` gives the app of a store, ``silent`` says
        why there may be more stores than these. Raises StoreUnavailable where that cannot be said."""
        ranked = rank_stores(session, stores)
        conversation = (current().principal, history)
        known = self._known.get(conversation)
        if known in ranked:
            self._known.move_to_end(conversation)
            return known
        for store in ranked:
            try:
                if await _has(at(store), store, history):
                    self._remember(conversation, store)
                    return store
            except NodeError as error:
                if error.status == BadRequest.status:  # the request's own fault, whichever store is asked
                    raise
                silent = error.message
        if silent:
            raise StoreUnavailable(
                f"A store that may keep session {session!r} cannot be asked now ({silent}); ask again shortly.",
                headers={"Retry-After": "1"},
            )
        return ranked[0]

    def _remember(self, conversation: tuple[str, str], store: str) -> None:
        self._known[conversation] = store
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


async def _has(app: ASGIApp, store: str, history: str) -> bool:
    # As a part of the request, with the nodes that it has passed and the store that is meant: else stores that know each other would
    # ask in circles.
    context = replace(current(), store=store)
    try:
        async with call(app, "GET", f"{history}?max_turns=1", context=context) as reply:
            await reply.raise_for_status()
    except NodeError as error:
        if error.status == 404:
            return False
        raise
    return True
