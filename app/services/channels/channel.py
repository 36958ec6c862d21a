"""What a messaging platform has to bring to be a channel: one file with one class. Everything that must not be lost is not its business."""

from collections.abc import Mapping
from typing import Any, Protocol

from app.services.channels.message import Delivery, Inbound, Outbound


class Channel(Protocol):
    """Constructed from its section of the file, which the schema of its type has checked, and the HTTP client; that does no I/O.

    ``window_s`` is how long after a person's last message free text may be sent to them, None for ever; ``has_template`` whether there
    is something to send after that.
    """

    @property
    def max_chars(self) -> int: ...
    @property
    def window_s(self) -> float | None: ...
    @property
    def has_template(self) -> bool: ...

    def handshake(self, query: Mapping[str, str]) -> str:
        """The body that answers a GET of the webhook. Raises Forbidden, or MethodNotAllowed where the platform knows no such thing."""
        ...

    def verify(self, headers: Mapping[str, str], raw: bytes) -> None:
        """Raises Unauthorized unless the platform itself wrote this body. Header names are lower case."""
        ...

    def read(self, body: Any) -> Delivery:
        """What is in a verified body of any shape. Raises InvalidBody only where whoever sent it will mend it, and sends it again."""
        ...

    async def send(self, message: Outbound) -> str:
        """Deliver it and return the platform's id for it. Raises NotAcceptedError or UncertainError."""
        ...

    async def attend(self, message: Inbound) -> None:
        """Show the person that the message was read and is being answered, where the platform can. Raises what ``send`` raises."""
        ...
