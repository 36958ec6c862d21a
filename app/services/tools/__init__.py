"""Tools: what agents may use, each with a JSON Schema of its arguments."""

from app.services.tools.service import Tools

__all__ = ["Tools"]
