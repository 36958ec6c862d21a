"""The traces of this node, and one trace over all nodes that took part in it, as far as they can be asked now."""

import re
from collections.abc import Sequence

from app.context import current
from app.errors import TraceNotFound
from app.services.contract import AskPeers
from app.services.observability.tree import AGENT, Row, flat, row, summary, tree
from app.tracing import MAX_SPANS, Recorder

_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class Traces:
    """``ask_peers`` asks the other nodes, which answer with what they have in the same shape."""

    def __init__(self, recorder: Recorder, ask_peers: AskPeers) -> None:
        self._recorder, self._ask_peers = recorder, ask_peers

    def rows(self, agent: str | None, limit: int) -> list[Row]:
        """The latest traces that passed this node, latest first; of one agent, where it is named."""
        rows = list[Row]()
        for spans in self._recorder.latest():
            if len(rows) == limit:
                break
            if agent is None or any(span.attributes.get(AGENT) == agent for span in spans):
                told = summary(spans[0].trace_id, [row(span, self._recorder.node, "") for span in spans])
                rows += [told] if agent in (None, told["agent"]) else []
        return rows

    async def find(self, trace_id: str) -> tuple[Row, list[str]]:
        """A trace with the spans of all nodes, and the names of the nodes that could not be asked; ``truncated`` where a node kept only the
        first of many spans. Raises TraceNotFound."""
        if not _TRACE_ID.fullmatch(trace_id):
            raise TraceNotFound(f"There is no trace {trace_id[:80]!r}: an id has 32 hexadecimal digits.", param="trace_id")
        answers, missing = await self._ask_peers(f"/v1/traces/{trace_id}")
        told = [answer for _, answer in answers if isinstance(answer, dict)]
        own = [row(span, self._recorder.node, current().principal) for span in self._recorder.spans(trace_id)]
        spans = {each["span_id"]: each for rows in (*(flat(answer.get("spans")) for answer in told), own) for each in rows}
        if not spans:
            raise TraceNotFound(self._absent(trace_id, missing), param="trace_id")
        cut = len(own) >= MAX_SPANS or any(answer.get("truncated") for answer in told)
        more = {"truncated": True} if cut else {}
        return summary(trace_id, list(spans.values())) | {"spans": tree(spans.values())} | more, list(dict.fromkeys(missing))

    def _absent(self, trace_id: str, missing: Sequence[str]) -> str:
        told = f"There is no trace {trace_id!r}"
        if not self._recorder.settings.enabled:
            return f"{told} here: this node records none; set spec.observability.traces.enabled, or ask another node."
        silent = f"; {', '.join(missing)} did not answer" if missing else ""
        bounds = "spec.observability.traces: sample_ratio, max_per_second, max_traces, max_bytes"
        return f"{told}{silent}. Nodes keep the latest of those that they record ({bounds}); GET /v1/traces lists them, each node its own."
