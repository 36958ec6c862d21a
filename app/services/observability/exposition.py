"""The node's metrics as text: in the Prometheus format that the asker prefers."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics and their content type, chosen by an Accept header; a header that makes no sense gets the plainest format."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # prometheus-client 0.26 compares version=abc with numbers
        encode, content_type = choose_encoder("")
    return encode(registry), content_type
