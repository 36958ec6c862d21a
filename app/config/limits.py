"""``spec.api.limits``: how much each client of the node may ask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Limit:
    """Of one client; None: no limit. ``burst`` are the requests that it may make at once after a rest; None: those of one second."""

    requests_per_minute: float | None = None
    burst: int | None = None
    concurrent: int | None = None

    @property
    def depth(self) -> float:
        """Requests that a full bucket holds, at least one."""
        return max(1.0, (self.requests_per_minute or 0) / 60) if self.burst is None else float(self.burst)

    @property
    def boundless(self) -> bool:
        return self.requests_per_minute is None and self.concurrent is None


@dataclass(frozen=True, slots=True)
class Limits:
    """``default`` is for each key, and for each address of callers without a key; ``keys`` are the keys' own, by name."""

    default: Limit = Limit()
    keys: Mapping[str, Limit] = field(default_factory=dict)


NO_LIMITS = Limits()


def limits(section: Mapping[str, Any]) -> Limits:
    """From a checked section."""
    return Limits(Limit(**section.get("default", {})), {name: Limit(**each) for name, each in section.get("keys", {}).items()})


def strangers(given: Limits, names: Sequence[str]) -> list[str]:
    """Sentences for a person: limits of keys that there are none of, among those of these ``names``."""
    there = f"the keys here are {', '.join(names)}" if names else "no API key is set here"
    return [f"spec.api.limits.keys.{name} has no effect: {there}." for name in given.keys if name not in names]
