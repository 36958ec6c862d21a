"""Node-to-node authentication by a shared key: who sent this, to whom, and that it was not sent before. No wall clock is asked.

A signature is an HMAC-SHA256 over method, target, sender, receiver, the receiver's nonce, a counter, the headers that peers are believed
for, and the body's digest where the message is whole (a forwarded body streams; its integrity on the wire is TLS's). The receiver hands a
fresh nonce to each sender that it does not know (401, `Node-Challenge`), and takes each counter once, within a window that bears
reordering. So a recorded message is of no use: not twice, not at another node, and not after either of the two restarted. An answer is
signed over the request's own code, so it answers that request alone.
"""

import hashlib
import hmac
import itertools
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.errors import Unauthorized

SCHEME = "Astromesh-HMAC"
CHALLENGE = "Node-Challenge"
ANSWER = "Node-Answer"
WINDOW = 4096
"""How far behind the highest counter seen from a sender one may still be: requests overtake one another on parallel connections."""
KNOWN_SENDERS = 8192
Keys = Callable[[], Sequence[bytes]]
"""The keys now, the first of which signs; asked each time, so that a key file can change under a running node."""
_FIELDS = re.compile(r'(sender|counter|nonce|mac)="([A-Za-z0-9._-]{1,128})"')


class UnknownSender(Unauthorized):
    """The sender is to sign again with the nonce in the challenge; nothing of its request has begun."""

    code = "node_challenge"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a signature covers. ``fields`` are header values by name, ``body`` the whole message or None where it streams."""

    method: str
    target: str
    fields: Mapping[str, str]
    body: bytes | None = None

    def digest_input(self, sender: str, receiver: str, nonce: str, counter: int) -> bytes:
        digest = "-" if self.body is None else hashlib.sha256(self.body).hexdigest()
        parts = ["1", self.method, self.target, sender, receiver, nonce, str(counter), digest]
        parts += [f"{name}={value}" for name, value in sorted(self.fields.items())]
        return "\n".join(part.replace("\\", "\\\\").replace("\n", "\\n") for part in parts).encode()


def mac(key: bytes, covered: bytes) -> str:
    return hmac.new(key, covered, hashlib.sha256).hexdigest()


def _answer_code(key: bytes, authorization: str, body: bytes) -> str:
    """The code of an answer to the request that carried ``authorization``."""
    return mac(key, b"\n".join((b"1 answer", authorization.encode("latin-1"), hashlib.sha256(body).hexdigest().encode())))


class Signer:
    """Signs what this node sends. It learns each receiver's id and nonce from that receiver's challenge."""

    def __init__(self, node_id: str, keys: Keys) -> None:
        self._node_id, self._keys = node_id, keys
        self._counter = itertools.count(1)
        self._met: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def authorization(self, url: str, claim: Claim) -> str:
        """The Authorization value for a request to the node at ``url``; before its first challenge one that only asks for it."""
        receiver, nonce = self._met.get(url, ("", "none"))
        counter = next(self._counter)
        code = mac(self._keys()[0], claim.digest_input(self._node_id, receiver, nonce, counter))
        return f'{SCHEME} sender="{self._node_id}", counter="{counter}", nonce="{nonce}", mac="{code}"'

    def is_answer(self, code: str, authorization: str, body: bytes) -> bool:
        """Whether ``code`` (the header ANSWER) proves that a node with one of the keys gave this body to that request."""
        return bool(sum(hmac.compare_digest(_answer_code(key, authorization, body), code) for key in self._keys()))

    def take_challenge(self, url: str, challenge: str) -> bool:
        """Remember what a challenge says ("receiver nonce"); False for one that is malformed."""
        receiver, _, nonce = challenge.partition(" ")
        if not (re.fullmatch(r"[A-Za-z0-9._-]{1,64}", receiver) and re.fullmatch(r"[0-9a-f]{32}", nonce)):
            return False
        self._met[url] = (receiver, nonce)
        self._met.move_to_end(url)
        if len(self._met) > KNOWN_SENDERS:
            self._met.popitem(last=False)
        return True


@dataclass(slots=True)
class _Window:
    """The counters of one sender that were seen: the highest, and a bit for each of those behind it."""

    nonce: str
    highest: int = 0
    seen: int = 0

    def take(self, counter: int) -> bool:
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = ((self.seen << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self.highest = counter
            return True
        if -ahead >= WINDOW or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


class Verifier:
    """Checks what this node receives, and answers challenges. A sender that was forgotten is challenged anew."""

    def __init__(self, node_id: str, keys: Keys) -> None:
        self._node_id, self._keys = node_id, keys
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def sender(self, authorization: str, claim: Claim) -> str:
        """The id of the node that sent this. Raises UnknownSender with a challenge, or Unauthorized saying what is wrong."""
        found = dict(_FIELDS.findall(authorization))
        if len(found) != 4 or not found["counter"].isdigit() or len(found["counter"]) > 18:
            raise Unauthorized(f"The {SCHEME} authorization is malformed; both nodes must run versions that understand each other.")
        sender, counter = str(found["sender"]), int(found["counter"])
        window = self._windows.get(sender)
        if window is None or window.nonce != found["nonce"]:
            raise self._challenge(sender, window)
        covered = claim.digest_input(sender, self._node_id, window.nonce, counter)
        if not sum(hmac.compare_digest(mac(key, covered), found["mac"]) for key in self._keys()):  # all of them, for constant time
            raise Unauthorized("The mesh key of the sending node is not one of this node's; set the same ASTROMESH_MESH_KEY on both.")
        if not window.take(counter):
            raise Unauthorized("This signed request was seen before; it is not done twice.")
        self._windows.move_to_end(sender)
        return sender

    def answer(self, authorization: str, body: bytes) -> str:
        """The code that proves this node's answer to a request, for the header ANSWER."""
        return _answer_code(self._keys()[0], authorization, body)

    def _challenge(self, sender: str, window: _Window | None) -> UnknownSender:
        if window is None:
            window = self._windows[sender] = _Window(secrets.token_hex(16))
            if len(self._windows) > KNOWN_SENDERS:
                self._windows.popitem(last=False)
        headers = {CHALLENGE: f"{self._node_id} {window.nonce}", "X-Astromesh-Not-Begun": "1"}
        return UnknownSender("This node does not know the sender yet; sign again with the nonce of the challenge.", headers=headers)
