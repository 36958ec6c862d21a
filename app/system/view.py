"""What the node's own paths may see of the node."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from app.config.profile import Profile
from app.membership import Membership
from app.placement import Placement
from app.system.health import Health


@dataclass(frozen=True, slots=True)
class NodeView:
    """``started_at`` is monotonic seconds; ``in_flight`` counts the requests being answered; without mesh there is no membership."""

    name: str
    node_id: str
    profile: Profile
    placement: Placement
    health: Health
    draining: asyncio.Event
    in_flight: Callable[[], int]
    started_at: float
    membership: Membership | None = None
