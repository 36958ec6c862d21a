import json
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from app.body import validator
from app.call import call
from app.services.observability import Observability
from tests.support import mounted, node_context


async def scrape(folder: Path, accept: str | None = None, registry: CollectorRegistry | None = None) -> tuple[str, str]:
    node = replace(node_context(folder), metrics=registry or CollectorRegistry())
    async with mounted(Observability({}, node)) as app:
        headers = [(b"accept", accept.encode("latin-1"))] if accept else []
        async with call(app, "GET", "/metrics", headers=headers) as reply:
            assert reply.status == 200
            return reply.header("content-type") or "", (await reply.read()).decode()


async def test_what_the_node_counts_is_shown(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    Counter("astromesh_things", "Things.", ["kind"], registry=registry).labels("a").inc(3)
    content_type, text = await scrape(tmp_path, registry=registry)
    assert content_type.startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value for family in text_string_to_metric_families(text) for sample in family.samples
    }
    assert samples["astromesh_things_total", "a"] == 3


async def test_the_process_is_shown_with_its_memory_and_files(tmp_path: Path) -> None:
    _, text = await scrape(tmp_path)
    samples = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert samples["process_resident_memory_bytes"] > 1e6
    assert samples["process_open_fds"] > 2
    assert "python_gc_collections_total" in samples


async def test_a_scraper_that_prefers_openmetrics_gets_it(tmp_path: Path) -> None:
    content_type, text = await scrape(tmp_path, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["*/*", "text/html", "application/openmetrics-text;version=abc", "text/plain;version=", "é;;,,=", "text/plain;version=\xb2"]
)
async def test_an_accept_header_that_makes_no_sense_gets_plain_text(tmp_path: Path, accept: str) -> None:
    content_type, text = await scrape(tmp_path, accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "process_cpu_seconds_total" in text


async def test_a_closed_service_leaves_the_registry_as_it_was(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        await scrape(tmp_path, registry=registry)
    assert list(registry.collect()) == []


async def test_without_a_collector_it_is_always_well(tmp_path: Path) -> None:
    service = Observability({}, node_context(tmp_path))
    assert (await service.check())["observability"].status == "ok"
    assert service.facts().keys is None


def test_its_schema_refuses_unknown_settings() -> None:
    schema = json.loads((Path(__file__).parents[3] / "app/services/observability/schema.json").read_bytes())
    assert [error.message for error in validator(schema["configuration"]).iter_errors({"x": 1})]
    assert validator(schema["configuration"]).is_valid({})
