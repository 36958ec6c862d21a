"""What a run added to a conversation, cut to a size. The rule: a cut text says so, and every call keeps its result."""

import json
from collections.abc import Sequence

from app.services.agents.completion import Message

_CUTS = (65_536, 16_384, 4_096, 1_024, 256, 64)


def size_of(messages: Sequence[Message]) -> int:
    """Bytes of compact JSON, as memory counts them."""
    return len(json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def shortened(added: Sequence[Message], size: int) -> list[Message]:
    """``added`` in at most ``size`` bytes, or as few as can be: first the results of tools are cut, then the model's words and arguments,
    and at last only the last message stays."""
    kept = list(added)
    for role in ("tool", "assistant"):
        whole = kept
        for limit in _CUTS:
            kept = [_cut(message, limit) if message["role"] == role else message for message in whole]
            if size_of(kept) <= size:
                return kept
    left_out = f"\n[{len(kept) - 1} messages before this one are left out: memory has no room for them]" if len(kept) > 1 else ""
    return [{**kept[-1], "content": kept[-1]["content"] + left_out}]


def _cut(message: Message, limit: int) -> Message:
    kept = {**message, "content": _excerpt(message["content"], limit)}
    if calls := message.get("tool_calls"):
        functions = [{**call["function"], "arguments": _arguments(call["function"]["arguments"], limit)} for call in calls]
        kept["tool_calls"] = [{**call, "function": function} for call, function in zip(calls, functions, strict=True)]
    return kept


def _excerpt(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n[cut to fit into memory: {len(text)} characters, {limit} kept]"


def _arguments(text: str, limit: int) -> str:
    """Half of a JSON text is none, and models want JSON there."""
    return text if len(text) <= limit else json.dumps({"left_out": f"{len(text)} characters, memory has no room for them"})
