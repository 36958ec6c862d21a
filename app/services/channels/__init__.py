"""Conversations with people on messaging platforms: what comes in by webhook is kept, answered by an agent, and the answer delivered."""

from app.services.channels.service import Channels

__all__ = ["Channels"]
