"""(service, key) -> who answers: the one module that knows. HTTP requests and in-process calls both go through it.

A local service answers when it has the key, or when nobody has it (its 404 is then the truth); otherwise a direct peer that has the key,
then one that has the service, then one that reaches it. What belongs to a session goes where the session's store is.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.context import CURRENT, current
from app.errors import MethodNotAllowed, NodeError, NotFound, StoreUnavailable
from app.forward import MAX_HOPS, Forwarder
from app.homes import SessionHomes
from app.peers.peer import Peer, Peers
from app.services import SERVICES
from app.services.contract import Facts, Service
from app.session import NO_STORE, rank_stores, store_of

FORWARDED = tuple(name for name, entry in SERVICES.items() if entry.forwarded)


class LocalService:
    """A mounted service as an ASGI app: its routes with and without a trailing slash, unknown paths and methods as errors."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._router = Router(list(service.routes), redirect_slashes=False, default=_no_such_path)

    def facts(self) -> Facts:
        return self.service.facts()

    def has(self, key: str | None) -> bool:
        keys = self.service.facts().keys
        return key is None or keys is None or key in keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") or "/"
        try:
            await self._router({**scope, "path": path, "app": self}, receive, send)
        except HTTPException as error:
            raise translate(error, scope) from error


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound(f"There is nothing at {scope['path']}.")


def translate(error: HTTPException, scope: Scope) -> NodeError:
    """Starlette's own errors (a wrong method, mostly) in our tree."""
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(f"{scope['method']} is not for {scope['path']}; it takes {allow}.", headers={"Allow": allow})
    translated = NodeError(error.detail)
    translated.status = error.status_code
    return translated


class Placement:
    """``node_id`` is this node's: a peer that turns out to be the node itself is never asked."""

    def __init__(self, node_id: str, local: Mapping[str, LocalService], peers: Peers, forwarder: Forwarder) -> None:
        self._node_id = node_id
        self.local = local
        self.peers = peers
        self._forwarder = forwarder
        self._homes = SessionHomes()

    def locate(self, service: str, key: str | None) -> ASGIApp:
        """Whoever answers for ``key``. Raises NotFound for a service that is off here and never forwarded."""
        here = self.local.get(service)
        if not SERVICES[service].forwarded:
            if here is None:
                raise NotFound(f"The service {service} is switched off on this node (spec.services.{service}).")
            return here
        if service == "memory" and key is not None:
            return self._at_home(key)
        if here is not None and (here.has(key) or not self._holders(service, key)):
            return here
        return self._elsewhere(service, key)

    def stores(self) -> set[str]:
        """The ids of all stores that this node knows, also those that cannot be reached now."""
        return self._stores(lambda peer: True)

    def store_for_new_session(self) -> str:
        """The store that a new session begins in: this node's own, else any that can be reached, else one of last resort; NO_STORE where
        there is none."""
        own = self._own_store
        reached = self._stores(lambda peer: peer.usable) or self._stores(lambda peer: peer.state == "suspect")
        return own or random.choice(sorted(reached) or [NO_STORE])

    def store_for_key(self, key: str) -> str:
        """The store for a new session of a request that may be repeated: for the same key the same one, whichever node is asked, as long as
        the stores are the same."""
        return next(iter(rank_stores(key, self.stores())), NO_STORE)

    async def home(self, agent: str, session: str) -> str:
        """The store that keeps an agent's conversation; NO_STORE where none is known. Raises StoreUnavailable."""
        named = current().store or store_of(session) or NO_STORE
        if named not in (stores := self.stores()) and (named != NO_STORE or self._unheard()):
            await self.peers.refresh()
            stores = self.stores()
        if named != NO_STORE:
            if named in stores:
                return named
            raise StoreUnavailable(
                f"Session {session!r} is kept in store {named}, which no node known here has now; ask again when its node is back, "
                "or begin a new session if that store is gone for good.",
                headers={"Retry-After": "5"},
            )
        unheard = self._unheard()
        if len(stores) > 1 or (stores and unheard):
            history = f"/v1/memory/{quote(agent, safe='')}/history/{quote(session)}"
            silent = f"not heard from yet: {', '.join(unheard)}" if unheard else ""
            return await self._homes.find(session, history, stores, self._at_store, silent)
        return next(iter(stores), NO_STORE)

    def _unheard(self) -> list[str]:
        """Nodes that may keep a store of which this node has not heard: a peer's, or one elsewhere that has not been reached yet."""
        here = [] if self._own_store or "memory" not in self.local else ["this node's own store"]
        return here + [peer.name for peer in self.peers.all() if peer.offers("memory") and not peer.store_id]

    @property
    def _own_store(self) -> str | None:
        return self.local["memory"].facts().store_id if "memory" in self.local else None

    def _stores(self, counts: Callable[[Peer], bool]) -> set[str]:
        own = self._own_store
        keeping = [peer for peer in self.peers.all() if peer.offers("memory") or peer.reaches("memory")]
        return {own} - {None} | {peer.store_id for peer in keeping if peer.store_id and counts(peer)}  # type: ignore[return-value]

    def reaches(self) -> dict[str, int]:
        """The services that are not here and can be had now, and over how many nodes: 1 where a direct peer offers it, one more than the
        peer itself says where a peer reaches it.

        What a node tells a node that asks leaves out what lies behind the asker, and what is further than the hop limit lets a request of
        the asker's come. So what two peers tell each other never comes back to either, and round a longer circle a distance only grows:
        once nobody offers a service, nobody says for longer than it takes to ask three nodes that it can be reached.
        """
        passed = self._passed()
        found: dict[str, int] = {}
        for peer in self.peers.all():
            for service in FORWARDED if peer.usable and peer.node_id not in passed else ():
                behind = 0 if peer.offers(service) else self._behind(peer, service)
                if behind is not None and service not in self.local:
                    found[service] = min(behind + 1, found.get(service, MAX_HOPS))
        return found

    def askable(self, services: Sequence[str]) -> list[Peer]:
        """The peers to ask for a list that a person expects whole: those that offer or reach any of the services."""
        passed = self._passed()
        if len(current().hops) >= MAX_HOPS:
            return []
        return [
            peer
            for peer in self.peers.all()
            if peer.node_id not in passed
            and any(service in peer.services or self._behind(peer, service) is not None for service in services)
        ]

    def _passed(self) -> tuple[str, ...]:
        """The ids of the nodes that the request must not come to again: those that it has passed, and this one."""
        return (*current().hops, self._node_id)

    @staticmethod
    def _behind(peer: Peer, service: str) -> int | None:
        """How often a peer that lacks the service would pass a request on, by what it says; None where it cannot, or not often enough."""
        told = peer.facts.reaches if peer.facts else None
        if not told:
            return None
        distances = (each for each in range(1, MAX_HOPS - len(current().hops)) if as_told(service, each) in told)
        return next(distances, None)

    def _at_home(self, session: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            store = await self.home(scope["path"].split("/")[3], session)
            CURRENT.set(replace(current(), store="" if store == NO_STORE else store))
            await self._at_store(store)(scope, receive, send)

        return answer

    def _at_store(self, store: str) -> ASGIApp:
        here = self.local.get("memory")
        if here is not None and store in (here.facts().store_id, NO_STORE):
            return here
        return self._elsewhere("memory", None, lambda peer: store in (peer.store_id, NO_STORE))

    def _holders(self, service: str, key: str | None) -> list[Peer]:
        passed = self._passed()
        offering = [peer for peer in self.peers.all() if peer.facts and peer.offers(service) and peer.node_id not in passed]
        return [peer for peer in offering if peer.has(service, key)]

    def _elsewhere(self, service: str, key: str | None, among: Callable[[Peer], bool] = lambda peer: True) -> ASGIApp:
        async def relay(scope: Scope, receive: Receive, send: Send) -> None:
            peers = self._candidates(service, key, among)
            first = next(peers, None)
            if first is None:
                await self.peers.refresh()
                peers = self._candidates(service, key, among)
                first = next(peers, None)
            if first is None:
                raise self._forwarder.unavailable(service, current(), self._absent(service, among))
            await self._forwarder.relay(service, chain((first,), peers), (scope, receive, send))

        return relay

    def _candidates(self, service: str, key: str | None, among: Callable[[Peer], bool]) -> Iterator[Peer]:
        return (peer for peer in self._in_order(service, key) if among(peer))

    def _in_order(self, service: str, key: str | None) -> Iterator[Peer]:
        context, passed = current(), self._passed()
        known = [peer for peer in self.peers.all() if peer.node_id not in passed]
        direct = [peer for peer in known if peer.offers(service)]
        # Where some have the key, one that has not would only answer 404.
        direct = [peer for peer in direct if peer.has(service, key)] or direct
        session = context.session if service in ("agents", "memory") else None  # whose work is where a store is
        usable = [peer for peer in direct if peer.usable]
        if len(usable) < len(direct):
            _count_skipped(direct, usable)
        yield from _by_store(session, usable)
        ways = [(behind, peer) for peer in known if (behind := self._behind(peer, service)) is not None and peer not in direct]
        for distance in sorted({behind for behind, _ in ways}):
            yield from _by_store(session, [peer for behind, peer in ways if behind == distance and peer.usable])
        beyond = [peer for _, peer in ways]
        yield from [peer for peer in (*direct, *beyond) if peer.state == "suspect"]

    def _absent(self, service: str, among: Callable[[Peer], bool]) -> list[str]:
        """Of each peer that could be expected to answer, why it cannot."""
        expected = [peer for peer in self.peers.all() if service in peer.services or self._behind(peer, service) is not None]
        return [f"{peer.name}: {self._why_not(peer, service, among)}" for peer in expected]

    def _why_not(self, peer: Peer, service: str, among: Callable[[Peer], bool]) -> str:
        if peer.reason or not peer.facts:
            return peer.reason or "not heard from yet"
        if peer.node_id in self._passed():
            return "it is this node itself" if peer.node_id == self._node_id else "the request came from there"
        if peer.facts.draining:
            return "it is shutting down"
        return "it keeps another store" if peer.offers(service) and not among(peer) else "it does not have it"


def as_told(service: str, distance: int) -> str:
    """A service that a node reaches, as it tells other nodes: the bare name where one of its peers offers it, else with the distance."""
    return service if distance == 1 else f"{service}/{distance}"


def _count_skipped(peers: list[Peer], usable: list[Peer]) -> None:
    for peer in peers if usable else ():
        if peer.state == "suspect":
            peer.skipped += 1


def _by_store(session: str | None, peers: list[Peer]) -> Iterator[Peer]:
    """Peers in the order to try: those with the session's store first, and among equals the less busy of two random ones each time."""
    if len(peers) < 2:
        yield from peers
        return
    told = current().store
    stores = rank_stores(session, {peer.store_id for peer in peers}) if session else []
    ranks = {store: -1 if store == told else rank for rank, store in enumerate(stores)}
    left = list(peers)
    while left:
        best = min(ranks.get(peer.store_id, 0) for peer in left)
        equals = [peer for peer in left if ranks.get(peer.store_id, 0) == best]
        pair = random.sample(equals, 2) if len(equals) > 1 else equals
        chosen = min(pair, key=lambda peer: peer.busy)
        left.remove(chosen)
        yield chosen
