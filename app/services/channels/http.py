"""The HTTP client of all channels: says of every request whether it was taken, was not, or whether nobody can know."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from app.services.channels.message import NotAcceptedError, UncertainError

_MAX_ANSWER_BYTES = 256 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is the JSON, None where there is none."""

    status: int
    body: Any
    retry_after_s: float | None

    def error(self, reason: str, *, again: bool | None = None, too_late: bool = False) -> NotAcceptedError:
        """The refusal that this answer is; whether it may be repeated follows from the status unless the platform says more."""
        again = self.status in _AGAIN if again is None else again
        return NotAcceptedError(f"it answered {self.status}: {reason}", again=again, after_s=self.retry_after_s, too_late=too_late)


class Client:
    """An async context manager that holds the connections."""

    def __init__(self, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=10), cookie_jar=aiohttp.DummyCookieJar(), trust_env=True
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST JSON and return whatever is answered. Raises NotAcceptedError where there was no connection to send it on, UncertainError
        where the connection ended before the answer was here."""
        sent = {"Content-Type": "application/json", **headers}
        try:
            async with self._session.post(url, data=body, headers=sent, allow_redirects=False) as answer:
                return Answer(answer.status, _parsed(await _read(answer)), _seconds(answer.headers.get("Retry-After", "")))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotAcceptedError(f"no connection: {error}", again=True) from error
        except aiohttp.ClientHttpProxyError as error:
            raise NotAcceptedError(f"the proxy made no connection: it answered {error.status}", again=True) from error
        except (aiohttp.InvalidURL, ValueError) as error:  # its text may hold the URL, and a URL may hold a token
            raise NotAcceptedError(f"its address or a header cannot be used: {type(error).__name__}", again=False) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UncertainError(f"the connection ended without an answer: {_told(error)}") from error


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in answer.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_ANSWER_BYTES:
            break
    return bytes(raw)


def _told(error: Exception) -> str:
    """What went wrong. An answer that is no HTTP is told without its text, which holds the URL, and Telegram's URLs hold the token."""
    name = type(error).__name__
    return name if isinstance(error, aiohttp.ClientResponseError) else f"{name}: {error}"


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _seconds(value: str) -> float | None:
    """Retry-After in seconds; its other form, a date, is not used by these platforms."""
    return min(float(value), 3_600.0) if value.isascii() and value.isdigit() and len(value) < 8 else None
