"""Conversations: what agents and their users said, by agent, principal and session, in SQLite files of the data directory."""

from app.services.memory.service import Memory

__all__ = ["Memory"]
