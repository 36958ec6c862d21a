"""The agents service: agent files, the loop that runs them, and their two faces over HTTP (runs, and chat completions)."""

from app.services.agents.service import Agents

__all__ = ["Agents"]
