"""Servers that speak OpenAI's API, and the named variants that differ in health and model listing. Requests and chunks pass untouched."""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from app.errors import ProviderError
from app.services.inference.answer import finished, has_content
from app.services.inference.provider import Chunk, ProviderSpec
from app.services.inference.upstream import Upstream, error_message
from app.services.inference.variants import VARIANTS
from app.sse import decode


class OpenAICompat:
    """One OpenAI-compatible server. Its endpoint may end in /v1 or not; one with a version elsewhere in its path is taken as it is."""

    def __init__(self, spec: ProviderSpec, session: aiohttp.ClientSession) -> None:
        self.spec = spec
        self._variant = VARIANTS[spec.kind]
        self._upstream = Upstream(spec, session)
        endpoint = spec.endpoint.rstrip("/")
        self._api = endpoint if re.search(r"/v\d", endpoint) else endpoint + "/v1"
        self._root = endpoint.removesuffix("/v1")

    async def probe(self) -> tuple[str, ...]:
        if self._variant.health:
            await self._upstream.get(self._root + self._variant.health)
            if self.spec.models:
                return self.spec.models
        url = self._root + self._variant.info if self._variant.info else self._api + "/models"
        found = await self._upstream.get_json(url)
        if self.spec.models:
            return self.spec.models
        try:
            return tuple(dict.fromkeys(str(model) for model in self._variant.read(found) if model))
        except (KeyError, TypeError):
            raise self._upstream.error("lists no models where such a server does; check its type and endpoint") from None

    async def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = await self._upstream.post_json(self._api + "/chat/completions", request)
        if not isinstance(found, dict) or not isinstance(found.get("choices"), list):
            raise self._broken(found, "answered without any `choices`")
        return found if found.get("model") else {**found, "model": request["model"]}

    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[Chunk, None]:
        ended, wanted = set[int](), request.get("n")
        url = self._api + "/chat/completions"
        async with aclosing(self._upstream.post(url, request)) as raw, aclosing(decode(raw)) as events:
            async for event in events:
                if event.data.strip() == "[DONE]":
                    return
                found = self._upstream.parse(event.data)
                if event.name == "error" or not isinstance(found, dict) or "choices" not in found:
                    raise self._broken(found, "sent something that is no chunk in its stream")
                ended |= finished(found)
                data = event.data if found.get("model") else json.dumps({**found, "model": request["model"]})
                yield Chunk(data, has_content(found))
        if len(ended) < max(1, wanted if isinstance(wanted, int) else 1):
            raise self._upstream.error("ended its stream before its answer was complete")

    async def embed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = await self._upstream.post_json(self._api + "/embeddings", request)
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise self._broken(found, "answered without any `data`")
        return found if found.get("model") else {**found, "model": request["model"]}

    def _broken(self, found: Any, what: str) -> ProviderError:
        """A failure told inside an answer of status 200: with the server's own words where it has some."""
        said = error_message(json.dumps(found)) if isinstance(found, dict) else ""
        return self._upstream.error(f"failed: {said[:300]}" if said else what)
