"""Ask one provider after the other until one answers: circuit breaker, timeouts, metrics.

Another provider is asked only while nothing has been given out; of a stream, what comes before the first content is held back for that.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

from app.context import current
from app.errors import DeadlineExceeded, NodeError, ProviderError, ProviderRateLimited, ProviderTimeout, ProviderUnavailable
from app.services.inference import spans
from app.services.inference.catalog import Choice
from app.services.inference.configuration import Configuration
from app.services.inference.metrics import Metrics, Operation
from app.sse import encode

DONE = encode("[DONE]")
log = logging.getLogger(__name__)


class Attempts:
    """Attempts of one service, measured by ``metrics``."""

    def __init__(self, configuration: Configuration, metrics: Metrics) -> None:
        self._configuration = configuration
        self._metrics = metrics

    async def answer(
        self, name: str, choices: Sequence[Choice], request: Mapping[str, Any], ask: Callable[[Choice], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """What ``ask`` returns for the first choice that does not fail; raises the first choice's error when all do. ``name`` is what
        it asks for: chat or embeddings; ``request`` is for the spans."""
        failures: list[ProviderError] = []
        for choice in choices:
            try:
                with spans.operation(choice, request, name), self._tracked(name, choice) as operation:
                    async with bounded(choice, self._configuration.answer_timeout_s, "an answer"):
                        answer = spans.answered(await ask(choice))
                    operation.used(answer.get("usage"))
                    return answer
            except ProviderError as error:
                failures.append(_noted(choice, error))
        raise failures[0]

    async def stream(self, choices: Sequence[Choice], request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The server-sent events of an answer, [DONE] only after its true end; the first of them has content."""
        failures: list[ProviderError] = []
        for choice in choices:
            begun = False
            try:
                with spans.operation(choice, request, "chat"), self._tracked("chat", choice) as operation:
                    async with aclosing(self._content(choice, request, operation)) as events:
                        async for event in events:
                            begun = True
                            yield event
                    begun = True
                    yield DONE
                return
            except ProviderError as error:
                if begun:
                    raise
                failures.append(_noted(choice, error))
        raise failures[0]

    async def _content(self, choice: Choice, request: Mapping[str, Any], operation: Operation) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        limit, what = self._configuration.first_token_timeout_s, "its first content"
        held, content_due, told = b"", loop.time() + limit, spans.Stream()
        async with aclosing(choice.attached.provider.stream({**provider_request(choice, request), "stream": True})) as chunks:
            while True:
                async with bounded(choice, limit, what):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                operation.used_in(chunk.data)
                told.add(chunk)
                if chunk.content:
                    operation.content()
                    yield held + encode(chunk.data)
                    held, what, limit = b"", "more of its answer", self._configuration.idle_timeout_s
                    content_due = 0.0
                elif content_due:
                    held, limit = held + encode(chunk.data), content_due - loop.time()
                else:
                    yield encode(chunk.data)
        told.end()
        if held:
            yield held

    @contextmanager
    def _tracked(self, name: str, choice: Choice) -> Iterator[Operation]:
        attached, loop = choice.attached, asyncio.get_running_loop()
        if wait_s := attached.breaker.enter(loop.time()):
            self._metrics.refused(attached.name)
            raise ProviderUnavailable(
                f"Provider {attached.name!r} failed several times in a row and is left alone for another {wait_s:.0f} s.",
                headers={"Retry-After": str(max(1, round(wait_s)))},
            )
        outcome, success = "cancelled", None
        operation = self._metrics.operation(name, attached.name, choice.model)
        try:
            yield operation
            outcome, success = "ok", True
        except NodeError as error:
            outcome, success = error.code if isinstance(error, ProviderError) else f"status_{error.status}", _verdict(error)
            raise
        finally:
            attached.breaker.leave(loop.time(), success)
            operation.ended(outcome)


def provider_request(choice: Choice, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as that provider gets it: its own parameters below the caller's, its spelling of the model, nothing of ours."""
    merged = {**choice.attached.provider.spec.parameters, **request, "model": choice.model}
    merged.pop("session_id", None)
    return merged


@asynccontextmanager
async def bounded(choice: Choice, limit_s: float, what: str) -> AsyncIterator[None]:
    """Bound a wait by ``limit_s`` and by the request's deadline; raises ProviderTimeout or DeadlineExceeded."""
    remaining = current().remaining_s()
    try:
        async with asyncio.timeout(min(limit_s, remaining)):
            yield
    except TimeoutError as error:
        name = choice.attached.name
        if remaining <= limit_s:
            raise DeadlineExceeded(f"The request's time was over while provider {name!r} was to send {what}.") from error
        raise ProviderTimeout(f"Provider {name!r} did not send {what} in time.") from error


def _noted(choice: Choice, error: ProviderError) -> ProviderError:
    """Logged without its message, in which a provider may repeat what it was asked."""
    log.warning("provider %s, model %s: status %d, %s", choice.attached.name, choice.model, error.status, error.code)
    return error


def _verdict(error: NodeError) -> bool | None:
    """What an error says of the provider: a refusal of the request shows that it works, a lack of time or rate nothing."""
    if isinstance(error, ProviderRateLimited | DeadlineExceeded):
        return None
    return not isinstance(error, ProviderError)
