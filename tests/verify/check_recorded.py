"""Checks recorded requests with `verify.py` and the published library: python3 check_recorded.py TOOLS FILE"""

import base64
import json
import sys
from pathlib import Path

from verify import verify_plain, verify_standard

tools, file = map(Path, sys.argv[1:])
sys.path.insert(0, str(tools / "python"))
from standardwebhooks import Webhook, WebhookVerificationError  # noqa: E402


def verify_library(secret, headers, body):
    try:
        return Webhook(secret).verify(body, headers) == json.loads(body)
    except WebhookVerificationError:
        return False


def all_agree(secret, headers, body, wanted):
    for verify in (verify_plain, verify_standard, verify_library):
        got = verify(secret, headers, body)
        assert got is wanted, f"{verify.__name__} says {got}, not {wanted}: {headers}"


FOREIGN = "whsec_" + base64.b64encode(b"somebody else's secret, 32 bytes").decode()
verified = refused = 0
for request in json.loads(file.read_text()):
    headers, body = request["headers"], base64.b64decode(request["body"])
    for secret in request["secrets"]:
        all_agree(secret, headers, body, True)
        verified += 1
        # Four forgeries: the same JSON in other bytes, other JSON, an empty object, and a foreign secret.
        for key, text in ((secret, body + b" "), (secret, body[:-2] + b"1}}"), (secret, b"{}"), (FOREIGN, body)):
            all_agree(key, headers, text, False)
            refused += 1
        old = {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 301)}
        assert not verify_standard(secret, old, body) and not verify_library(secret, old, body), "an old request passed"
print(f"verified {verified}, refused {refused} forgeries")
