from datetime import UTC, datetime
from typing import Any

import pytest

from app.services.tools.builtin.datetime_now import DatetimeNow
from app.services.tools.tool import ToolError

NOON = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)


async def now(**arguments: str) -> Any:
    return await DatetimeNow(clock=lambda: NOON).run(arguments)


async def test_it_tells_the_time_of_a_zone_with_its_offset() -> None:
    assert await now(timezone="Asia/Tokyo") == {
        "datetime": "2026-03-01T21:00:05+09:00",
        "timezone": "Asia/Tokyo",
        "readable": "Sunday, 1 March 2026, 21:00:05 JST",
    }


async def test_without_a_zone_it_is_utc() -> None:
    assert await now() == {"datetime": "2026-03-01T12:00:05+00:00", "timezone": "UTC", "readable": "Sunday, 1 March 2026, 12:00:05 UTC"}


async def test_its_own_clock_is_the_real_one() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = datetime.fromisoformat((await DatetimeNow().run({"timezone": "America/New_York"}))["datetime"])
    assert before <= told <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("zone", "told"),
    [
        ("asia/tokio", "did you mean Asia/Tokyo"),
        ("Tokyo", "did you mean Asia/Tokyo"),
        ("new york", "did you mean America/New_York"),
        ("Asia", "is no time zone"),
        ("../../etc/passwd", "is no time zone"),
        ("/etc/passwd", "is no time zone"),
        ("UTC\0", "is no time zone"),
        ("\ud800", "is no time zone"),
        ("q" * 64, "take an IANA name such as"),
        (" ", "take an IANA name such as"),
    ],
)
async def test_what_is_no_zone_is_refused_with_the_nearest(zone: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        await now(timezone=zone)
