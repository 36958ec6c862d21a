"""The error tree. Every failure that a caller may see is one of these; each class has its HTTP status and code.

NodeError (500 internal_error)
├── BadRequest (400 invalid_request)
│   └── InvalidJSON (400 invalid_json)
├── Unauthorized (401 invalid_api_key)
├── Forbidden (403 forbidden)
│   └── ForbiddenOrigin (403 forbidden_origin)
├── NotFound (404 not_found)
│   ├── ModelNotFound (404 model_not_found)
│   ├── AgentNotFound (404 agent_not_found)
│   ├── SessionNotFound (404 session_not_found)
│   ├── ToolNotFound (404 tool_not_found)
│   ├── TraceNotFound (404 trace_not_found)
│   ├── CollectionNotFound (404 collection_not_found)
│   ├── DocumentNotFound (404 document_not_found)
│   └── JobNotFound (404 job_not_found)
├── MethodNotAllowed (405 method_not_allowed)
├── RequestTimeout (408 request_timeout)
├── Conflict (409 conflict)
│   ├── RunUnderWay (409 run_under_way)
│   ├── EmbeddingMismatch (409 embedding_mismatch): vectors of another model or dimension than the collection's
│   └── LeaseLost (409 lease_lost): another process works on it by now, or it was cancelled
├── BodyTooLarge (413 body_too_large)
├── UnsupportedMediaType (415 unsupported_media_type)
├── Misdirected (421 misdirected)
├── InvalidBody (422 invalid_body)
│   ├── InvalidAgent (422 invalid_agent): with every problem of the agent that was sent
│   └── UnreadableDocument (422 unreadable_document): a file of knowledge that no text can be had from
├── KeyReused (422 idempotency_key_reused)
├── GuardrailBlocked (422 guardrail_blocked)
├── UpgradeRequired (426 upgrade_required)
├── RateLimited (429 rate_limited)
├── PeerLost (502 peer_lost)
├── OutputInvalid (502 output_invalid)
├── ProviderError (502 provider_error)
│   ├── ProviderRateLimited (429 provider_rate_limited)
│   ├── ProviderUnavailable (503 provider_unavailable)
│   └── ProviderTimeout (504 provider_timeout)
├── AgentUnavailable (503 agent_unavailable)
├── ServiceUnavailable (503 service_unavailable)
│   ├── StoreUnavailable (503 store_unavailable)
│   └── NotBegun (503 not_begun): nothing has happened here, another node may be asked
├── ShuttingDown (503 shutting_down): begun here and given up at the end of the drain
├── DeadlineExceeded (504 deadline_exceeded)
├── AnsweredError (as answered): another node's or service's own error answer
└── ConfigError (exit 78): the configuration, with every problem in it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self


class NodeError(Exception):
    """An error with the status, code and headers it is answered with; the message says what is wrong, the value, the remedy."""

    status: int = 500
    code: str = "internal_error"
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: dict[str, str] = dict(headers or {})

    def prefaced(self, text: str) -> Self:
        """This error, with ``text`` before its message: where within a larger work it happened."""
        self.message = f"{text}: {self.message}"
        self.args = (self.message,)
        return self

    def body(self) -> dict[str, Any]:
        """The one error shape, as OpenAI clients parse it."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}


class BadRequest(NodeError):
    status, code, type = 400, "invalid_request", "invalid_request_error"


class InvalidJSON(BadRequest):
    code = "invalid_json"


class Unauthorized(NodeError):
    status, code, type = 401, "invalid_api_key", "authentication_error"


class Forbidden(NodeError):
    status, code, type = 403, "forbidden", "permission_error"


class ForbiddenOrigin(Forbidden):
    code = "forbidden_origin"


class NotFound(NodeError):
    status, code, type = 404, "not_found", "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class AgentNotFound(NotFound):
    code = "agent_not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"


class ToolNotFound(NotFound):
    code = "tool_not_found"


class TraceNotFound(NotFound):
    code = "trace_not_found"


class CollectionNotFound(NotFound):
    code = "collection_not_found"


class DocumentNotFound(NotFound):
    code = "document_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class MethodNotAllowed(NodeError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"


class RequestTimeout(NodeError):
    status, code, type = 408, "request_timeout", "invalid_request_error"


class Conflict(NodeError):
    status, code, type = 409, "conflict", "invalid_request_error"


class RunUnderWay(Conflict):
    code = "run_under_way"


class EmbeddingMismatch(Conflict):
    code = "embedding_mismatch"


class LeaseLost(Conflict):
    code = "lease_lost"


class BodyTooLarge(NodeError):
    status, code, type = 413, "body_too_large", "invalid_request_error"


class UnsupportedMediaType(NodeError):
    status, code, type = 415, "unsupported_media_type", "invalid_request_error"


class Misdirected(NodeError):
    status, code = 421, "misdirected"


class InvalidBody(NodeError):
    status, code, type = 422, "invalid_body", "invalid_request_error"


class UnreadableDocument(InvalidBody):
    code = "unreadable_document"


class KeyReused(NodeError):
    status, code, type = 422, "idempotency_key_reused", "invalid_request_error"


class GuardrailBlocked(NodeError):
    status, code, type = 422, "guardrail_blocked", "invalid_request_error"


class UpgradeRequired(NodeError):
    status, code, type = 426, "upgrade_required", "invalid_request_error"


class RateLimited(NodeError):
    """A client asks more than it may; unlike ProviderRateLimited, which a provider says of the node."""

    status, code, type = 429, "rate_limited", "rate_limit_error"


class PeerLost(NodeError):
    status, code = 502, "peer_lost"


class OutputInvalid(NodeError):
    status, code = 502, "output_invalid"


class ProviderError(NodeError):
    status, code = 502, "provider_error"


class ProviderRateLimited(ProviderError):
    status, code, type = 429, "provider_rate_limited", "rate_limit_error"


class ProviderUnavailable(ProviderError):
    status, code = 503, "provider_unavailable"


class ProviderTimeout(ProviderError):
    status, code = 504, "provider_timeout"


class AgentUnavailable(NodeError):
    status, code = 503, "agent_unavailable"


class ServiceUnavailable(NodeError):
    status, code = 503, "service_unavailable"


class StoreUnavailable(ServiceUnavailable):
    code = "store_unavailable"


class NotBegun(ServiceUnavailable):
    code = "not_begun"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after_s), "X-Astromesh-Not-Begun": "1"})


class ShuttingDown(NodeError):
    """Without Retry-After, unlike NotBegun: a part of the work may be done, so whether to repeat it is for the client to say."""

    status, code = 503, "shutting_down"


class DeadlineExceeded(NodeError):
    status, code = 504, "deadline_exceeded"


class AnsweredError(NodeError):
    """An error answer of another node or service, passed on with its own status, code and type."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        try:
            error = json.loads(body)["error"]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            error, message = {}, body[:500].decode("utf-8", "replace")
        super().__init__(message, param=error.get("param"), headers=headers)
        self.status = status
        self.code = str(error.get("code") or "upstream_error")
        self.answered_type = str(error.get("type") or "server_error")

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.answered_type, "code": self.code, "param": self.param}}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one configuration file. ``path`` is the YAML path ("spec.services.agents"), ``line`` counts from 1."""

    file: str
    message: str
    path: str = ""
    line: int | None = None
    remedy: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [place, self.path, self.message] if self.path else [place, self.message]
        return ": ".join(parts) + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in one configuration file of a ``kind``: problems, with which no node takes it, and warnings."""

    file: str
    kind: str
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


class InvalidAgent(InvalidBody):
    """An agent that was sent and cannot be used; the answer's ``errors`` are all of its problems."""

    code = "invalid_agent"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), param=f"$.{problems[0].path}" if problems[0].path else "$")
        self.problems = tuple(problems)

    def body(self) -> dict[str, Any]:
        body = super().body()
        body["error"]["errors"] = [str(problem) for problem in self.problems]
        return body


class ConfigError(NodeError):
    """Configuration that cannot be used; ``problems`` holds all of them, and the process exits with 78 (EX_CONFIG)."""

    code = "invalid_configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
