"""HMAC-SHA256 over the raw body, as Meta signs its webhooks: ``X-Hub-Signature-256: sha256=<hex>``."""

import hashlib
import hmac
from collections.abc import Mapping

from app.errors import Unauthorized

HEADER = "X-Hub-Signature-256"


def sign(secret: str, raw: bytes) -> str:
    return "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


def check(secret: str, headers: Mapping[str, str], raw: bytes) -> None:
    """Raises Unauthorized for a missing or wrong signature."""
    given = headers.get(HEADER.lower(), "")
    if not given:
        raise Unauthorized(f"The header {HEADER} is missing; sign the body with the channel's secret.")
    if not same(given, sign(secret, raw)):
        raise Unauthorized(
            f"The header {HEADER} is not the signature of this body by the channel's secret; check the secret on both sides."
        )


def same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in constant time; anything may be given."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
