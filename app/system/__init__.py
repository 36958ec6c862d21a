"""The node's own paths: health, readiness, status, doctor."""
