"""How much one client may ask: a token bucket and a number of requests at once for each principal, or each address of those without a key.

Only the node at which a client's request arrives counts it; those that it is passed on to do not.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from app.config.limits import Limit, Limits
from app.errors import RateLimited

MAX_ADDRESSES = 10_000
"""Addresses that are remembered: the one not heard of for longest is forgotten first, and begins anew."""


@dataclass(slots=True)
class Account:
    """One client's: ``tokens`` are requests it may make at once, as of ``at`` (loop time); ``running`` are being answered."""

    limit: Limit
    who: str
    tokens: float
    at: float
    running: int = 0

    def take(self, now: float) -> None:
        """Count one more request. Raises RateLimited, and counts nothing then."""
        limit = self.limit
        if limit.concurrent is not None and self.running >= limit.concurrent:
            raise _refusal(f"{self.who} has {self.running} requests at work, the most that it may have (concurrent)", 1.0)
        self.ask(now)
        self.running += 1

    def ask(self, now: float) -> None:
        """Count a question on a WebSocket, which is at work as a whole. Raises RateLimited."""
        limit = self.limit
        if limit.requests_per_minute is not None:
            per_s = limit.requests_per_minute / 60
            self.tokens, self.at = min(limit.depth, self.tokens + (now - self.at) * per_s), now
            if self.tokens < 1:
                told = f"{self.who} may make {limit.requests_per_minute:g} requests a minute, and {limit.depth:g} of them at once"
                raise _refusal(f"{told} (requests_per_minute, burst)", (1 - self.tokens) / per_s)
            self.tokens -= 1

    def give_back(self) -> None:
        """The request is answered."""
        self.running -= 1


class Quota:
    """The accounts of all clients. A principal's own limits take the place of the default ones as a whole."""

    def __init__(self, limits: Limits) -> None:
        self._limits: Mapping[str, Limit] = limits.keys
        self._default = limits.default
        self.enabled = not all(limit.boundless for limit in (self._default, *self._limits.values()))
        self._principals: dict[str, Account] = {}
        self._addresses: OrderedDict[str, Account] = OrderedDict()

    def admit(self, principal: str, address: str, now: float) -> Account:
        """Count a request of a principal ("": of an address) until the account's ``give_back``. Raises RateLimited."""
        account = self._principal(principal, now) if principal else self._address(_network(address), now)
        account.take(now)
        return account

    def _principal(self, name: str, now: float) -> Account:
        if (found := self._principals.get(name)) is None:
            limit = self._limits.get(name, self._default)
            found = self._principals[name] = Account(limit, f"The API key {name}", limit.depth, now)
        return found

    def _address(self, address: str, now: float) -> Account:
        if (found := self._addresses.get(address)) is not None:
            self._addresses.move_to_end(address)
            return found
        if len(self._addresses) >= MAX_ADDRESSES:
            self._forget_one()
        found = self._addresses[address] = Account(self._default, f"The address {address}", self._default.depth, now)
        return found

    def _forget_one(self) -> None:
        """Of those with requests at work none: it would begin anew in the middle of them."""
        for _ in range(len(self._addresses)):
            oldest, account = self._addresses.popitem(last=False)
            if not account.running:
                return
            self._addresses[oldest] = account


def _network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits of an IPv6 address that its network has in common."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _refusal(told: str, wait_s: float) -> RateLimited:
    wait_s = max(wait_s, 0.001)
    headers = {"Retry-After": str(math.ceil(wait_s)), "Retry-After-Ms": str(math.ceil(wait_s * 1000))}
    return RateLimited(f"{told}; ask again in {wait_s:.3g} s, or have spec.api.limits raised.", headers=headers)
