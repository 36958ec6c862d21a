"""Which time zones a text speaks of: the names of the tz database (cities, some countries), and zone names as they are."""

import re
from functools import cache
from importlib.resources import files

_AREAS = frozenset({"Africa", "America", "Arctic", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"})
_NO_PLACES = frozenset({"factory", "localtime", "posixrules", "universal", "north", "south", "west", "easter"})


def find_zones(text: str) -> list[str]:
    """The zones named in ``text``, each once, in its order: "Tokyo" is Asia/Tokyo, "new york" America/New_York, "UTC" is UTC."""
    words = re.findall(r"\w(?:[\w/+-]*\w)?", text.lower())
    padded = f" {' '.join(words)} "
    found = sorted((at, zone) for name, zone in _zones().items() if (at := padded.find(f" {name} ")) >= 0)
    return list(dict.fromkeys(zone for _, zone in found))


@cache
def _zones() -> dict[str, str]:
    """Lower-case names to zones. Read from the tzdata package: zoneinfo.available_timezones() opens every file of the system's copy."""
    zones: dict[str, str] = {}
    for zone in sorted((files("tzdata") / "zones").read_text("utf-8").split(), key=lambda zone: zone.count("/")):
        place = zone.rpartition("/")[2].replace("_", " ").lower()
        if "/" in zone:
            zones[zone.lower()] = zone
        if zone in ("UTC", "GMT") or (len(place) > 3 and place not in _NO_PLACES and (zone.split("/")[0] in _AREAS or "/" not in zone)):
            zones.setdefault(place, zone)
    return zones
