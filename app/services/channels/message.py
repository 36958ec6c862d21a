"""What goes in and out of a channel: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Person(NamedTuple):
    """Who is talked with: a sender, at one account (a phone number of ours) of one channel. What they say is one conversation."""

    channel: str
    account: str
    sender: str


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message of a person. ``message_id`` is the platform's; ``text`` is "" where there is nothing to answer (a reaction, say);
    ``details`` go to the agent as ``context.channel``: the person's name, media, what a reply was pressed on."""

    message_id: str
    account: str
    sender: str
    text: str
    kind: str = "text"
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a platform tells of a message that this node sent, named by our own ``token`` or by the platform's id."""

    status: str
    token: str = ""
    provider_id: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook call, read. ``skipped`` says what of it made no sense, for the log."""

    messages: tuple[Inbound, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outbound:
    """One part of an answer. ``token`` is ours and stays the same however often it is sent; ``in_reply_to`` is the platform's id of the
    question; ``template`` stands in for a text that may not be sent any more."""

    token: str
    person: Person
    in_reply_to: str
    text: str
    part: int = 1
    parts: int = 1
    template: bool = False


class NotAcceptedError(Exception):
    """The platform did not take the message: nobody will get it. ``again``: it may be sent once more, after ``after_s`` where the
    platform says so. ``too_late``: only a template may be sent."""

    def __init__(self, message: str, *, again: bool, after_s: float | None = None, too_late: bool = False) -> None:
        super().__init__(message)
        self.again, self.after_s, self.too_late = again, after_s, too_late


class UncertainError(Exception):
    """Whether the platform took the message cannot be known from here: the connection broke after it was sent."""
