"""What is accepted as an address: URLs of nodes and servers, origins, hosts, listen addresses. A check says what is wrong, its caller
the cure."""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

from jsonschema import FormatChecker

FORMATS = FormatChecker(formats=())
"""The JSON Schema formats of configuration files: node-url, url, origin, host, bind, network. What is not text is
another rule's business."""

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?")
_UNPRINTABLE = re.compile(r"[^!-~]")
_CREDENTIALS = re.compile(r"(?is)(^[a-z]+://|//|^(?=[^@]*:)).*@")


def check_host(text: str) -> str:
    """A host name or IP address, as it is; raises ValueError."""
    if not (_HOSTNAME.fullmatch(text) or _is_ip(text)):
        raise ValueError("is no host name or IP address")
    return text


def parse_bind(text: str) -> tuple[str, int]:
    """A listen address "host:port" or "[v6]:port"; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]") and _is_ip(host[1:-1]):
        host = host[1:-1]
    elif not colon or ":" in host:
        raise ValueError("is not host:port")
    return check_host(host), parse_port(port)


def parse_port(text: str) -> int:
    """A port from 0 (any free one) to 65535; raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("lacks a port from 0 to 65535")
    return int(text)


def check_node_url(text: str) -> str:
    """The base URL at which a node can be called, without its last slash; raises ValueError."""
    url = _split(text)
    if is_unspecified(url.hostname or ""):
        raise ValueError("is an address to listen on, which nobody can call")
    _check_bare(url, text)
    return text.removesuffix("/")


def check_url(text: str) -> str:
    """The URL below which a server has its paths, as it is; raises ValueError."""
    _split(text)
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment, which no path can follow")
    return text


def check_origin(text: str) -> str:
    """A web origin (scheme, host, port; RFC 6454) or "*"; raises ValueError."""
    if text != "*":
        _check_bare(_split(text), text)
        if text.endswith("/"):
            raise ValueError("ends in a slash, which no browser sends")
    return text


def masked(text: str) -> str:
    """A text that may be a URL, without the credentials in it."""
    return _CREDENTIALS.sub(r"\1***@", text)


def _check_bare(url: SplitResult, text: str) -> None:
    if url.username is not None or url.password is not None:
        raise ValueError("has credentials in it")
    if url.path not in {"", "/"} or "?" in text or "#" in text:
        raise ValueError("has more than scheme, host and port")


def _split(text: str) -> SplitResult:
    if _UNPRINTABLE.search(text):
        raise ValueError("has characters that no URL has")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in {"http", "https"}:
        raise ValueError("is not an http or https URL")
    if not url.hostname:
        raise ValueError("has no host")
    if port == 0 or url.netloc.endswith(":"):
        raise ValueError("has no usable port")
    check_host(url.hostname)
    return url


def is_unspecified(host: str) -> bool:
    """Whether a host is an address to listen on that nobody can call: 0.0.0.0, however it is spelt, or ::."""
    try:
        return not any(socket.inet_aton(host))  # also "0" and "0.0", which are names to ipaddress
    except (OSError, UnicodeError):
        return _is_ip(host) and ipaddress.ip_address(host).is_unspecified


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_CHECKS = {
    "node-url": check_node_url,
    "url": check_url,
    "origin": check_origin,
    "host": check_host,
    "bind": parse_bind,
    "network": ipaddress.ip_network,
}
for _name, _check in _CHECKS.items():
    FORMATS.checks(_name, raises=ValueError)(lambda value, check=_check: not isinstance(value, str) or bool(check(value)))
