"""Verify a webhook with Python's standard library. `headers` has lower-case names, `body` is the raw bytes."""

import base64
import hashlib
import hmac
import time


def sign(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def verify_plain(secret: str, headers: dict, body: bytes) -> bool:
    """X-Webhook-Signature: hex HMAC of the body, keyed with the secret as it was shown."""
    ours = sign(secret.encode(), body).hex().encode()
    theirs = headers.get("x-webhook-signature", "").encode().split(b",")
    return any(hmac.compare_digest(ours, each) for each in theirs)


def verify_standard(secret: str, headers: dict, body: bytes, tolerance_s: int = 300) -> bool:
    """webhook-signature (Standard Webhooks): also covers the id and the time, so that a replay is detected."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > tolerance_s:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    ours = b"v1," + base64.b64encode(sign(key, f"{id}.{timestamp}.".encode() + body))
    theirs = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(ours, each) for each in theirs)
