"""``datetime_now``: the time of day in an IANA time zone."""

import difflib
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

from app.services.tools.tool import ToolError

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class DatetimeNow:
    """Answers {datetime: ISO 8601 with offset, timezone, readable}; the clock is an argument for tests."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    name: ClassVar[str] = "datetime_now"
    description: ClassVar[str] = "The current date and time in a time zone."
    parameters: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "timezone": {
                "type": "string",
                "minLength": 1,
                "maxLength": 64,
                "default": "UTC",
                "description": "IANA name of the time zone, such as Asia/Tokyo or Europe/Berlin; UTC if left out.",
            }
        },
    }

    async def run(self, arguments: Mapping[str, Any]) -> Any:
        name = arguments.get("timezone", "UTC")
        now = self.clock().astimezone(_zone(name))
        # English whatever the locale; strftime would follow it.
        readable = f"{_DAYS[now.weekday()]}, {now.day} {_MONTHS[now.month - 1]} {now.year}, {now:%H:%M:%S} {now.tzname()}"
        return {"datetime": now.isoformat(timespec="seconds"), "timezone": name, "readable": readable}


def _zone(name: str) -> tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # a path outside, a folder ("Asia"), a NUL: not zones either
        raise ToolError(f"{name!r} is no time zone; {_nearest(name)}.") from None


def _nearest(name: str) -> str:
    """The zones that a person may have meant, by their whole name or their last part ("tokyo", "Tokio", "asia/tokyo")."""
    names: dict[str, str] = {}
    for zone in sorted(zoneinfo.available_timezones(), key=lambda zone: zone.startswith("Etc/")):
        names.setdefault(zone.lower(), zone)
        names.setdefault(zone.lower().rpartition("/")[2], zone)
    wanted = name.lower().replace(" ", "_")
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.7)
    meant = list(dict.fromkeys(names[each] for each in close))
    return f"did you mean {' or '.join(meant)}?"[:-1] if meant else "take an IANA name such as Asia/Tokyo, Europe/Berlin or UTC"
