"""`make whatsapp-demo`: a full node, a Graph API of our own, and you at the keyboard as the person who writes."""

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from tests import nodes
from tests.nodes import ROOT
from tests.services.channels.graph import FakeGraph, channels_yaml, payload, signed, text_message
from tests.support import serve

SERVICES = ["agents", "inference", "memory", "tools", "channels"]


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="astromesh-demo-")))
        graph = FakeGraph()
        config = folder / "config"
        (config / "agents").mkdir(parents=True)
        (config / "agents" / "assistant.agent.yaml").write_bytes((ROOT / "config" / "agents" / "assistant.agent.yaml").read_bytes())
        (config / "channels.yaml").write_text(channels_yaml(await stack.enter_async_context(serve(graph))))
        profile = nodes.profile(folder / "demo.yaml", SERVICES)
        node = await nodes.start(stack, profile, folder / "data", ASTROMESH_CONFIG_DIR=str(config))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        say(f"A node at {node.url} and a Graph API of our own. Write as a person would on WhatsApp; an empty line ends it.")
        number = 0
        while text := (await asyncio.to_thread(sys.stdin.readline)).strip():
            number, shown = number + 1, len(graph.taken)
            raw = payload(text_message(f"wamid.demo{number}", text))
            async with client.post(f"{node.url}/v1/channels/whatsapp/webhook", data=raw, headers=signed(raw)) as answer:
                say(f"  webhook: {answer.status} {await answer.text()}")
            await graph.until(lambda graph, shown=shown: len(graph.taken) > shown, 120)  # type: ignore[misc]
            for sent in graph.taken[shown:]:
                say(f"  to {sent['to']}: {sent['text']['body']}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
