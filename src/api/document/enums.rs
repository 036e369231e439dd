//! Texts with a fixed set of values. Each set is a schema of its own, to which every place refers: a generated client
//! then has one type for it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use utoipa::openapi::schema::{ArrayItems, Object, ObjectBuilder, OneOf, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Ref, RefOr};

use crate::api::scope::Scope;
use crate::api::{backlogs, deliveries, events, explain, webhooks};
use crate::domain::operation::{Kind, OperationState};
use crate::domain::outcome::OutcomeKind;
use crate::store::audit::Action;

/// A named set of values.
pub(super) struct Enumeration {
    name: &'static str,
    values: Vec<&'static str>,
}

/// The schemas of the sets that the document refers to.
pub(super) type Named = BTreeMap<String, RefOr<Schema>>;

/// The set that a property with this name takes its values from. `siblings`, the properties beside it, tell apart
/// texts of the same name.
pub(super) fn of_property(name: &str, siblings: &BTreeSet<String>) -> Option<Enumeration> {
    let beside = |name: &str| siblings.contains(name);
    let (name, values) = match name {
        "action" => ("AuditAction", Action::ALL.iter().map(|action| action.as_str()).collect()),
        "outcome" => ("Outcome", OutcomeKind::ALL.iter().map(|kind| kind.as_str()).collect()),
        "trigger" => ("AttemptTrigger", deliveries::triggers().into()),
        "status" if siblings.len() == 1 => ("HealthStatus", vec!["ok"]),
        "status" if beside("eventId") || beside("ratePerSecond") => ("DeliveryStatus", deliveries::statuses().into()),
        "kind" if beside("ratePerSecond") => ("OperationKind", Kind::ALL.iter().map(|kind| kind.as_str()).collect()),
        "state" if beside("ratePerSecond") => {
            ("OperationState", OperationState::ALL.iter().map(|state| state.as_str()).collect())
        }
        "scopes" => ("Scope", Scope::ALL.iter().map(|scope| scope.as_str()).collect()),
        "state" if beside("consecutiveFailures") => ("BreakerState", vec!["closed", "open", "half_open"]),
        "state" if beside("webhookId") || beside("changed") || beside("trouble") => {
            ("EndpointState", backlogs::states().into())
        }
        "kind" if beside("since") => ("TroubleKind", webhooks::troubles().into()),
        "code" if beside("message") && siblings.len() == 2 => ("PublishWarningCode", events::WARNINGS.into()),
        "reason" if beside("clause") => ("ExplainReason", explain::REASONS.into()),
        "config" => ("ExplainConfig", vec!["then", "now"]),
        "status" if beside("id") && siblings.len() == 2 => ("DeliveryStatus", deliveries::statuses().into()),
        "backoffStrategy" => ("BackoffStrategy", vec!["exponential", "linear", "schedule"]),
        "format" => ("SignatureFormat", vec!["hex", "prefixed", "timestamped"]),
        "type" if beside("tokenUrl") && beside("password") => ("AuthType", vec!["basic", "bearer", "oauth2"]),
        "tokenEndpointAuthMethod" => ("TokenEndpointAuthMethod", vec!["client_secret_basic", "client_secret_post"]),
        "source" => ("AdminKeySource", vec!["configuration", "database"]),
        "what" => ("SealedKind", vec!["headers", "credentials", "secrets", "answers"]),
        _ => return None,
    };
    Some(Enumeration { name, values })
}

/// The set that a query parameter with this name takes its value from.
pub(super) fn of_parameter(name: &str, lists_webhooks: bool) -> Option<Enumeration> {
    match name {
        "sort" if lists_webhooks => {
            Some(Enumeration { name: "WebhookOrder", values: vec!["created", "name", "trouble"] })
        }
        "state" if lists_webhooks => Some(Enumeration { name: "EndpointState", values: backlogs::states().into() }),
        "sort" | "by" => Some(Enumeration { name: "BacklogOrder", values: vec!["oldest", "depth"] }),
        "status" => Some(Enumeration { name: "DeliveryStatus", values: deliveries::statuses().into() }),
        _ => of_property(name, &BTreeSet::new()),
    }
}

impl Enumeration {
    /// Restricts a text, or the texts in a list, to the set.
    pub(super) fn restrict(self, schema: &mut RefOr<Schema>, named: &mut Named) {
        match schema {
            RefOr::T(Schema::Object(text)) if is(text, &Type::String) => {
                let reference = self.reference(text);
                named.entry(self.name.to_owned()).or_insert_with(|| self.schema());
                *schema = reference;
            }
            RefOr::T(Schema::Array(list)) => {
                if let ArrayItems::RefOrSchema(items) = &mut list.items {
                    self.restrict(items, named);
                }
            }
            RefOr::T(_) | RefOr::Ref(_) => {}
        }
    }

    /// What stands for the text from now on: the set, or null if the text may be null.
    fn reference(&self, text: &mut Object) -> RefOr<Schema> {
        let mut reference = Ref::from_schema_name(self.name);
        let (description, default) = (text.description.take(), text.default.take());
        if is(text, &Type::Null) {
            let null = ObjectBuilder::new().schema_type(Type::Null);
            return OneOfBuilder::from(OneOf::new())
                .item(reference)
                .item(null)
                .description(description)
                .default(default)
                .into();
        }
        reference.description = description.unwrap_or_default();
        reference.default = default;
        reference.into()
    }

    fn schema(&self) -> RefOr<Schema> {
        let values = self.values.iter().copied().map(Value::from);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values)).into()
    }
}

fn is(text: &Object, wanted: &Type) -> bool {
    match &text.schema_type {
        SchemaType::Type(one) => one == wanted,
        SchemaType::Array(several) => several.contains(wanted),
        SchemaType::AnyValue => false,
    }
}
