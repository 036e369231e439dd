//! Describes the requests that receivers get, as the `webhooks` of the document.

use serde_json::{Value, json};
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, Paths, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{
    Components, ContentBuilder, KnownFormat, Ref, RefOr, Required, ResponseBuilder, SecurityRequirement,
};

use super::Tags;
use super::examples::{delivered, objects::payload};
use crate::domain::operational_event::OperationalKind::{DeliveryFailed, WebhookSuspended};
use crate::engine::TEST_EVENT;

/// Name of the schema of the body.
const BODY: &str = "DeliveredEvent";

/// Headers of each request: name, pattern, example, description.
const HEADERS: [(&str, &str, &str, &str); 8] = [
    (
        "webhook-id",
        "^evt_[0-9a-v]{26}$",
        "evt_06h2a9h6dto010000000000000",
        "The event's id, the same for every attempt and repetition: a receiver ignores an id that it has seen.",
    ),
    ("webhook-timestamp", "^[0-9]+$", "1795919586", "Seconds since 1970 at the attempt."),
    (
        "webhook-signature",
        "^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*$",
        "v1,zvbj88tBat+tQwRtUYbB6SnuvHrYnWgdY4Tarlj3Q6Y=",
        "Standard Webhooks 1.0.0: the base64 HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`, keyed with the \
         base64-decoded part of the secret after `whsec_`. One signature for each secret that signs, newest first, \
         with one space between two.",
    ),
    (
        "X-Webhook-Signature",
        "",
        "619208653faecbcfbb209aa99d1522a1e7097d23a676d0130c7ce1ab0f35ee9b",
        "The HMAC-SHA256 of the raw body, keyed with the text of the secret, in the `signature.format` of the webhook: \
         `hex`; `prefixed` is `sha256=<hex>`; `timestamped` is `t=<seconds>,v1=<hex>` over `{seconds}.{body}`. While \
         older secrets sign, too, further digests follow after commas.",
    ),
    ("X-Webhook-Event", "", "conversation.created", "The event type."),
    ("X-Webhook-Delivery", "^dlv_[0-9a-v]{26}$", "dlv_06h2a9h6dto010000000001000", "The delivery's id."),
    ("X-Webhook-Attempt", "^[1-9][0-9]*$", "1", "The attempt's number, from 1."),
    (
        "CDN-Loop",
        "",
        "posthaste-a72c42bbba439472",
        "RFC 8586: the engines that the event has passed through, this one last.",
    ),
];

/// Answers of receivers, and what follows.
const ANSWERS: [(&str, &str); 4] = [
    (
        "2XX",
        "The delivery is a success. The answer must come within the webhook's `timeoutMs`, five seconds by default.",
    ),
    ("410", "The delivery has failed, and the webhook is suspended."),
    ("429", "Too many requests: the retry waits as `Retry-After` asks, if that is longer than the schedule."),
    (
        "default",
        "Any other answer, and none in time, is a failure: the delivery is retried as the retry policy says. \
                 Redirects are not followed.",
    ),
];

/// The `webhooks` of the document.
pub(super) fn describe(components: &mut Components) -> Paths {
    components.schemas.insert(BODY.to_owned(), body());
    let described =
        ContentBuilder::new().schema(Some(Ref::from_schema_name(BODY))).examples_from_iter(bodies()).build();
    let content = RequestBodyBuilder::new()
        .description(Some("What was published; signed byte by byte."))
        .content("application/json", described)
        .required(Some(Required::True));
    let operation = OperationBuilder::new()
        .operation_id(Some("receiveEvent"))
        .tag(Tags::RECEIVERS)
        .summary(Some("Receives an event at the URL of a webhook."))
        .description(Some(
            "Sent to every webhook that subscribes to the event type, at least once. The webhook's own `headers` and \
             its `auth` come with it.",
        ))
        .parameters(Some(HEADERS.map(header)))
        .request_body(Some(content.build()))
        .security(SecurityRequirement::default());
    let operation = ANSWERS.into_iter().fold(operation, |operation, (status, what)| {
        operation.response(status, ResponseBuilder::new().description(what))
    });
    PathsBuilder::new().path("event", PathItem::new(HttpMethod::Post, operation)).build()
}

fn header((name, pattern, example, what): (&str, &str, &str, &str)) -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).pattern((!pattern.is_empty()).then_some(pattern));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::True)
        .description(Some(what))
        .schema(Some(text))
        .example(Some(example.into()))
        .build()
}

fn body() -> RefOr<Schema> {
    let text = |what: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(what));
    let time = text("When it happened, as the publisher says; otherwise when it was accepted.")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let data: Object = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .description(Some("What was published."))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)))
        .build();
    let properties = [
        ("id", text("The event's id.").build()),
        ("event", text("The event type.").build()),
        ("timestamp", time.build()),
        ("data", data),
    ];
    let object = ObjectBuilder::new().schema_type(Type::Object);
    properties.into_iter().fold(object, |object, (name, schema)| object.property(name, schema).required(name)).into()
}

/// A published event, a test, and operational events.
fn bodies() -> [(&'static str, RefOr<Example>); 4] {
    const WEBHOOK: &str = "wh_06h2a9h6c9pej3t03npfp03amc";
    let of = |summary: &str, kind: &str, data: Value| -> RefOr<Example> {
        ExampleBuilder::new().summary(summary).value(Some(delivered(kind, data))).build().into()
    };
    let test = json!({"webhookId": WEBHOOK, "message": "This is a test event from Posthaste."});
    let suspended = json!({
        "sequence": 71, "path": format!("/api/v1/webhooks/{WEBHOOK}"), "webhookId": WEBHOOK, "name": "Billing sync",
        "previous": "active", "current": "suspended", "reason": "the receiver answered 410 Gone",
        "failingSince": "2026-11-25T02:33:06.940Z",
    });
    let delivery = "dlv_06h2a9h6dto010000000001000";
    let failed = json!({
        "sequence": 72, "path": format!("/api/v1/deliveries/{delivery}"), "webhookId": WEBHOOK, "name": "Billing sync",
        "deliveryId": delivery, "eventId": "evt_06h2a9h6dto010000000000000", "event": "conversation.created",
        "previous": "pending", "current": "failed", "attempts": 4, "outcome": "rejected", "statusCode": 500,
    });
    [
        ("published", of("A published event", "conversation.created", payload())),
        ("test", of("`POST /webhooks/{id}/test`", TEST_EVENT, test)),
        ("suspended", of("Another webhook is suspended", WebhookSuspended.as_str(), suspended)),
        ("failed", of("A delivery of another webhook has failed", DeliveryFailed.as_str(), failed)),
    ]
}
