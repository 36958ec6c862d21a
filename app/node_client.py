"""Requests to other nodes: what each of them carries, the proof of who sends it, and the second try where the other one asks for that."""

from collections.abc import AsyncIterator, Callable

from app.call import Headers
from app.connection import Connection
from app.context import RequestContext
from app.credentials import Credentials
from app.tracing import outgoing
from app.upstream import Answer, Upstream

Body = bytes | None | Callable[[], AsyncIterator[bytes]]
"""Whole, or a source of a stream that is opened once for each try."""


class NodeClient:
    """``node_id`` goes into the hop list; ``credentials`` prove this node to the others."""

    def __init__(self, upstream: Upstream, node_id: str, credentials: Credentials) -> None:
        self._upstream, self._node_id, self.credentials = upstream, node_id, credentials

    def headers(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        """What every request between nodes carries: ids, trace, deadline, principal, and the nodes it has passed."""
        remaining_s = context.remaining_s()
        remaining_s -= min(0.1, remaining_s / 10)  # so that the peer's own word of the deadline is here before ours is due
        headers = [
            (b"x-request-id", context.request_id.encode()),
            (b"traceparent", outgoing(context).encode()),
            (b"x-astromesh-forwarded", ",".join((*context.hops, self._node_id)).encode()),
            (b"x-astromesh-deadline-ms", str(max(1, int(remaining_s * 1000))).encode()),
        ]
        optional = ((b"tracestate", context.tracestate), (b"x-astromesh-principal", context.principal), (b"x-session-id", context.session))
        headers += [(name, value.encode("latin-1")) for name, value in optional if value]
        if context.store:
            headers.append((b"x-astromesh-store", context.store.encode("latin-1")))
        if context.agent_depth:
            headers.append((b"x-astromesh-agent-depth", str(context.agent_depth).encode()))
        return headers

    async def fetch(self, base: str, target: str, context: RequestContext, limit: int) -> tuple[Answer, bytes]:
        """GET, with the answer's body whole: at most ``limit`` bytes, more are a BrokenError."""
        answer = await self.send("GET", base, target, self.headers(context))
        try:
            return answer, await answer.read(limit)
        finally:
            answer.close()

    async def send(
        self, method: str, base: str, target: str, headers: Headers, body: Body = None, under_way: set[Connection] | None = None
    ) -> Answer:
        """Send a request to the node at ``base`` (its URL without a path) and return its answer, see Upstream.send. A node that does not
        know this one yet answers with a challenge before it has begun anything; that is taken up here."""
        answer = await self._send_once(method, base, target, headers, body, under_way)
        if answer.status == 401 and self.credentials.challenged(base, answer.headers):
            try:
                await answer.read()
            finally:
                answer.close()
            answer = await self._send_once(method, base, target, headers, body, under_way)
        return answer

    async def _send_once(
        self, method: str, base: str, target: str, headers: Headers, body: Body, under_way: set[Connection] | None
    ) -> Answer:
        if authorization := self.credentials.authorization(base, method, target, headers):
            headers = [*headers, (b"authorization", authorization)]
        return await self._upstream.send(method, base + target, headers, body() if callable(body) else body, under_way)
