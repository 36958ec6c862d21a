"""What a node tells of itself to those who watch it."""

from app.services.observability.service import Observability

__all__ = ["Observability"]
