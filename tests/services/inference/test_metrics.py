"""What requests to providers leave in the metrics."""

import pytest
from prometheus_client import CollectorRegistry

from app.services.inference.metrics import Metrics

LABELS = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "ollama", "gen_ai_request_model": "m"}


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def test_an_operation_is_counted_with_its_tokens_and_its_first_content() -> None:
    registry = CollectorRegistry()
    operation = Metrics(registry).operation("chat", "ollama", "m")
    operation.content()
    operation.content()
    operation.used_in('{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}')
    operation.ended("ok")
    assert value(registry, "gen_ai_client_operation_time_to_first_chunk_seconds_count", **LABELS) == 1
    assert value(registry, "gen_ai_client_token_usage_sum", **LABELS, gen_ai_token_type="input") == 7
    assert value(registry, "gen_ai_client_token_usage_sum", **LABELS, gen_ai_token_type="output") == 3
    assert value(registry, "gen_ai_client_operation_duration_seconds_count", **LABELS, error_type="") == 1
    assert value(registry, "astromesh_inference_requests_total", provider="ollama", outcome="ok") == 1


@pytest.mark.parametrize(
    "chunk", ['{"usage": null}', '{"usage":null}', '{"usage": {"prompt_tokens": "many"}}', '"usage"', '{"usage": [', "{}"]
)
def test_a_usage_that_is_none_counts_nothing(chunk: str) -> None:
    registry = CollectorRegistry()
    Metrics(registry).operation("chat", "ollama", "m").used_in(chunk)
    assert not [sample for family in registry.collect() for sample in family.samples if sample.name.startswith("gen_ai_client_token")]


def test_an_error_is_named_in_the_duration() -> None:
    registry = CollectorRegistry()
    Metrics(registry).operation("chat", "ollama", "m").ended("provider_timeout")
    assert value(registry, "gen_ai_client_operation_duration_seconds_count", **LABELS, error_type="provider_timeout") == 1
