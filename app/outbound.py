"""HTTP from tools to the world: an address is checked when the connection to it is made, and every redirect anew.

What is checked is what is connected to: no socket is made for an address that may not be reached, however it was written or resolved, so
that a name which changes its address in between (DNS rebinding) gains nothing. No proxy, no cookies, none of the node's own credentials.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

REDIRECTS = frozenset((301, 302, 303, 307, 308))
CONNECT_TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_SPECIAL = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""Global to Python, or to some versions of it: the metadata services of Azure and Oracle, relays for 6to4, and documentation."""
_OF_THE_CONNECTION = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect")
)
_OF_NAMES = frozenset(("idna", "punycode"))
"""Codecs of host names, one of which takes over a second for 128 KiB."""
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")  # RFC 9110, 5.6.2
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OutboundError(Exception):
    """A request that was not made, or has no usable answer; the message says what is wrong, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """Which hosts may be asked, "*" and "*.example.org" being patterns, each with its port where one is given, and which networks are
    reachable though they are not public. ``remedy`` says how to allow more hosts, ``network_remedy`` how to allow more networks."""

    hosts: tuple[str, ...]
    networks: tuple[Network, ...] = ()
    remedy: str = ""
    network_remedy: str = ""

    def check(self, text: str) -> URL:
        """The URL, as the client reads it. Raises OutboundError for one that may not be asked, whatever its host's address is."""
        try:
            url = URL(text)
            host, port = url.raw_host or "", url.port
        except ValueError as error:
            raise OutboundError(f"{text[:200]!r} is no URL: {error}.") from None
        if url.scheme not in ("http", "https") or not host or port is None:
            raise OutboundError(f"{text[:200]!r} is no http or https URL; write one like https://example.org/path.")
        if url.user is not None or url.password is not None:
            raise OutboundError("A URL with a user or password in it is not asked; send an Authorization header.")
        if not any(_matches(host, port, pattern) for pattern in self.hosts):
            allowed = ", ".join(self.hosts) or "none"
            raise OutboundError(f"The host {host}:{port} may not be asked; allowed is {allowed}. {self.remedy}".rstrip())
        if address := _literal(host):
            self.check_address(host, address)
        return url

    def check_address(self, host: str, address: Address) -> None:
        """Raises OutboundError for an address that is not public and in none of the networks."""
        meant = _embedded(address)
        if _is_public(meant) or any(each in network for each in (address, meant) for network in self.networks):
            return
        told = f"{address} is" if host == str(address) else f"{host} is at {address}, which is"
        raise OutboundError(f"{told} not a public address, so it is not asked. {self.network_remedy or self.remedy}".rstrip())


@dataclass(frozen=True, slots=True)
class Response:
    """``truncated``: the body went on beyond the limit, and ``body`` is its beginning. ``url`` is where the answer came from."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    charset: str
    truncated: bool

    def text(self) -> str:
        """The body as text; what is none is said to be none."""
        try:
            text = self.body.decode("utf-8" if self.charset.lower() in _OF_NAMES else self.charset, "replace")
        except (LookupError, ValueError):  # an unknown charset, or one that is no plain one, such as undefined
            text = self.body.decode("utf-8", "replace")
        return f"[{len(self.body)} bytes that are no text]" if "\0" in text[:1024] else text


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
    resolver, sockets = _Checked(destinations), partial(_socket, destinations)
    connector = aiohttp.TCPConnector(resolver=resolver, socket_factory=sockets, use_dns_cache=False, force_close=True)
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
        raise OutboundError(f"{_shown(request.url)} gave no usable answer: {_reason(error)}.") from None


async def _follow(session: aiohttp.ClientSession, request: Request, destinations: Destinations) -> Response:
    method, url, headers, body = request.method, request.url, _sendable(request.headers), request.body
    for followed in range(request.max_redirects + 1):
        checked = destinations.check(url)
        async with session.request(method, checked, headers=headers, data=body, allow_redirects=False) as answer:
            target = answer.headers.get("Location")
            if answer.status not in REDIRECTS or target is None or not request.max_redirects:
                return await _read(answer, request.max_bytes)
            if followed == request.max_redirects:
                break
            there = urljoin(url, target)
            dropped = set[str]()
            if (answer.status == 303 and method != "HEAD") or (answer.status in (301, 302) and method == "POST"):
                method, body = "GET", None
                dropped |= {"content-type", "content-encoding"}
            if urlsplit(there)[:2] != urlsplit(url)[:2]:  # another origin gets no credentials of this one
                dropped |= {"authorization", "cookie"}
            headers = {name: value for name, value in headers.items() if name.lower() not in dropped}
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


def _socket(destinations: Destinations, info: AddrInfoType) -> socket.socket:
    """The socket for a connection to an address; the client takes addresses in a URL, in whatever digits, past its resolver."""
    family, kind, proto, _, address = info
    try:
        destinations.check_address(str(address[0]), ipaddress.ip_address(str(address[0]).partition("%")[0]))
    except OutboundError as error:
        raise OSError(str(error)) from error
    return socket.socket(family, kind, proto)


def parse_network(text: str) -> Network:
    """A network like 10.0.0.0/8, or one address; raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def host_of(url: str) -> str:
    """The host and port of a URL, as a pattern of Destinations. Raises OutboundError."""
    try:
        parsed = URL(url)
    except ValueError:
        raise OutboundError("The URL that is configured is none.") from None
    host = parsed.raw_host or ""
    return f"[{host}]:{parsed.port}" if ":" in host else f"{host}:{parsed.port}"


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


def _is_public(address: Address) -> bool:
    if any(address in network for network in _SPECIAL) or address.is_multicast or not address.is_global:
        return False
    return address.version == 4 or address in _GLOBAL_UNICAST


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name.lower() in _OF_THE_CONNECTION or name.lower().startswith("proxy-"):
            raise OutboundError(f"The header {name[:80]} is not sent: it belongs to the connection; leave it out.")
        if not _TOKEN.fullmatch(name) or _UNSENDABLE.search(value):
            raise OutboundError(f"The header {name[:80]!r} cannot be sent: it has characters that no header has.")
    named = any(name.lower() == "user-agent" for name in headers)
    return dict(headers) if named else {"User-Agent": "astromesh", **headers}


def _reason(error: Exception) -> str:
    """What went wrong, without the URL that the client puts into some of its messages."""
    if isinstance(error, aiohttp.ClientResponseError):
        return " ".join(error.message.split())[:200] or "it is no HTTP"
    return type(error).__name__ if isinstance(error, aiohttp.InvalidURL) else str(error) or type(error).__name__


def _shown(url: str) -> str:
    """Who was asked: what follows the host may be secret."""
    return "//".join(urlsplit(url)[:2])[:200].replace("//", "://", 1)
