"""Providers that are servers, over one HTTP client. Imported only where one is attached: the client is a sixth of a node's memory."""

import aiohttp

from app.services.inference.ollama import Ollama
from app.services.inference.openai_compat import OpenAICompat
from app.services.inference.provider import Provider, ProviderSpec


def make_server(spec: ProviderSpec, session: aiohttp.ClientSession) -> Provider:
    return Ollama(spec, session) if spec.kind == "ollama" else OpenAICompat(spec, session)
