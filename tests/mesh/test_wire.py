import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.mesh.members import Load, Record, Status
from app.mesh.messages import Digest, Entry, Gossip, Header, Join, Leave, LoadEntry, Message, Page, Probe, Refusal, Sync, Verdict
from app.mesh.wire import MAX_BYTES, MAX_COUNTER, Refused, decode, encode, entry_json, entry_size

ids = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
counts = st.integers(0, MAX_COUNTER)
standings = st.tuples(counts, st.sampled_from(Status))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
hashes = st.from_regex(r"[0-9a-f]{0,64}", fullmatch=True)
urls = st.sampled_from(["http://worker:8000", "https://a.example", "http://10.0.0.7:80/base", "http://[fd00::1]:8000"])
services = st.lists(st.sampled_from(["agents", "memory", "tools"]), max_size=16).map(tuple)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    node_id = draw(ids)
    record = st.builds(
        Record, st.just(node_id), counts, names, urls | st.just(""), services, hashes, hashes, st.booleans()
    )  # fmt: skip
    return Entry(node_id, draw(standings), draw(st.none() | record))


headers = st.builds(Header, names, ids, ids | st.just(""), counts, counts, counts, st.integers(0, 2**64 - 1), counts)
bodies = st.one_of(
    st.builds(Gossip, st.booleans()),
    st.builds(Join, urls),
    st.builds(Sync, ids | st.just(""), ids | st.just(""), st.lists(st.builds(Digest, ids, counts, standings), max_size=3).map(tuple)),
    st.builds(Page, ids | st.just(""), st.sampled_from(["", "10.0.0.7", "fd00::1"])),
    st.builds(Probe, ids),
    st.builds(Verdict, ids, st.booleans(), st.booleans(), counts),
    st.just(Leave()),
    st.builds(Refusal, st.integers(400, 499), st.just("foreign_cluster"), st.just("It's another one.")),
)
load_entries = st.builds(LoadEntry, ids, counts, st.builds(Load, counts, counts, counts))
messages = st.builds(
    Message, headers, bodies, st.none() | standings, st.booleans(), st.lists(entries(), max_size=4).map(tuple),
    st.lists(load_entries, max_size=3).map(tuple), st.lists(ids, max_size=3).map(tuple),
)  # fmt: skip

PLAIN = Message(
    Header("astromesh", "a" * 16, "b" * 16, 1, 0, 7, 5, 3),
    Gossip(round=True),
    entries=(Entry("c" * 16, (0, Status.ALIVE), Record("c" * 16, 1, "worker", "http://worker:8000", ("agents",), "ab", "cd")),),
    loads=(LoadEntry("c" * 16, 3, Load(12, 40, 1)),),
)


@given(messages)
def test_what_is_encoded_is_decoded_as_it_was(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise_anything_but_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | ids,
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(messages, st.data())
def test_a_message_with_any_value_in_any_place_is_taken_or_refused(message: Message, data: st.DataObject) -> None:
    raw = json.loads(encode(message))
    places = [(raw, key) for key in raw]
    places += [(row, index) for key in ("entries", "loads", "digests") for row in raw.get(key, ()) for index in range(len(row))]
    holder, place = data.draw(st.sampled_from(places))
    holder[place] = data.draw(JSON)
    try:
        taken = decode(json.dumps(raw).encode("utf-8", "surrogatepass"))
    except Refused as refused:
        assert 400 <= refused.status <= 499  # noqa: PT017  taken or refused, both are right
    else:
        assert decode(encode(taken)) == taken


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_damaged_bytes_are_taken_or_refused(seed: int, damage: int) -> None:
    rng, data = random.Random(seed), bytearray(encode(PLAIN))
    for _ in range(damage):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        decode(bytes(data))
    except Refused as refused:
        assert refused.status == 400  # noqa: PT017


def changed(**values: object) -> bytes:
    return json.dumps(json.loads(encode(PLAIN)) | values).encode()


ROW = ["c" * 16, 0, 0, 1, "worker", "http://worker:8000", ["agents"], "ab", "cd", 0]

POISON = {
    "a string heartbeat": changed(beat="7"),
    "a heartbeat from the far future": changed(beat=4_102_444_800_000),
    "a fraction": changed(beat=1.5),
    "a boolean count": changed(beat=True),
    "no number": encode(PLAIN).replace(b'"beat":7', b'"beat":NaN'),
    "infinity": encode(PLAIN).replace(b'"beat":7', b'"beat":1e999'),
    "a negative incarnation": changed(inc=-1),
    "a number of 5,000 digits": encode(PLAIN).replace(b'"beat":7', b'"beat":' + b"7" * 5000),
    "a version from the future": changed(v=2),
    "a version that is true": changed(v=True),
    "another kind": changed(kind="explode"),
    "a kind that is a list": changed(kind=["gossip"]),
    "an id with capitals": changed(**{"from": "A" * 16}),
    "an id with a line feed": changed(**{"from": "a" * 15 + "\n"}),
    "a cluster with a space": changed(cluster="my cluster"),
    "a short hash": changed(hash="ab"),
    "entries that are no list": changed(entries={"a": 1}),
    "an entry that is too short": changed(entries=[["c" * 16, 0]]),
    "an unknown status": changed(entries=[["c" * 16, 0, 4]]),
    "a wildcard address": changed(entries=[[*ROW[:5], "http://0.0.0.0:8000", *ROW[6:]]]),
    "an IPv6 wildcard": changed(entries=[[*ROW[:5], "http://[::]:8000", *ROW[6:]]]),
    "another scheme": changed(entries=[[*ROW[:5], "file:///etc/passwd", *ROW[6:]]]),
    "an address with a password": changed(entries=[[*ROW[:5], "http://user:pass@worker:8000", *ROW[6:]]]),
    "port zero": changed(entries=[[*ROW[:5], "http://worker:0", *ROW[6:]]]),
    "a port too high": changed(entries=[[*ROW[:5], "http://worker:70000", *ROW[6:]]]),
    "a name with a surrogate": changed(entries=[[*ROW[:4], "\ud800", *ROW[5:]]]),
    "a name with a terminal code": changed(entries=[[*ROW[:4], "\x1b[2J", *ROW[5:]]]),
    "a name of 64 letters": changed(entries=[[*ROW[:4], "n" * 64, *ROW[5:]]]),
    "17 services": changed(entries=[[*ROW[:6], ["agents"] * 17, *ROW[7:]]]),
    "services that are text": changed(entries=[[*ROW[:6], "agents", *ROW[7:]]]),
    "draining that is text": changed(entries=[[*ROW[:9], "no"]]),
    "a load that is a fraction": changed(loads=[["c" * 16, 3, 0.5, 1, 1]]),
    "1,001 entries": changed(entries=[["c" * 16, 0, 0]] * 1001),
    "deep nesting": b'{"v":1,"kind":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "a list": b"[]",
    "nothing": b"",
    "other bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("data", POISON.values(), ids=POISON.keys())
def test_poison_is_refused_with_400(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        decode(data)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 400


def test_a_name_of_50_mb_is_refused_with_413_before_it_is_read() -> None:
    with pytest.raises(Refused) as refused:
        decode(changed(entries=[[*ROW[:4], "n" * 50_000_000, *ROW[5:]]]))
    assert refused.value.status == 413


def test_50_000_invented_members_are_refused_with_413() -> None:
    with pytest.raises(Refused) as refused:
        decode(changed(entries=[[f"{number:016x}", *ROW[1:]] for number in range(50_000)]))
    assert refused.value.status == 413


def test_unknown_keys_are_passed_over() -> None:
    assert decode(changed(colour="blue")) == PLAIN


def test_a_quiet_message_has_a_header_of_at_most_210_bytes() -> None:
    largest = Header("c" * 40, "a" * 16, "b" * 16, 99_999, 99_999, 9_999_999, 2**64 - 1, 5_000)
    assert len(encode(Message(largest, Gossip(round=True)))) <= 210


def test_a_full_entry_stays_under_400_bytes() -> None:
    services = ("agents", "inference", "memory", "tools", "channels", "rag")
    record = Record(
        "c" * 16, 9_999, "a-rather-long-name-of-a-worker-01", "http://worker-01.astromesh.internal:8000", services, "a" * 16, "b" * 12
    )
    entry = Entry(record.node_id, (9, Status.ALIVE), record)
    assert len(entry_json(entry)) < 400
    assert len(entry_json(entry)) <= entry_size(entry)


def test_the_largest_page_of_digests_fits_into_a_message() -> None:
    digests = tuple(Digest(f"{number:016x}", 99_999, (99_999, Status.SUSPECT)) for number in range(1000))
    assert len(encode(Message(PLAIN.header, Sync("a" * 16, "b" * 16, digests), entries=PLAIN.entries))) < MAX_BYTES
