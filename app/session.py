"""Session ids: which ones are accepted, and the ones that the node makes, which name the store that keeps them."""

import hashlib
import re
import secrets
from collections.abc import Iterable

from app.errors import BadRequest

NO_STORE = "0" * 12
"""What a made session id names where no store is known yet; no store has this id."""
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
_MADE = re.compile(r"s_([0-9a-f]{12})_[0-9a-f]{20}")


def check_session_id(session: str) -> str:
    """The id itself; raises BadRequest for one that is empty, too long, or has characters that a path or a header would not carry."""
    if not _ACCEPTED.fullmatch(session):
        raise BadRequest(
            f"The session id {session[:140]!r} cannot be used; take 1 to 128 letters, digits and ._:@+=-, a letter or digit first.",
            param="session_id",
        )
    return session


def new_session_id(store_id: str) -> str:
    """A fresh id that names ``store_id`` (12 hex digits)."""
    return f"s_{store_id}_{secrets.token_hex(10)}"


def store_of(session: str) -> str | None:
    """The store that an id made by a node names; None for an id that a client brought."""
    match = _MADE.fullmatch(session)
    return match[1] if match else None


def rank_stores(session: str, stores: Iterable[str]) -> list[str]:
    """Stores in the order in which they are asked for a session: the one that it names, then by rendezvous hash (Thaler and Ravishankar
    1998), so that every node gives the same order without agreement."""
    named = store_of(session)
    return sorted(stores, key=lambda store: (store != named, hashlib.blake2b(f"{session}\0{store}".encode(), digest_size=8).digest()))
