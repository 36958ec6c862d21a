"""Messages as bytes: JSON with a version field. Every field is checked by hand against its bounds; what does not fit is Refused whole.

Entries, loads and digests are arrays, since they are what there is many of. An entry is [id, incarnation, status], or with its record
[.., version, name, url, [service..], catalogue, store, draining]; a load is [id, heartbeat, cpu, memory, requests]; a digest [id, version,
incarnation, status]. Unknown keys are passed over: a newer node may say more.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NoReturn, TypeVar

from app.errors import NodeError
from app.mesh.members import Load, Record, Standing, Status
from app.mesh.messages import Body, Digest, Entry, Gossip, Header, Join, Leave, LoadEntry, Message, Page, Probe, Refusal, Sync, Verdict

VERSION = 1
MAX_BYTES = 65_536
MAX_COUNTER = 2**31 - 1  # no clock fits in it: a heartbeat is a count
MAX_ENTRIES, MAX_DIGESTS, MAX_SERVICES = 1_000, 2_000, 16

_ID = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{0,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_URL = re.compile(rf"https?://(\[[0-9A-Fa-f:.]{{2,45}}\]|{_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?(?:/[A-Za-z0-9._~/-]{{0,60}})?")
_STATUSES = tuple(Status)

_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)

T = TypeVar("T")


class Refused(NodeError):
    """A message that is malformed, oversized, or foreign. It changed nothing."""

    status, code, type = 400, "mesh_message_refused", "invalid_request_error"

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def _refuse(what: str, value: object, remedy: str) -> NoReturn:
    raise Refused(f"Mesh message refused: {what} is {repr(value)[:80]}; it must be {remedy}.")


# ---- out


def encode(message: Message) -> bytes:
    text = _head(message)
    if message.entries:
        text += ',"entries":[' + ",".join([entry_json(each) for each in message.entries]) + "]"
    if message.loads:
        text += ',"loads":[' + ",".join([load_json(each) for each in message.loads]) + "]"
    return (text + "}").encode()


def entry_json(entry: Entry) -> str:
    standing = f'["{entry.node_id}",{entry.standing[0]},{int(entry.standing[1])}'
    return standing + (f",{_record_json(entry.record)}]" if entry.record else "]")


def load_json(entry: LoadEntry) -> str:
    load = entry.load
    return f'["{entry.node_id}",{entry.heartbeat},{load.cpu_percent},{load.memory_percent},{load.active_requests}]'


def entry_size(entry: Entry) -> int:
    """In bytes, with the comma after it; a little more than it is."""
    return 32 + (len(_record_json(entry.record)) if entry.record else 0)


def _record_json(record: Record) -> str:
    return _known(record)[1]


@lru_cache(maxsize=8_192)
def _known(record: Record) -> tuple[Record, str]:
    """The one object for equal records, so that they are found again by identity, and its JSON without the brackets."""
    fields = (
        record.version, record.name, record.url, record.services, record.catalogue_hash, record.store_id, int(record.draining),
    )  # fmt: skip
    return record, _JSON.encode(fields)[1:-1]


def _head(message: Message) -> str:
    header = message.header
    head = f'{{"v":{VERSION},"kind":"{message.kind}","cluster":{_quoted(header.cluster)},"from":"{header.sender}"'
    if header.to:
        head += f',"to":"{header.to}"'
    head += f',"ver":{header.version},"inc":{header.incarnation},"beat":{header.heartbeat}'
    head += f',"hash":"{header.view_hash:016x}","n":{header.count}'
    if message.accused:
        head += f',"accused":[{message.accused[0]},{int(message.accused[1])}]'
    if message.unreachable:
        head += ',"unreachable":1'
    if message.want:
        head += f',"want":{_JSON.encode(message.want)}'
    body = _body_head(message.body)
    return f"{head},{_JSON.encode(body)[1:-1]}" if body else head


@lru_cache(maxsize=16)
def _quoted(cluster: str) -> str:
    return _JSON.encode(cluster)


def _body_head(body: Body) -> dict[str, Any]:
    match body:
        case Gossip(round=is_round):
            return {"round": 1} if is_round else {}
        case Join(dialed=dialed):
            return {"dialed": dialed}
        case Sync(start=start, upto=upto):
            return {"start": start, "upto": upto, "digests": [(each.node_id, each.version, *each.standing) for each in body.digests]}
        case Page(next=following, seen_as=seen_as):
            return {"next": following, "seen_as": seen_as}
        case Probe(target=target):
            return {"target": target}
        case Verdict(target=target):
            return {"target": target, "reached": int(body.reached), "heard": int(body.heard), "found": body.incarnation}
        case Refusal(status=status):
            return {"status": status, "code": body.code, "reason": body.reason}
        case _:
            return {}


# ---- in


def decode(data: bytes) -> Message:
    """The message in ``data``. Raises Refused (400, or 413 for one that is too large) and nothing else, whatever the bytes are."""
    if len(data) > MAX_BYTES:
        raise Refused(f"Mesh message refused: it has {len(data)} bytes; at most {MAX_BYTES} are taken.", status=413)
    try:
        raw = _PARSER.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"Mesh message refused: it is no JSON ({str(error)[:80]}).") from error
    if type(raw) is not dict:
        _refuse("it", raw, "a JSON object")
    if raw.get("v") != VERSION or type(raw["v"]) is not int:
        _refuse("v", raw.get("v"), f"{VERSION}, the version that this node speaks")
    return Message(
        header=_header(raw),
        body=_body(raw),
        accused=_accused(raw["accused"]) if "accused" in raw else None,
        unreachable=_flag(raw, "unreachable"),
        entries=_each(raw, "entries", _entry, MAX_ENTRIES),
        loads=_each(raw, "loads", _load, MAX_ENTRIES),
        want=_each(raw, "want", _id, MAX_DIGESTS),
    )


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_PARSER = json.JSONDecoder(parse_constant=_constant)


def _header(raw: dict[str, Any]) -> Header:
    view_hash = _text(raw, "hash", _HASH)
    return Header(
        cluster=_text(raw, "cluster", _NAME),
        sender=_id(raw.get("from")),
        to=_id(raw["to"]) if "to" in raw else "",
        version=_count(raw.get("ver"), "ver"),
        incarnation=_count(raw.get("inc"), "inc"),
        heartbeat=_count(raw.get("beat"), "beat"),
        view_hash=int(view_hash, 16) if len(view_hash) == 16 else _refuse("hash", view_hash, "16 hex digits"),
        count=_count(raw.get("n"), "n"),
    )


def _body(raw: dict[str, Any]) -> Body:
    kind = raw.get("kind")
    parse = _BODIES.get(kind) if type(kind) is str else None
    if parse is None:
        _refuse("kind", kind, "one of " + ", ".join(_BODIES))
    return parse(raw)


def _sync(raw: dict[str, Any]) -> Sync:
    start, upto = _edge(raw, "start"), _edge(raw, "upto")
    return Sync(start, upto, _each(raw, "digests", _digest, MAX_DIGESTS))


def _verdict(raw: dict[str, Any]) -> Verdict:
    return Verdict(_id(raw.get("target")), _flag(raw, "reached"), _flag(raw, "heard"), _count(raw.get("found"), "found"))


def _refusal(raw: dict[str, Any]) -> Refusal:
    status = _count(raw.get("status"), "status")
    if not 400 <= status <= 499:
        _refuse("status", status, "from 400 to 499")
    return Refusal(status, _text(raw, "code", _SERVICE), _plain(raw, "reason", 500))


_BODIES: dict[str, Callable[[dict[str, Any]], Body]] = {
    "gossip": lambda raw: Gossip(_flag(raw, "round")),
    "join": lambda raw: Join(_url(raw.get("dialed"), "dialed")),
    "sync": _sync,
    "page": lambda raw: Page(_edge(raw, "next"), _plain(raw, "seen_as", 64)),
    "probe": lambda raw: Probe(_id(raw.get("target"))),
    "verdict": _verdict,
    "leave": lambda raw: Leave(),
    "refusal": _refusal,
}


def _each(raw: dict[str, Any], key: str, parse: Callable[[Any], T], most: int) -> tuple[T, ...]:
    values = raw.get(key)
    if values is None:
        return ()
    if type(values) is not list or len(values) > most:
        _refuse(key, values, f"a list of at most {most}")
    return tuple([parse(each) for each in values])


def _entry(raw: Any) -> Entry:
    if type(raw) is not list or len(raw) not in (3, 10):
        _refuse("an entry", raw, "a list of 3 or 10 values")
    standing = (_count(raw[1], "an incarnation"), _status(raw[2]))
    if len(raw) == 3:
        return Entry(_id(raw[0]), standing)
    record = _record(raw)
    return Entry(record.node_id, standing, record)


def _record(raw: list[Any]) -> Record:
    """Numbers and lists are checked here, since 1, 1.0 and True are one key; texts equal nothing but texts, and are checked once."""
    node_id, _, _, version, name, url, services, catalogue, store, draining = raw
    if type(draining) is not int or draining not in (0, 1):
        _refuse("draining", draining, "0 or 1")
    if type(services) is not list or len(services) > MAX_SERVICES:
        _refuse("services", services, f"a list of at most {MAX_SERVICES} names")
    try:
        return _checked_record(node_id, _count(version, "a version"), name, url, tuple(services), catalogue, store, draining == 1)
    except TypeError:  # a list or an object, which has no hash
        _refuse("an entry", raw, "texts and numbers, and one list of services")


@lru_cache(maxsize=8_192)
def _checked_record(
    node_id: str, version: int, name: str, url: str, services: tuple[str, ...], catalogue: str, store: str, draining: bool
) -> Record:
    _id(node_id)
    _match("a name", name, _NAME, "1 to 63 letters, digits and ._-")
    if url != "":
        _url(url, "a url")
    for each in services:
        _match("a service", each, _SERVICE, "a word of at most 32 letters")
    for each in (catalogue, store):
        _match("a hash", each, _HASH, "at most 64 hex digits")
    return _known(Record(node_id, version, name, url, services, catalogue, store, draining))[0]


def _match(what: str, value: object, pattern: re.Pattern[str], remedy: str) -> None:
    if type(value) is not str or not pattern.fullmatch(value):
        _refuse(what, value, remedy)


def _load(raw: Any) -> LoadEntry:
    if type(raw) is not list or len(raw) != 5:
        _refuse("a load", raw, "a list of 5 values")
    numbers = [_count(each, "a load") for each in raw[1:]]
    return LoadEntry(_id(raw[0]), numbers[0], Load(*numbers[1:]))


def _digest(raw: Any) -> Digest:
    if type(raw) is not list or len(raw) != 4:
        _refuse("a digest", raw, "a list of 4 values")
    return Digest(_id(raw[0]), _count(raw[1], "a version"), (_count(raw[2], "an incarnation"), _status(raw[3])))


def _accused(raw: Any) -> Standing:
    if type(raw) is not list or len(raw) != 2:
        _refuse("accused", raw, "a list of incarnation and status")
    return (_count(raw[0], "an incarnation"), _status(raw[1]))


def _id(value: Any) -> str:
    if type(value) is not str or not _ID.fullmatch(value):
        _refuse("a node id", value, "16 hex digits")
    return value


def _edge(raw: dict[str, Any], key: str) -> str:
    """A node id, or empty for the first or the last."""
    return _id(raw[key]) if raw.get(key) else ""


def _status(value: Any) -> Status:
    if type(value) is not int or not 0 <= value < len(_STATUSES):
        _refuse("a status", value, "0 (alive), 1 (suspect), 2 (dead) or 3 (left)")
    return _STATUSES[value]


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNTER:
        _refuse(what, value, f"a whole number from 0 to {MAX_COUNTER}")
    return value


def _flag(raw: dict[str, Any], key: str) -> bool:
    value = raw.get(key, 0)
    if type(value) is not int or value not in (0, 1):
        _refuse(key, value, "0 or 1")
    return value == 1


def _text(raw: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = raw.get(key)
    if type(value) is not str or not pattern.fullmatch(value):
        _refuse(key, value, f"text like {pattern.pattern}")
    return value


def _plain(raw: dict[str, Any], key: str, most: int) -> str:
    value = raw.get(key, "")
    if type(value) is not str or len(value) > most or (value and not value.isprintable()):
        _refuse(key, value, f"at most {most} printable characters")
    return value


def _is_somewhere(host: str) -> bool:
    """A name, or an address that somebody can have: one in brackets, and one of digits and dots, must be an IP address."""
    if not host.startswith("[") and not host.replace(".", "").isdigit():
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return not address.is_unspecified and (address.version == 6) is host.startswith("[")


def _url(value: Any, what: str) -> str:
    found = _URL.fullmatch(value) if type(value) is str and len(value) <= 200 else None
    if found is None or not 0 < int(found[2] or 80) <= 65_535 or not _is_somewhere(found[1]):
        _refuse(what, value, "the http or https URL of one reachable node, like http://worker:8000")
    return str(value)
