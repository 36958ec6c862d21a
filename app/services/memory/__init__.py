"""Conversations: what agents and their users said, by agent, principal and session, in the store that the environment names."""

from app.services.memory.service import Memory

__all__ = ["Memory"]
