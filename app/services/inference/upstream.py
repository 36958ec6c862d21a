"""HTTP to one provider. Every failure of the other side leaves here as a Provider* error with the provider's name, its key masked."""

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from app.errors import AnsweredError, NodeError, ProviderError, ProviderRateLimited, ProviderTimeout, ProviderUnavailable
from app.services.inference.endpoint import shown_endpoint
from app.services.inference.provider import ProviderSpec

_CALLERS_MISTAKE = frozenset({400, 404, 409, 413, 415, 422})
# A server that lacks the path says nothing, or what Starlette and FastAPI say: then the endpoint is wrong, not the request.
_NO_SUCH_PATH = frozenset({"", "Not Found", "Method Not Allowed"})
_PROBE = aiohttp.ClientTimeout(total=5)
# uvicorn, under most model servers, closes connections that idle for 5 s; giving them up earlier avoids sending into a closing one.
_KEEP_ALIVE_S = 4.0


def open_session(connect_timeout_s: float) -> aiohttp.ClientSession:
    """The one HTTP client of the service. Only connecting is timed here: what may take how long after that is the caller's to say."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(connect=connect_timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Upstream:
    """Requests to one provider, with its own key and nobody else's headers."""

    def __init__(self, spec: ProviderSpec, session: aiohttp.ClientSession) -> None:
        self._spec = spec
        self._session = session
        self._headers = {"Authorization": f"Bearer {spec.key}"} if spec.key else {}

    async def get(self, url: str) -> bytes:
        async with self._answer("GET", url, timeout=_PROBE) as response:
            return await response.read()

    async def get_json(self, url: str) -> Any:
        return self.parse(await self.get(url))

    async def post_json(self, url: str, body: Mapping[str, Any]) -> Any:
        async with self._answer("POST", url, json=body) as response:
            return self.parse(await response.read(), constant=_refuse)

    async def post(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """The answer's bytes as they come. Closing the generator early ends the connection, and so the provider's work."""
        async with self._answer("POST", url, json=body) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    def parse(self, raw: bytes | str, constant: Callable[[str], Any] | None = None) -> Any:
        """``constant`` gets NaN and Infinity, which Python reads and nobody else does: what passes through untouched may have them."""
        try:
            return json.loads(raw, parse_constant=constant)
        except (ValueError, RecursionError):
            raise self.error("sent what is not JSON; check that its endpoint is a model server") from None

    def error(self, what: str) -> ProviderError:
        return ProviderError(self._told(what))

    @asynccontextmanager
    async def _answer(self, method: str, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, url, headers=self._headers, allow_redirects=False, **options) as response:
                if response.status != 200:
                    raise self._refusal(response, await response.read())
                yield response
        except aiohttp.ConnectionTimeoutError as error:
            raise ProviderTimeout(self._told(f"did not accept a connection in time at {shown_endpoint(url)}")) from error
        except TimeoutError as error:
            raise ProviderTimeout(self._told(f"did not answer in time at {shown_endpoint(url)}")) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, ssl.SSLError) as error:
            url_is_wrong = isinstance(error, aiohttp.InvalidURL)  # whose text is the URL, password and all
            reason = "mend its endpoint" if url_is_wrong else getattr(error, "strerror", None) or str(error)
            raise ProviderUnavailable(self._told(f"cannot be reached at {shown_endpoint(url)}: {reason}")) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self.error(f"broke off its answer ({type(error).__name__})") from error

    def _told(self, what: str) -> str:
        """In one line, for it may be logged: what a server says has line breaks at times."""
        text = "".join(each if each.isprintable() else " " for each in f"Provider {self._spec.name!r} {what}.")
        return text.replace(self._spec.key, "***") if self._spec.key else text

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> NodeError:
        status, said = response.status, error_message(body)
        wait = response.headers.get("Retry-After")
        headers = {"Retry-After": wait} if wait and wait.isascii() else None
        shown = f": {said[:300]}" if said else ""
        if status == 429:
            return ProviderRateLimited(self._told(f"limits the rate of requests{shown}; try again later"), headers=headers)
        if status in (401, 403):
            key = f"the key in {self._spec.key_name}" if self._spec.key else "a request without a key; set its api_key_env"
            return self.error(f"refused {key} (status {status})")
        if status in _CALLERS_MISTAKE and said not in _NO_SUCH_PATH:
            return self._answered(status, said, body)
        if status == 503:
            return ProviderUnavailable(self._told(f"is not available (status 503){shown}"), headers=headers)
        if status in (408, 504):
            return ProviderTimeout(self._told(f"timed out itself (status {status}){shown}"))
        if 300 <= status < 400:
            return self.error(_redirected(response))
        return self.error(f"answered status {status} at {shown_endpoint(str(response.url))}{shown}")

    def _answered(self, status: int, said: str, body: bytes) -> AnsweredError:
        found = json.loads(body).get("error")
        detail = found if isinstance(found, dict) else {}
        error = {
            "message": self._told(f"refused the request: {said}"),
            "type": detail.get("type") or "invalid_request_error",
            "code": detail.get("code") or "provider_refused",
            "param": detail.get("param"),
        }
        return AnsweredError(status, json.dumps({"error": error}).encode())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _redirected(response: aiohttp.ClientResponse) -> str:
    """Where to. A Location may be relative (RFC 9110 §10.2.2), and from a foreign server it may be anything."""
    try:
        target = shown_endpoint(str(response.url.join(URL(response.headers.get("Location", "")))))
    except ValueError:
        return f"redirects (status {response.status}) to no address; check its endpoint"
    return f"redirects to {target}; make that its endpoint"


def error_message(body: bytes | str) -> str:
    """The message in an error body as OpenAI, vLLM, TGI, Ollama and FastAPI servers shape it; "" where there is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    error = found.get("error", found.get("message", found.get("detail")))
    if isinstance(error, dict):
        error = error.get("message")
    return error.rstrip(".") if isinstance(error, str) else json.dumps(error)[:500] if error else ""
