"""A webhook receiver with Python's standard library alone: verifies, ignores repetitions, answers at once.

    WEBHOOK_SECRET=whsec_… python3 examples/receiver.py 127.0.0.1:9000

LISTEN may name the address instead. Run it behind a proxy that terminates TLS.
"""

import base64
import hashlib
import hmac
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_S = 300  # Refuses a recorded request that is replayed later.
BODY_LIMIT = 2 * 1024 * 1024  # By default Posthaste accepts 1 MiB; id and timestamp come on top.
REMEMBERED = 10_000  # Ids in memory. A restart forgets them: see `handle_once`.

SECRET = os.environ.get("WEBHOOK_SECRET", "")
KEY = base64.b64decode(SECRET.removeprefix("whsec_"))
if not SECRET.startswith("whsec_") or len(KEY) < 16:
    sys.exit("WEBHOOK_SECRET must be the webhook's signing secret")

seen, lock = OrderedDict(), threading.Lock()  # The last ids, in the order in which they came.


def refusal(headers, body):
    """Checks a request as Standard Webhooks describes it, over the raw body; returns what is wrong with it."""
    id, timestamp, signatures = (headers.get(f"webhook-{name}") for name in ("id", "timestamp", "signature"))
    if not (id and timestamp and signatures):
        return "a header is missing"
    if not timestamp.isdecimal() or len(timestamp) > 20 or abs(int(time.time()) - int(timestamp)) > TOLERANCE_S:
        return "webhook-timestamp is too far from the current time"
    digest = hmac.new(KEY, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    ours = b"v1," + base64.b64encode(digest)
    # During a rotation there is one signature for each secret. `compare_digest` compares in constant time.
    if not any(hmac.compare_digest(ours, theirs) for theirs in signatures.encode().split(b" ")):
        return "no signature in webhook-signature is right"


def handle_once(id, event):
    """Replace this: store the event and its id in one transaction, in which a unique id refuses repetitions even after
    a restart, and do the work later. Answer 500 if it fails; a 204 ends the retries."""
    with lock:
        if id not in seen:
            print(f"handled {id} {event['event']}", flush=True)
            seen[id] = None
            if len(seen) > REMEMBERED:
                seen.popitem(last=False)


class Receiver(BaseHTTPRequestHandler):
    timeout = 5  # Seconds without a byte, after which the connection is closed.

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdecimal() or len(length) > 9 or int(length) > BODY_LIMIT:
            return self.answer(413, "the body is too long, or its length is not known")
        body = self.rfile.read(int(length))
        if reason := refusal(self.headers, body):
            return self.answer(400, reason)
        try:
            handle_once(self.headers["webhook-id"], json.loads(body))
        except Exception:
            traceback.print_exc()
            return self.answer(500, "the event could not be stored")
        self.answer(204)

    def answer(self, status, reason=""):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reason.encode())

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # A stop waits for the requests under way.
    request_queue_size = 128


address = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LISTEN", "127.0.0.1:9000")
host, _, port = address.rpartition(":")
with Server((host, int(port)), Receiver) as server:
    # From another thread: `shutdown` waits for `serve_forever`, which this signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://{host}:{server.server_port}", flush=True)
    server.serve_forever()
