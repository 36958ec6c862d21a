"""The metrics of running nodes, after work of every kind: what the frozen catalogue says is what Prometheus reads."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.meshes import Meshed, meshed
from tests.nodes import RunningNode
from tests.services.observability.test_catalogue import GOLDEN, SUFFIXES, expressions, known

QUESTION = "What is 17*23, and what time is it in Tokyo?"
SERVICES = ("agents", "tools", "memory", "inference", "rag")


@asynccontextmanager
async def worked(folder: Path) -> AsyncIterator[tuple[Meshed, list[RunningNode]]]:
    """A gateway and a node with all else, which have answered a run, a stream of the model, a search, and something that nobody had yet."""
    async with meshed(folder) as mesh:
        gateway = await mesh.node("gateway", ("channels",))
        async with mesh.http.get(f"{gateway.url}/v1/rag/nothing") as response:
            assert response.status == 503
        worker = await mesh.node("worker", SERVICES)
        await mesh.together(gateway, worker)
        assert (await mesh.run(gateway, QUESTION))[0] == 200
        asked = {"model": "default", "messages": [{"role": "user", "content": QUESTION}]}
        for streaming in (True, False):
            async with mesh.http.post(f"{gateway.url}/v1/chat/completions", json=asked | {"stream": streaming}) as response:
                assert response.status == 200
                await response.read()
        document = {"collection": "docs", "create": True, "documents": [{"text": "hello"}]}
        for path, body in (("ingest", document), ("query", {"collection": "docs", "query": "hello"})):
            async with mesh.http.post(f"{gateway.url}/v1/rag/{path}", json=body) as response:
                assert response.status == 200
        yield mesh, [gateway, worker]


async def scrape(http: aiohttp.ClientSession, node: RunningNode) -> dict[str, Metric]:
    async with http.get(f"{node.url}/metrics") as response:
        assert response.status == 200
        return {family.name: family for family in text_string_to_metric_families(await response.text())}


@pytest.fixture(scope="module")
async def pages(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[dict[str, Metric]]]:
    async with worked(tmp_path_factory.mktemp("worked")) as (mesh, nodes):
        yield [await scrape(mesh.http, node) for node in nodes]


async def test_what_prometheus_reads_is_what_the_catalogue_says(pages: list[dict[str, Metric]]) -> None:
    silent = set[str]()
    for line in GOLDEN.read_text().splitlines():
        head, kind, _, told = line.split(" | ")
        name, _, labels = head.removesuffix("}").partition("{")
        found = [page[name] for page in pages if name in page]
        assert found, f"no node has {name}"
        assert {(family.type, family.documentation) for family in found} == {(kind, told)}
        samples = [each for family in found for each in family.samples if each.name.endswith(SUFFIXES[kind])]
        shown = {frozenset(each.labels) - {"le"} for each in samples if not each.name.endswith("_created")}
        assert shown <= {frozenset(filter(None, labels.split(", ")))}
        if not shown:
            silent.add(name)
    assert silent == {"astromesh_mesh_refused_messages", "astromesh_channel_messages"}  # of these there were none


async def test_no_metric_of_the_node_is_missing_from_the_catalogue(pages: list[dict[str, Metric]]) -> None:
    names = {line.partition("{")[0] for line in GOLDEN.read_text().splitlines()}
    own = {name for page in pages for name in page if name.startswith(("astromesh_", "gen_ai_"))}
    assert {name for name in own if not name.endswith("_created")} == names


async def test_every_series_of_the_dashboard_and_the_alerts_is_there(pages: list[dict[str, Metric]]) -> None:
    shown = {sample.name for page in pages for family in page.values() for sample in family.samples}
    spoken = {series for series in known() for _, expression in expressions() if series in expression}
    assert len(spoken) > 15
    assert spoken - shown == {"up", "astromesh_mesh_refused_messages_total"}


def summed(part: dict[str, Any], name: str, *labels: str) -> list[Any]:
    """The values of the series of that name with those labels."""
    return [value for series, value in part.items() if series.partition("{")[0] == name and all(label in series for label in labels)]


async def test_the_json_says_what_was_done_with_and_without_a_trailing_slash(tmp_path: Path) -> None:
    async with worked(tmp_path) as (mesh, (gateway, worker)):
        for path in ("/v1/metrics", "/v1/metrics/"):
            told = await mesh.get(worker, path)
            assert set(told) == {"counters", "gauges", "histograms"}
            histograms = told["histograms"]
            assert all({"count", "sum", "avg", "min", "max"} == set(row) for row in histograms.values())
            assert all(row["min"] <= row["avg"] * 1.000001 <= row["max"] * 1.000002 for row in histograms.values())
            runs = summed(histograms, "gen_ai_invoke_agent_duration_seconds", 'gen_ai_agent_name="assistant"', 'outcome="answered"')
            assert [row["count"] for row in runs] == [1]
            tools = summed(histograms, "gen_ai_execute_tool_duration_seconds", 'outcome="ok"')
            assert sum(row["count"] for row in tools) >= 2
            chats = summed(histograms, "gen_ai_client_operation_duration_seconds", 'gen_ai_operation_name="chat"', 'error_type=""')
            assert sum(row["count"] for row in chats) >= 4
            first = summed(histograms, "gen_ai_client_operation_time_to_first_chunk_seconds")
            assert sum(row["count"] for row in first) >= 1
            for kind in ("input", "output"):
                assert sum(row["sum"] for row in summed(histograms, "gen_ai_client_token_usage", f'gen_ai_token_type="{kind}"')) > 0
        counters = (await mesh.get(gateway, "/v1/metrics"))["counters"]
        assert counters['astromesh_requests_without_peer_total{service="rag"}'] == 1
        assert sum(summed(counters, "astromesh_forwards_total", 'outcome="answered"')) >= 3
        assert json.dumps(QUESTION) not in json.dumps(counters)
