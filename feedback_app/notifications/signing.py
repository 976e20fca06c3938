"""The signature of what we send: HMAC-SHA256 over the moment of sending and the body, so that neither can be changed.

A receiver computes the same from the headers and the raw body, compares in constant time, and refuses what is older
than a few minutes: then an intercepted message cannot be sent again.
"""

import hashlib
import hmac

TIMESTAMP_HEADER = "X-RLHF-Timestamp"
SIGNATURE_HEADER = "X-RLHF-Signature"
EVENT_HEADER = "X-RLHF-Event"
KIND_HEADER = "X-RLHF-Kind"


def signature_of(*, secret: str, timestamp: str, body: bytes) -> str:
    """Return "sha256=" and the hexadecimal HMAC of timestamp, a point, and the body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"
