"""Text on its way through guardrails: the same comes out, however it was cut, and nothing of what is guarded against."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.agents.guardrails.keywords import Keywords
from app.services.agents.guardrails.screen import Filter, ForbiddenWords, Length, PersonalData, Screen

WORDS = Keywords(["bad", "very bad word", "bad apple pie", "C++", "naïve", "straße", "爆弹", "a b c", "b"])
SCREENS: dict[str, Callable[[], list[Filter]]] = {
    "redact": lambda: [PersonalData()],
    "block personal data": lambda: [PersonalData(block=True)],
    "words": lambda: [ForbiddenWords(WORDS)],
    "cut": lambda: [Length(17)],
    "all": lambda: [PersonalData(), ForbiddenWords(WORDS), Length(60)],
    "all that block": lambda: [ForbiddenWords(WORDS), Length(40, block=True), PersonalData(block=True)],
}
PERSONAL = [
    *("ada@example.com", "4111 1111 1111 1111", "378282246310005", "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "078-05-1120"),
    *("+44 20 7946 0958", "(555) 234-5678", "020 7946 0958", "0612345678", "192.168.0.1", "fe80::1"),
]
PIECES = [
    *(
        *PERSONAL,
        "x" * 70 + "@a.de",
        "4111-1111-1111-1112",
        "::1",
        "10:30:45",
        "2026-11-24",
        "bad",
        "BAD",
        "very  bad\tword",
        "bad apple",
        " pie",
        "c++",
        "nai\u0308ve",
        "STRASSE",
    ),
    *(
        "爆弹",
        "b\u00adad",
        "a b c",
        "a b",
        "b",
        "\u0303",
        "é",
        "word",
        "IN CAPS ",
        "1 2 3 4 5 ",
        ".",
        ",",
        " ",
        "\n",
        "@",
        "+",
        "-",
        "(",
        "\uff21",
        "٣",
    ),
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=14).map("".join)


def through(filters: Sequence[Filter], pieces: Sequence[str]) -> tuple[str, bool, int | None, bool]:
    screen = Screen(filters)
    told = "".join(screen.feed(piece) for piece in pieces if screen.blocked_by is None)
    if screen.blocked_by is None:
        told += screen.finish()
    return told, screen.blocked_by is not None, screen.blocked_by, screen.cut


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("kind", SCREENS)
@settings(max_examples=300, deadline=None)
@given(text=texts, places=st.lists(st.integers(0, 10_000), max_size=8))
def test_however_a_text_is_cut_the_same_comes_out_and_it_ends_alike(kind: str, text: str, places: list[int]) -> None:
    whole = through(SCREENS[kind](), [text])
    assert through(SCREENS[kind](), cut(text, places)) == whole
    assert through(SCREENS[kind](), list(text)) == whole


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8), between=st.sampled_from([" ", "\n", ", "]))
def test_no_neighbour_keeps_personal_data_from_being_found(pieces: list[str], between: str) -> None:
    told, *_ = through([PersonalData()], [between.join(pieces)])
    assert [piece for piece in PERSONAL if piece in told] == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Write to ada.l+x@mail.example.co.uk, please.", "Write to [EMAIL_REDACTED], please."),
        ("Mail josé@exämple.de!", "Mail [EMAIL_REDACTED]!"),
        ("user@localhost is no address", "user@localhost is no address"),
        ("Card 4111 1111 1111 1111 2027", "Card [CARD_REDACTED] 2027"),
        ("Card 12 4111111111111111.", "Card 12 [CARD_REDACTED]."),
        ("Amex 3782-822463-10005", "Amex [CARD_REDACTED]"),
        ("Wrong sum 4111 1111 1111 1112", "Wrong sum 4111 1111 1111 1112"),
        ("IBAN GB82 WEST 1234 5698 7654 32 AND MORE", "IBAN [IBAN_REDACTED] AND MORE"),
        ("iban de89370400440532013000.", "iban [IBAN_REDACTED]."),
        ("IBAN XX12 ABCD EFGH IJKL", "IBAN XX12 ABCD EFGH IJKL"),
        ("SSN 078-05-1120, not 000-05-1120", "SSN [SSN_REDACTED], not 000-05-1120"),
        ("Call +1 (555) 234-5678 or 555-234-5678 now", "Call [PHONE_REDACTED] or [PHONE_REDACTED] now"),
        ("Call 020 7946 0958 or 0612345678 or 030/1234567", "Call [PHONE_REDACTED] or [PHONE_REDACTED] or [PHONE_REDACTED]"),
        ("On 24-11-2026 at 10:30, 12345 pieces for 99.95", "On 24-11-2026 at 10:30, 12345 pieces for 99.95"),
        ("From 192.168.0.1 and fe80::1, not 1.2.3 or a::b", "From [IP_REDACTED] and [IP_REDACTED], not 1.2.3 or a::b"),
    ],
)
def test_personal_data_is_what_has_its_form_and_its_checksum(text: str, told: str) -> None:
    assert through([PersonalData()], [text])[0] == told


@pytest.mark.parametrize(
    ("text", "blocked"),
    [
        ("That is bad.", True),
        ("BAD", True),
        ("\uff42\uff41\uff44", True),
        ("b\u200bad", True),
        ("badly, abad, bad_ness", False),
        ("a very\n  bad word", True),
        ("a very bad", True),
        ("I know c++.", True),
        ("I know c+ +", False),
        ("nai\u0308ve", True),
        ("naive", False),
        ("STRASSE", True),
        ("那个爆弹是", True),
    ],
)
def test_a_forbidden_word_is_found_as_a_whole_word_however_it_is_written(text: str, blocked: bool) -> None:
    assert through([ForbiddenWords(WORDS)], [text])[1] is blocked


def test_nothing_of_a_forbidden_word_or_an_address_is_told_while_it_comes() -> None:
    told = [through([ForbiddenWords(WORDS)], list("It is a very bad word, he said"))[0]]
    told.append(through([PersonalData(block=True)], list("Write to ada@example.com now"))[0])
    assert told == ["It is a ", "Write to "]


def test_plain_words_are_told_at_the_latest_with_the_next_one() -> None:
    screen = Screen([PersonalData(), ForbiddenWords(WORDS), Length(1000)])
    fed = told = ""
    for piece in ("Hello", " there", " my", " friend", ", how", " are", " you?"):
        waiting = len(piece) + 1  # one more character, which may get an accent
        fed, told = fed + piece, told + screen.feed(piece)
        assert len(told) >= len(fed) - waiting
    assert told + screen.finish() == fed


def test_an_overlong_text_is_cut_at_its_limit() -> None:
    assert through([Length(5)], ["Hello", " there"]) == ("Hello", False, None, True)
    assert through([Length(5)], ["Hello"]) == ("Hello", False, None, False)
    assert through([Length(5, block=True)], ["Hello!"])[:3] == ("Hello", True, 0)
