"""The inference service: puts providers, catalogue and attempts together."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.routing import BaseRoute

from app.errors import NodeError, ProviderUnavailable
from app.services.contract import Check, Facts, NodeContext
from app.services.inference.attachment import BUILTIN, from_agent_files, from_environment
from app.services.inference.attempt import Attempts, provider_request
from app.services.inference.breaker import Breaker, BreakerPolicy
from app.services.inference.builtin import OWNED_BY, Builtin
from app.services.inference.catalog import DEFAULT, Attached, Catalog, Choice
from app.services.inference.configuration import configure
from app.services.inference.endpoint import shown_endpoint
from app.services.inference.metrics import Metrics
from app.services.inference.provider import Provider, ProviderSpec
from app.services.inference.providers_file import read_providers
from app.services.inference.routes import make_routes

log = logging.getLogger(__name__)


class Inference:
    """Chat completions, embeddings, models and providers of this node."""

    def __init__(self, config: Mapping[str, Any], node: NodeContext) -> None:
        self._configuration = configure(config)
        self._node = node
        self._catalog = Catalog(())
        self._fallbacks = self._configuration.fallbacks
        self._attempts = Attempts(self._configuration, Metrics(node.metrics))
        schemas: Mapping[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_bytes())
        self._file_schema = schemas["providers_file"]
        self._routes = make_routes(self, schemas["requests"])

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._routes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        specs, policy = await asyncio.to_thread(self._attach)
        async with AsyncExitStack() as stack:
            providers = await self._made(specs, stack)
            interval_s = self._configuration.health_check_interval_s
            self._catalog = Catalog(
                [Attached(each, Breaker(policy), each.spec.health_check_interval_s or interval_s) for each in providers]
            )
            if all(spec.kind == "builtin" for spec in specs):
                log.warning(
                    "no model is attached: the built-in rules answer, which are not a language model; "
                    "set OLLAMA_HOST, VLLM_BASE_URL, TGI_BASE_URL or OPENAI_API_KEY, or write %s",
                    self._node.config_dir / "providers.yaml",
                )
            yield

    async def _made(self, specs: Sequence[ProviderSpec], stack: AsyncExitStack) -> list[Provider]:
        if all(spec.kind == "builtin" for spec in specs):
            return [Builtin(spec) for spec in specs]
        from app.services.inference.servers import make_server
        from app.services.inference.upstream import open_session

        session = await stack.enter_async_context(open_session(self._configuration.connect_timeout_s))
        return [Builtin(spec) if spec.kind == "builtin" else make_server(spec, session) for spec in specs]

    async def run(self) -> None:
        await self._catalog.watch()

    def facts(self) -> Facts:
        return Facts(keys=self._catalog.names())

    async def check(self) -> Mapping[str, Check]:
        return {each.name: _check(each) for each in self._catalog}

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion, whole."""

        async def ask(choice: Choice) -> dict[str, Any]:
            return await choice.attached.provider.complete(provider_request(choice, request))

        return await self._attempts.answer("chat", await self._choices(request), request, ask)

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """A chat completion as server-sent events; fails before the first of them, or breaks off with an error."""
        async with aclosing(self._attempts.stream(await self._choices(request), request)) as events:
            async for event in events:
                yield event

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Embeddings. Fallbacks play no part: vectors of two models cannot be compared."""

        async def ask(choice: Choice) -> dict[str, Any]:
            wanted = {key: value for key, value in request.items() if key != "session_id"}
            return await choice.attached.provider.embed({**wanted, "model": choice.model})

        choices = await self._catalog.resolve(request.get("model") or DEFAULT)
        return await self._attempts.answer("embeddings", choices[:1], request, ask)

    def models(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": OWNED_BY if each.provider.spec.kind == "builtin" else each.name}
            for name, each in self._catalog.rows()
        ]

    def providers(self) -> list[dict[str, Any]]:
        endpoints = {each.name: shown_endpoint(each.provider.spec.endpoint) for each in self._catalog}
        return [{**row, "endpoint": endpoints[row["name"]]} for row in self._catalog.describe()]

    def _attach(self) -> tuple[list[ProviderSpec], BreakerPolicy]:
        environ, folder = self._node.environ, self._node.config_dir
        file = read_providers(folder / "providers.yaml", self._file_schema, environ)
        for warning in file.warnings:
            log.warning("%s: %s", folder / "providers.yaml", warning)
        if not file.fallback_enabled:
            self._fallbacks = ()
        attached = from_environment({spec.name: spec for spec in file.providers}, environ)
        if self._configuration.agent_files:
            of_agents = from_agent_files(folder / "agents", environ)
            attached |= {name: spec for name, spec in of_agents.items() if name not in attached}
        return list(attached.values()) or [BUILTIN], file.breaker

    async def _choices(self, request: Mapping[str, Any]) -> list[Choice]:
        failure: NodeError | None = None
        try:
            choices = await self._catalog.resolve(request.get("model") or DEFAULT)
        except ProviderUnavailable as error:
            choices, failure = [], error
        choices += [choice for name in self._fallbacks for choice in self._catalog.known(name)]
        if failure and not choices:
            raise failure
        return choices


def _check(each: Attached) -> Check:
    if each.provider.spec.kind == "builtin":
        return Check("ok", "the built-in rules answer; they are not a language model")
    if each.reason or each.breaker.open:
        return Check("degraded", each.reason or f"Provider {each.name!r} fails; it is tried again from time to time.")
    return Check("ok", f"{len(each.models or ())} models" if each.status == "up" else "not asked yet")
