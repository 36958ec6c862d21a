"""Addresses of nodes: what a seed's name means now, and under which address this machine is seen from there."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

RESOLVE_S = 3.0


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches the host under this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def node_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def addresses(url: str) -> list[str]:
    """The IP addresses of a URL's host now; none where there are none, or its name server is silent."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def each_address(url: str, ips: Iterable[str]) -> list[str]:
    """A seed's URL as the URLs of all its addresses. With one address, or with TLS (whose certificate has the name), the name stays."""
    parts, ips = urlsplit(url), list(ips)
    if len(ips) < 2 or parts.scheme == "https":
        return [url]
    return [node_url(ip, parts.port or 80) for ip in ips]


def seen_from(ip: str) -> str:
    """This machine's own address on the way to ``ip``; "" where there is no way. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def own_address(others: Iterable[str]) -> str:
    """This machine as these others see it, rather not at an address that only it can use; "" where there is no way to any."""
    found = [own for own in map(seen_from, others) if own]
    return next((own for own in found if not is_loopback(own)), found[0] if found else "")
