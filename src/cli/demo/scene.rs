//! The demo's sample data: a tenant with a key, a webhook for every sample receiver, and events of a support desk.

use serde_json::{Value, json};

use crate::cli::CliError;

use super::client::{Client, text};
use super::receivers::{Receivers, SAMPLES};

/// The sample whose delivery the printed retry command names: its deliveries fail.
const FAILING: &str = "Refused";

/// The event types that are published, in a cycle. The first one goes to [`FAILING`].
const KINDS: [&str; 12] = [
    "message.received",
    "conversation.created",
    "customer.created",
    "message.sent",
    "call.initiated",
    "user.created",
    "conversation.assigned",
    "message.received",
    "customer.updated",
    "call.completed",
    "user.updated",
    "conversation.closed",
];

/// The created objects and the ids that the printed commands name.
pub(super) struct Scene {
    pub(super) tenant_id: String,
    pub(super) tenant_key: String,
    /// Ids of the webhooks, in the order of [`SAMPLES`].
    pub(super) webhook_ids: Vec<String>,
    pub(super) delivery_id: String,
    publisher: Client,
}

impl Scene {
    /// Creates tenant, key and webhooks, and publishes the first event.
    pub(super) async fn set(admin: &Client, receivers: &Receivers) -> Result<Self, CliError> {
        let tenant = admin.post("/tenants", &json!({"name": "Demo"})).await?;
        let tenant_id = text(&tenant, "id")?;
        let wanted = json!({"name": "demo", "scopes": ["read", "publish", "manage", "operate"]});
        let tenant_key = text(&admin.post(&format!("/tenants/{tenant_id}/keys"), &wanted).await?, "key")?;
        let publisher = admin.with_key(&tenant_key);
        let mut webhook_ids = Vec::with_capacity(SAMPLES.len());
        for sample in &SAMPLES {
            let wanted = json!({
                "name": sample.name,
                "description": format!("A sample receiver that {}.", sample.does),
                "url": receivers.url(sample),
                "events": sample.events,
            });
            webhook_ids.push(text(&publisher.post("/webhooks", &wanted).await?, "id")?);
        }
        let event = publish(&publisher, 0).await?;
        let deliveries = publisher.get(&format!("/events/{}/deliveries", text(&event, "id")?)).await?;
        let delivery_id = failing_delivery(&deliveries, &webhook_ids)?;
        Ok(Self { tenant_id, tenant_key, webhook_ids, delivery_id, publisher })
    }

    /// Publishes event `number`, counted from zero.
    pub(super) async fn publish(&self, number: usize) -> Result<(), CliError> {
        publish(&self.publisher, number).await.map(drop)
    }
}

fn failing_delivery(deliveries: &Value, webhook_ids: &[String]) -> Result<String, CliError> {
    let failing = SAMPLES.iter().zip(webhook_ids).find(|(sample, _)| sample.name == FAILING).map(|(_, id)| id);
    let all = deliveries["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = all.iter().find(|delivery| delivery["webhookId"].as_str() == failing.map(String::as_str));
    text(wanted.unwrap_or(&Value::Null), "id")
}

async fn publish(publisher: &Client, number: usize) -> Result<Value, CliError> {
    let event = KINDS[number % KINDS.len()];
    let round = number / KINDS.len() + 1;
    let data = match event.split_once('.').map_or(event, |(subject, _)| subject) {
        "message" => json!({"conversation": round, "text": "Where is my parcel?"}),
        "conversation" => json!({"conversation": round, "customer": "Ada"}),
        "customer" | "user" => json!({"name": "Ada", "email": "ada@example.com"}),
        _ => json!({"call": round, "from": "+49 30 5550100"}),
    };
    publisher.post("/events", &json!({"event": event, "data": data})).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_goes_to_the_receiver_whose_delivery_is_retried() {
        let failing = SAMPLES.iter().find(|sample| sample.name == FAILING).unwrap();
        assert!(failing.events.contains(&KINDS[0]));
    }

    #[test]
    fn every_receiver_hears_of_some_event() {
        for sample in &SAMPLES {
            let hears = |kind: &&str| {
                sample.events.iter().any(|wanted| kind.starts_with(wanted.strip_suffix('*').unwrap_or(wanted)))
            };
            assert!(KINDS.iter().any(hears), "{}", sample.name);
        }
    }
}
