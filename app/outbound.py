"""HTTP from tools to the world: an address is checked when the connection to it is made, and every redirect anew.

What is checked is what is connected to: the resolver hands over only addresses that may be reached, so that a name which changes its
address in between (DNS rebinding) gains nothing. No proxy, no cookies, nothing of the node's own credentials goes along.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

REDIRECTS = frozenset((301, 302, 303, 307, 308))
CONNECT_TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNCHECKED_HEADERS = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "proxy-authorization")
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OutboundError(Exception):
    """A request that was not made, or has no usable answer; the message says what is wrong, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Which hosts may be asked, "*" and "*.example.org" being patterns, each with its port where one is given, and which networks are
    reachable though they are not public. ``remedy`` says how to allow more."""

    hosts: tuple[str, ...]
    networks: tuple[Network, ...] = ()
    remedy: str = ""

    def check(self, url: str) -> None:
        """Raises OutboundError for a URL that may not be asked, whatever its host's address is."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise OutboundError(f"{url[:200]!r} is no URL: {error}.") from None
        if parts.scheme not in ("http", "https") or not host:
            raise OutboundError(f"{url[:200]!r} is no http or https URL; write one like https://example.org/path.")
        if parts.username is not None or parts.password is not None:
            raise OutboundError("A URL with a user or password in it is not asked; send an Authorization header.")
        if not any(_matches(host, port, pattern) for pattern in self.hosts):
            allowed = ", ".join(self.hosts) or "none"
            raise OutboundError(f"The host {host}:{port} may not be asked; allowed is {allowed}. {self.remedy}".rstrip())
        if address := _literal(host):
            self.check_address(host, address)

    def check_address(self, host: str, address: Address) -> None:
        """Raises OutboundError for an address that is not public and in none of the networks."""
        meant = _embedded(address)
        if not any(each in network for each in {address, meant} for network in self.networks if each.version == network.version) and not (
            meant.is_global and not meant.is_multicast
        ):
            raise OutboundError(f"{host} is at {address}, which is not a public address, so it is not asked. {self.remedy}".rstrip())


@dataclass(frozen=True, slots=True)
class Response:
    """``truncated``: the body went on beyond the limit, and ``body`` is its beginning. ``url`` is where the answer came from."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    charset: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Request:
    """Sizes in bytes, times in seconds; ``max_redirects`` 0 takes a redirect as the answer."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout_s: float = 30.0
    max_bytes: int = 256 * 1024
    max_redirects: int = 0


async def ask(request: Request, destinations: Destinations) -> Response:
    """Make the request and return its answer. Raises OutboundError."""
    connector = aiohttp.TCPConnector(resolver=_Checked(destinations), use_dns_cache=False, force_close=True)
    times = aiohttp.ClientTimeout(total=request.timeout_s, connect=CONNECT_TIMEOUT_S)
    options: dict[str, Any] = {"timeout": times, "cookie_jar": aiohttp.DummyCookieJar(), "trust_env": False, "auto_decompress": True}
    try:
        async with aiohttp.ClientSession(connector=connector, **options) as session:
            async with asyncio.timeout(request.timeout_s):
                return await _follow(session, request, destinations)
    except TimeoutError:
        raise OutboundError(f"{_shown(request.url)} did not answer within {request.timeout_s:g} s.") from None
    except aiohttp.ClientConnectorError as error:
        refused = error.os_error.__cause__ or error.os_error
        raise (
            refused if isinstance(refused, OutboundError) else OutboundError(f"{_shown(request.url)} cannot be reached: {error}.")
        ) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise OutboundError(f"{_shown(request.url)} gave no usable answer: {error or type(error).__name__}.") from None


async def _follow(session: aiohttp.ClientSession, request: Request, destinations: Destinations) -> Response:
    method, url, headers, body = request.method, request.url, _sendable(request.headers), request.body
    for followed in range(request.max_redirects + 1):
        destinations.check(url)
        async with session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
            target = answer.headers.get("Location")
            if answer.status not in REDIRECTS or target is None or not request.max_redirects:
                return await _read(answer, request.max_bytes)
            if followed == request.max_redirects:
                break
            there = urljoin(url, target)
            if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                method, body = "GET", None
            if urlsplit(there)[:2] != urlsplit(url)[:2]:  # another origin gets no credentials of this one
                headers = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "cookie")}
            url = there
    raise OutboundError(f"{_shown(request.url)} redirects more than {request.max_redirects} times.")


async def _read(answer: aiohttp.ClientResponse, limit: int) -> Response:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    charset = answer.charset or "utf-8"
    return Response(answer.status, str(answer.url), dict(answer.headers), bytes(body[:limit]), charset, len(body) > limit)


class _Checked(AbstractResolver):
    """Resolves like the system, and hands over what may be connected to."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        found = list[ResolveResult]()
        refused: OutboundError | None = None
        for kind, _, proto, _, address in infos:
            try:
                self._destinations.check_address(host, ipaddress.ip_address(str(address[0]).partition("%")[0]))
            except OutboundError as error:
                refused = error
                continue
            numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found.append(ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=numeric))
        if not found and refused:
            raise OSError(str(refused)) from refused
        return found

    async def close(self) -> None:
        """There is nothing to let go of."""


def parse_network(text: str) -> Network:
    """A network like 10.0.0.0/8, or one address; raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def host_of(url: str) -> str:
    """The host and port of a URL, as a pattern of Destinations."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{parts.hostname}]:{port}" if ":" in (parts.hostname or "") else f"{parts.hostname}:{port}"


def anywhere() -> tuple[Network, ...]:
    """All addresses: for a URL that the operator wrote."""
    return (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def _matches(host: str, port: int, pattern: str) -> bool:
    wanted, colon, number = pattern.rpartition(":")
    if colon and number.isdigit() and not wanted.endswith(":"):
        return port == int(number) and fnmatchcase(host.lower(), wanted.strip("[]").lower())
    return port in (80, 443) and fnmatchcase(host.lower(), pattern.strip("[]").lower())


def _literal(host: str) -> Address | None:
    """The address that a host is, in any of the forms that resolvers take ("127.1", "0x7f000001"); None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.sixtofour:
            return address.ipv4_mapped or address.sixtofour or address
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name.lower() in _UNCHECKED_HEADERS:
            raise OutboundError(f"The header {name} is not sent: it belongs to the connection.")
        if not name.replace("-", "").replace("_", "").isalnum() or any(each in value for each in "\r\n\0"):
            raise OutboundError(f"The header {name[:80]!r} cannot be sent as it is.")
    return {"User-Agent": "astromesh", **headers}


def _shown(url: str) -> str:
    """Who was asked: what follows the host may be secret."""
    return "//".join(urlsplit(url)[:2])[:200].replace("//", "://", 1)
