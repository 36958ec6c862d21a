"""Spans sent to a real collector on loopback: what arrives, and that nobody ever waits for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.errors import ConfigError
from app.services.observability import Observability
from app.services.observability.otlp import BATCH_SPANS, QUEUE_SPANS, Exporter, endpoint, shown
from app.tracing import Recorder, TraceSettings, span
from tests.nodes import profile, start
from tests.services.observability.otlp_sink import Sink, attributes, sink
from tests.support import node_context

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
async def collector() -> AsyncIterator[Sink]:
    async with sink() as made:
        yield made


@dataclass
class World:
    service: Observability
    recorder: Recorder
    registry: CollectorRegistry

    def record(self, count: int = 1) -> None:
        for _ in range(count):
            with self.recorder.accept(f"00-{TRACE}-{PARENT}-01", ""):
                pass

    @property
    def exporter(self) -> Exporter:
        assert self.service.exporter is not None
        return self.service.exporter


@asynccontextmanager
async def exporting(folder: Path, environ: Mapping[str, str], recorder: Recorder | None = None) -> AsyncIterator[World]:
    registry, traces = CollectorRegistry(), recorder or Recorder()
    service = Observability({}, replace(node_context(folder, environ=environ), metrics=registry, traces=traces))
    async with service.open():
        running = asyncio.create_task(service.run())
        try:
            yield World(service, traces, registry)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_a_collector_gets_every_span_with_ids_kind_status_and_attributes(tmp_path: Path, collector: Sink) -> None:
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, Recorder(content=True)) as world:
        with world.recorder.accept(f"00-{TRACE}-{PARENT}-01", "a" * 16) as top:
            top.name = "POST /v1/x"
            with span("chat m", {"gen_ai.usage.input_tokens": 3, "gen_ai.response.finish_reasons": ("stop",)}, "client") as chat:
                chat.tell("gen_ai.output.messages", "said")
            with span("left") as left:
                left.fail(asyncio.CancelledError())
            with span("failed") as failed:
                failed.fail("peer_lost")
        await collector.until(4)
        assert (await world.service.check())["observability"].status == "ok"
    found = {each.name: each for each in collector.spans}
    assert {each.trace_id.hex() for each in collector.spans} == {TRACE}
    assert found["POST /v1/x"].parent_span_id.hex() == "a" * 16
    assert found["chat m"].parent_span_id.hex() == found["POST /v1/x"].span_id.hex() == PARENT
    assert [found[name].kind for name in ("left", "POST /v1/x", "chat m")] == [1, 2, 3]
    assert [found[name].status.code for name in ("chat m", "left", "failed")] == [0, 0, 2]
    assert attributes(found["left"]) == {"astromesh.status": "cancelled"}
    assert attributes(found["failed"]) == {"error.type": "peer_lost"}
    told = attributes(found["chat m"])
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.output.messages"]) == (3, "said")
    assert [each.string_value for each in told["gen_ai.response.finish_reasons"].values] == ["stop"]
    assert found["POST /v1/x"].end_time_unix_nano > found["POST /v1/x"].start_time_unix_nano > 1.7e18
    assert collector.resources[0]["service.name"] == "astromesh"
    assert collector.resources[0]["service.instance.id"] == "n" * 16


async def test_half_a_character_in_a_name_or_in_what_was_said_costs_nobody_a_span(tmp_path: Path, collector: Sink) -> None:
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, Recorder(content=True)) as world:
        with world.recorder.accept(f"00-{TRACE}-{PARENT}-01", ""), span("execute_tool \ud83d", {"gen_ai.agent.name": "\ud83d"}) as odd:
            odd.tell("gen_ai.tool.call.arguments", {"a": "\ud83d"})
        await collector.until(2)
    assert [each.name for each in collector.spans] == ["execute_tool \\ud83d", ""]
    told = attributes(collector.spans[0])
    assert told == {"gen_ai.agent.name": "\\ud83d", "gen_ai.tool.call.arguments": '{"a": "\\ud83d"}'}


async def test_spans_that_find_the_queue_full_are_dropped_and_counted(tmp_path: Path, collector: Sink) -> None:
    collector.go_on.clear()
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as world:
        world.record(BATCH_SPANS)
        await collector.until_asked(1)  # a batch is under way, and stays there
        world.record(QUEUE_SPANS + 100)
        assert world.registry.get_sample_value("astromesh_trace_spans_exported_total", {"outcome": "dropped"}) == 100
        collector.go_on.set()
        await collector.until(BATCH_SPANS + QUEUE_SPANS)
    assert world.exporter.counts == {"sent": BATCH_SPANS + QUEUE_SPANS, "failed": 0, "dropped": 100}


async def test_a_collector_that_refuses_is_told_of_once_and_again_when_it_is_well(
    tmp_path: Path, collector: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "app")
    collector.status = 400
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as world:
        for asked in (1, 2):
            world.record()
            await collector.until_asked(asked)
        check = (await world.service.check())["observability"]
        assert (check.status, "400" in check.message) == ("degraded", True)
        collector.status = 200
        world.record()
        await collector.until(1)
    assert world.exporter.counts == {"sent": 1, "failed": 2, "dropped": 0}
    assert (await world.service.check())["observability"].status == "ok"
    first, second = [record.getMessage() for record in caplog.records if record.name.startswith("app")]
    assert ("does not take spans" in first, "400" in first) == (True, True)
    assert second == f"the OpenTelemetry collector at {collector.url}/v1/traces takes spans again"


async def test_what_is_left_is_sent_when_the_node_stops(tmp_path: Path, collector: Sink) -> None:
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}) as world:
        world.record(3)
    assert len(collector.spans) == 3
    assert world.recorder.export is None
    assert list(world.registry.collect()) == []


async def test_a_collector_that_hangs_holds_up_no_stop(tmp_path: Path, collector: Sink) -> None:
    collector.go_on.clear()
    async with asyncio.timeout(4):
        async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as world:
            world.record(3)
    collector.go_on.set()


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/own", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://d"}, "http://c/own"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_the_endpoint_is_read_as_opentelemetry_says(environ: dict[str, str], url: str) -> None:
    assert endpoint(environ) == url


@pytest.mark.parametrize("bad", ["collector:4318", "grpc://c:4317", "http://", "http://c:port", "http://c:0", "http://user:secret@"])
async def test_an_endpoint_that_is_no_url_stops_the_start_with_the_remedy(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT.*http://collector:4318") as caught:
        async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": bad}):
            pass
    assert "secret" not in str(caught.value)


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    assert shown("https://user:secret@c:4318/v1/traces") == "https://…@c:4318/v1/traces"
    assert shown("https://c:4318") == "https://c:4318"


async def test_a_node_that_records_nothing_sends_nothing(tmp_path: Path, collector: Sink) -> None:
    recorder = Recorder(TraceSettings(enabled=False))
    async with exporting(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, recorder) as world:
        assert "traces are off" in (await world.service.check())["observability"].message
        assert recorder.export is None


async def test_without_the_extra_a_node_serves_and_says_what_to_install(tmp_path: Path, collector: Sink) -> None:
    hidden = tmp_path / "hidden" / "opentelemetry"  # found first, and with nothing in it
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()
    async with AsyncExitStack() as stack:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONPATH": str(hidden.parent)}
        node = await start(stack, profile(tmp_path / "plain.yaml", ["tools"]), tmp_path / "data", **environ)
        line = await node.wait_for_log("OTEL_EXPORTER_OTLP_ENDPOINT is set")
        assert "requirements-all.lock" in line
