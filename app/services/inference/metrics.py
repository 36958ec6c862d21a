"""What models do, in numbers, by the names of OpenTelemetry's GenAI conventions as Prometheus spells them."""

import json
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from app.metrics import SECONDS, TOKENS, FewNames, Histogram

_BY_MODEL = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]
_MODELS = 200


class Metrics:
    """Operations are ``chat`` and ``embeddings``; an outcome is ok, cancelled (the client left), or an error's code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._model_names = FewNames(_MODELS)
        self._requests = Counter(
            "astromesh_inference_requests", "Requests to providers, by outcome.", ["provider", "outcome"], registry=registry
        )
        self._duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "From a request to a provider to the end of its answer; error_type is empty for one that went well.",
            [*_BY_MODEL, "error_type"],
            registry=registry,
            buckets=SECONDS,
        )
        self._first = Histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From a request for a stream to its first content.",
            _BY_MODEL,
            registry=registry,
            buckets=SECONDS,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of one request, as the provider counts them; gen_ai_token_type is input or output.",
            [*_BY_MODEL, "gen_ai_token_type"],
            registry=registry,
            buckets=TOKENS,
        )

    def operation(self, name: str, provider: str, model: str) -> "Operation":
        return Operation(self, (name, provider, self._model_names(model)))

    def refused(self, provider: str) -> None:
        """The circuit breaker is open: the provider was not asked."""
        self._requests.labels(provider, "circuit_open").inc()


class Operation:
    """One request to a provider, from now on."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self._metrics, self._labels = metrics, labels
        self._began = time.perf_counter()
        self._first = True

    def content(self) -> None:
        """Content of a stream has come."""
        if self._first:
            self._first = False
            self._metrics._first.labels(*self._labels).observe(time.perf_counter() - self._began)

    def used(self, usage: Any) -> None:
        """Note the ``usage`` of an answer, of any shape."""
        if not isinstance(usage, Mapping):
            return
        for kind, key in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            count = usage.get(key)
            if isinstance(count, int) and count >= 0:
                self._metrics._tokens.labels(*self._labels, kind).observe(count)

    def used_in(self, chunk: str) -> None:
        """The same, where a chunk of a stream has one: it is the last of them, so that hardly one is parsed."""
        if '"usage"' in chunk and '"usage":null' not in chunk and '"usage": null' not in chunk:
            try:
                self.used(json.loads(chunk).get("usage"))
            except (ValueError, AttributeError, RecursionError):
                return

    def ended(self, outcome: str) -> None:
        self._metrics._requests.labels(self._labels[1], outcome).inc()
        error = "" if outcome == "ok" else outcome
        self._metrics._duration.labels(*self._labels, error).observe(time.perf_counter() - self._began)
