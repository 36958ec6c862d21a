"""How answers are framed, without a wire."""

import pytest

from app.edge.framing import Framing, IllegalAnswerError

LENGTH_5 = [(b"Content-Length", b"5")]


def framing(method: str = "GET", version: str = "1.1") -> Framing:
    return Framing(method, version, keep_alive=version == "1.1")


def test_an_answer_of_known_length_goes_out_as_it_is() -> None:
    made = framing()
    assert made.head(200, LENGTH_5) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert (made.body(b"he", more=True), made.complete) == (b"he", False)
    assert (made.body(b"llo", more=False), made.complete, made.keep_alive) == (b"llo", True, True)


def test_an_answer_of_unknown_length_goes_out_in_chunks() -> None:
    made = framing()
    assert made.head(200, []) == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert made.body(b"x" * 16, more=True) == b"10\r\n" + b"x" * 16 + b"\r\n"
    assert made.body(b"", more=True) == b""
    assert made.body(b"y", more=False) == b"1\r\ny\r\n0\r\n\r\n"


def test_to_http_1_0_an_answer_of_unknown_length_ends_with_the_connection() -> None:
    made = framing(version="1.0")
    assert made.head(200, [(b"transfer-encoding", b"chunked")]) == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    assert made.body(b"x", more=False) == b"x"
    assert not made.keep_alive


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_answer_without_a_body_has_none_whatever_its_handler_says(method: str, status: int) -> None:
    made = framing(method)
    assert made.head(status, LENGTH_5).endswith(b"\r\ncontent-length: 5\r\n\r\n")
    assert (made.body(b"hello", more=True), made.body(b"", more=False)) == (b"", b"")
    assert made.complete
    assert made.keep_alive
    unknown = framing(method)
    assert b"transfer-encoding" not in unknown.head(status, [])
    assert unknown.body(b"hello", more=False) == b""


@pytest.mark.parametrize(("first", "last"), [(b"", b"123456"), (b"123", b"456"), (b"1", b"234"), (b"", b"")])
def test_a_body_of_another_length_than_announced_is_refused(first: bytes, last: bytes) -> None:
    made = framing()
    made.head(200, LENGTH_5)
    made.body(first, more=True)
    with pytest.raises(IllegalAnswerError):
        made.body(last, more=False)
    assert not made.complete


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nset-cookie: b"), (b"x", b"a\nb"), (b"x", b"a\x00"), (b"x: y", b"a"), (b"x\r\ny", b"a"), (b"", b"a")]
)
def test_a_header_that_would_break_the_head_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(IllegalAnswerError):
        framing().head(200, [header])


def test_a_header_may_hold_tabs_and_any_other_bytes() -> None:
    assert b"\r\nx: a\tb\xe9\r\n" in framing().head(200, [(b"X", b"a\tb\xe9")])


def test_a_handler_may_close_the_connection_and_never_opens_it_again() -> None:
    made = framing()
    assert made.head(200, [(b"Connection", b"Close"), *LENGTH_5]).count(b"connection: close") == 1
    assert not made.keep_alive
    made = framing(version="1.0")
    assert b"connection: close" in made.head(200, [(b"connection", b"keep-alive"), *LENGTH_5])
