"""Which pages may open a WebSocket."""

import pytest

from app.edge.origin import check_origin
from app.errors import ForbiddenOrigin

ALLOWED = ("https://app.example.com",)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "node:8000"),
        ("https://app.example.com", "node:8000"),
        ("https://APP.example.com", "node:8000"),
        ("http://node:8000", "node:8000"),
        ("http://node", "node:80"),
        ("https://node", "node"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_programs_configured_pages_and_the_nodes_own_may(origin: str | None, host: str) -> None:
    check_origin(origin, host, ALLOWED)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "node:8000"),
        ("https://app.example.com.evil", "node:8000"),
        ("http://node:8001", "node:8000"),
        ("null", "node:8000"),
        ("", ""),
        ("http://", ""),
        ("http://node:99999", "node:99999"),
        ("file://node:8000", "node:8000"),
    ],
)
def test_others_may_not_and_are_told_what_to_do(origin: str, host: str) -> None:
    with pytest.raises(ForbiddenOrigin) as raised:
        check_origin(origin, host, ALLOWED)
    assert repr(origin) in raised.value.message
    assert "spec.api.cors_origins" in raised.value.message


def test_every_page_may_where_every_origin_is_configured() -> None:
    check_origin("https://evil.example", "node", ("*",))
