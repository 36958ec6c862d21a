"""Node-to-node authentication: what is accepted, and that nothing recorded, altered or re-addressed is."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Unauthorized
from app.signing import CHALLENGE, WINDOW, Claim, Signer, UnknownSender, Verifier

URL = "http://worker:8000"
CLAIM = Claim("POST", "/v1/tools/execute", {"x-astromesh-principal": "team-a", "x-session-id": "s"}, b"{}")


def pair(sending: Sequence[bytes] = (b"key",), receiving: Sequence[bytes] = (b"key",)) -> tuple[Signer, Verifier]:
    """A signer and a verifier that have met."""
    signer, verifier = Signer("a1", lambda: sending), Verifier("b2", lambda: receiving)
    meet(signer, verifier)
    return signer, verifier


def meet(signer: Signer, verifier: Verifier) -> None:
    with pytest.raises(UnknownSender) as challenged:
        verifier.sender(signer.authorization(URL, CLAIM), CLAIM)
    assert challenged.value.headers["X-Astromesh-Not-Begun"] == "1"
    assert signer.take_challenge(URL, challenged.value.headers[CHALLENGE])


def test_a_signed_request_names_its_sender_after_one_challenge() -> None:
    signer, verifier = pair()
    assert verifier.sender(signer.authorization(URL, CLAIM), CLAIM) == "a1"
    assert verifier.sender(signer.authorization(URL, CLAIM), CLAIM) == "a1"


def test_a_node_with_another_key_is_refused_and_told_why() -> None:
    signer, verifier = pair(sending=(b"other",))
    with pytest.raises(Unauthorized, match="ASTROMESH_MESH_KEY"):
        verifier.sender(signer.authorization(URL, CLAIM), CLAIM)


def test_all_keys_verify_and_the_first_signs_so_that_keys_rotate_without_a_stop() -> None:
    keys = {"sender": [b"old"], "receiver": [b"old"]}
    signer, verifier = Signer("a1", lambda: keys["sender"]), Verifier("b2", lambda: keys["receiver"])
    meet(signer, verifier)
    for side, ring in (("receiver", [b"old", b"new"]), ("sender", [b"new", b"old"]), ("receiver", [b"new"])):
        keys[side] = ring
        assert verifier.sender(signer.authorization(URL, CLAIM), CLAIM) == "a1"


@pytest.mark.parametrize(
    "altered",
    [
        Claim("DELETE", CLAIM.target, CLAIM.fields, CLAIM.body),
        Claim(CLAIM.method, "/v1/memory/x", CLAIM.fields, CLAIM.body),
        Claim(CLAIM.method, CLAIM.target, {**CLAIM.fields, "x-astromesh-principal": "team-b"}, CLAIM.body),
        Claim(CLAIM.method, CLAIM.target, {"x-astromesh-principal": "team-a"}, CLAIM.body),
        Claim(CLAIM.method, CLAIM.target, CLAIM.fields, b"{ }"),
        Claim(CLAIM.method, CLAIM.target, CLAIM.fields, None),
    ],
)
def test_nothing_that_is_signed_can_be_altered(altered: Claim) -> None:
    signer, verifier = pair()
    with pytest.raises(Unauthorized):
        verifier.sender(signer.authorization(URL, CLAIM), altered)


def test_a_recorded_request_is_refused_the_second_time_elsewhere_and_after_a_restart() -> None:
    signer, verifier = pair()
    recorded = signer.authorization(URL, CLAIM)
    other, restarted = Verifier("c3", lambda: [b"key"]), Verifier("b2", lambda: [b"key"])
    for elsewhere in (other, restarted):
        meet(Signer("a1", lambda: [b"key"]), elsewhere)
        with pytest.raises(Unauthorized):
            elsewhere.sender(recorded, CLAIM)
    assert verifier.sender(recorded, CLAIM) == "a1"
    with pytest.raises(Unauthorized, match="seen before"):
        verifier.sender(recorded, CLAIM)


@given(st.permutations(range(40)), st.lists(st.integers(0, 39), max_size=10))
def test_requests_may_overtake_one_another_and_each_counts_once(order: list[int], again: list[int]) -> None:
    signer, verifier = pair()
    sent = [signer.authorization(URL, CLAIM) for _ in range(40)]
    for index in order:
        assert verifier.sender(sent[index], CLAIM) == "a1"
    for index in again:
        with pytest.raises(Unauthorized):
            verifier.sender(sent[index], CLAIM)


def test_what_is_further_behind_than_the_window_is_refused() -> None:
    signer, verifier = pair()
    late, *others = [signer.authorization(URL, CLAIM) for _ in range(WINDOW + 1)]
    assert verifier.sender(others[-1], CLAIM) == "a1"
    assert verifier.sender(others[0], CLAIM) == "a1"
    with pytest.raises(Unauthorized):
        verifier.sender(late, CLAIM)


def test_fields_cannot_be_shifted_into_one_another() -> None:
    signer, verifier = pair()
    signed = Claim("GET", "/", {"a": "1\nb=2"})
    with pytest.raises(Unauthorized):
        verifier.sender(signer.authorization(URL, signed), Claim("GET", "/", {"a": "1", "b": "2"}))


@given(st.text(max_size=300))
def test_no_text_whatever_is_taken_for_a_signature(text: str) -> None:
    with pytest.raises(Unauthorized):
        Verifier("b2", lambda: [b"key"]).sender(text, CLAIM)


@given(st.text(max_size=100))
def test_a_malformed_challenge_is_not_taken(text: str) -> None:
    assert not Signer("a1", lambda: [b"key"]).take_challenge(URL, text)
