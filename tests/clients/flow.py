"""Creates a webhook, publishes, reads and replays with a client that is generated from the OpenAPI document.

Arguments: URL of the server, admin key, URL of a receiver.
"""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from posthaste_client import AuthenticatedClient
from posthaste_client.api.events import publish_event, read_event
from posthaste_client.api.operations import read_operation, replay_webhook
from posthaste_client.api.tenants import create_key, create_tenant
from posthaste_client.api.webhooks import create_webhook, read_webhook_log
from posthaste_client.models import (
    DeliveryStatus,
    Event,
    EventInput,
    EventInputData,
    KeyInput,
    NewKey,
    Operation,
    OperationState,
    Outcome,
    PageDelivery,
    Problem,
    PublishedEvent,
    ReplayInput,
    Scope,
    Tenant,
    TenantInput,
    WebhookInput,
    WebhookWithSecret,
)

T = TypeVar("T")


def expect(kind: type[T], answer: object) -> T:
    if not isinstance(answer, kind):
        raise SystemExit(f"expected {kind.__name__}, got {answer!r}")
    return answer


def until(what: str, look: Callable[[], T | None]) -> T:
    for _ in range(100):
        found = look()
        if found is not None:
            return found
        time.sleep(0.1)
    raise SystemExit(f"{what} did not happen")


def main(url: str, admin_key: str, receiver: str) -> None:
    admin = AuthenticatedClient(base_url=url, token=admin_key)
    tenant = expect(Tenant, create_tenant.sync(client=admin, body=TenantInput(name="Python")))
    scopes = [Scope.READ, Scope.PUBLISH, Scope.MANAGE, Scope.OPERATE]
    key = expect(NewKey, create_key.sync(tenant.id, client=admin, body=KeyInput(name="client", scopes=scopes)))
    api = AuthenticatedClient(base_url=url, token=key.key)

    wanted = WebhookInput(name="generated", url=receiver, events=["message.*"])
    created = create_webhook.sync(client=api, body=wanted, idempotency_key="python-1")
    webhook = expect(WebhookWithSecret, created)
    assert webhook.secret.startswith("whsec_")

    data = EventInputData.from_dict({"n": 1})
    published = expect(PublishedEvent, publish_event.sync(client=api, body=EventInput(event="message.sent", data=data)))

    def delivered() -> Event | None:
        event = expect(Event, read_event.sync(published.id, client=api))
        return event if event.progress.success == 1 else None

    event = until("the delivery", delivered)
    assert event.data is not None and event.data["n"] == 1, event

    log = read_webhook_log.sync(webhook.id, client=api, status=DeliveryStatus.SUCCESS, limit=1)
    attempt = expect(PageDelivery, log).data[0].last_attempt
    assert attempt is not None and attempt.outcome == Outcome.SUCCESS, attempt

    wish = ReplayInput(status=DeliveryStatus.SUCCESS)
    replay = expect(Operation, replay_webhook.sync(webhook.id, client=api, body=wish))

    def done() -> Operation | None:
        operation = expect(Operation, read_operation.sync(replay.id, client=api))
        return operation if operation.state == OperationState.DONE else None

    assert until("the replay", done).success == 1

    refused = expect(Problem, create_webhook.sync(client=api, body=WebhookInput(name="", url=receiver, events=["*"])))
    assert refused.code == "validation_failed", refused
    print("Python: created, published, read, replayed")


if __name__ == "__main__":
    main(*sys.argv[1:4])
