"""What the profile's ``spec.inference`` may hold; the defaults stand here alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Configuration:
    """Times are seconds, and a request's own deadline always bounds them too.

    A model that reads a long prompt says nothing meanwhile, so the first token is given longer than what follows; an answer that is
    not streamed shows no progress at all and gets the time of a whole request.
    """

    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 120.0
    idle_timeout_s: float = 60.0
    answer_timeout_s: float = 600.0
    health_check_interval_s: float = 30.0
    fallbacks: tuple[str, ...] = ()
    agent_files: bool = False  # set by the node, not by a profile


def configure(section: Mapping[str, Any]) -> Configuration:
    """Read a section that the profile's schema has checked."""
    return Configuration(**{**section, "fallbacks": tuple(section.get("fallbacks", ()))})
