//! All operations of the OpenAPI document, with everything that a call needs. A new route is covered as soon as it is
//! in the document; otherwise a test fails and says what is missing here.

use reqwest::Method;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::support::client::{Client, send};
use crate::support::fact;
use crate::support::world::text;

/// The kind of object that an id in a path or a query names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tenant,
    Key,
    AdminKey,
    Session,
    Webhook,
    Secret,
    Event,
    Delivery,
    EventType,
    Operation,
}

/// One id of each kind.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) admin_key: String,
    pub(crate) session: String,
    pub(crate) webhook: String,
    pub(crate) secret: String,
    pub(crate) event: String,
    pub(crate) delivery: String,
    pub(crate) event_type: String,
    pub(crate) operation: String,
}

impl Ids {
    pub(crate) fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::Tenant => &self.tenant,
            Kind::Key => &self.key,
            Kind::AdminKey => &self.admin_key,
            Kind::Session => &self.session,
            Kind::Webhook => &self.webhook,
            Kind::Secret => &self.secret,
            Kind::Event => &self.event,
            Kind::Delivery => &self.delivery,
            Kind::EventType => &self.event_type,
            Kind::Operation => &self.operation,
        }
    }

    /// The text with these ids masked.
    pub(crate) fn covered(&self, text: &str) -> String {
        let Self { tenant, key, admin_key, session, webhook, secret, event, delivery, event_type, operation } = self;
        [tenant, key, admin_key, session, webhook, secret, event, delivery, event_type, operation]
            .iter()
            .fold(text.to_owned(), |text, id| text.replace(id.as_str(), "ID"))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The path as in the document, with placeholders.
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) query: Vec<String>,
    takes_body: bool,
    /// Whether the operation needs no key.
    pub(crate) is_open: bool,
}

/// All operations that `/openapi.json` lists.
pub(crate) async fn operations(anyone: &Client) -> Vec<Operation> {
    let document = send(anyone.root(Method::GET, "/openapi.json")).await.expect(200);
    let paths = document["paths"].as_object().expect("paths");
    let mut all = Vec::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let of_query = parameters.iter().filter(|parameter| parameter["in"] == "query");
            all.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                name: operation["operationId"].as_str().expect("an operation id").to_owned(),
                query: of_query.map(|parameter| parameter["name"].as_str().expect("a name").to_owned()).collect(),
                takes_body: operation["requestBody"].is_object(),
                is_open: operation["security"] == json!([{}]),
            });
        }
    }
    assert!(all.len() > 40, "a document with little in it: {}", all.len());
    all
}

/// The id of an operation of this tenant that has ended. It has done nothing.
pub(crate) async fn operation_done(client: &Client) -> String {
    let nothing = json!({"kind": "retry", "events": ["never.sent"]});
    let id = text(&client.post("/operations", &nothing).await.expect(202), "id");
    fact::until("the operation is done", async || {
        (client.get(&format!("/operations/{id}")).await.expect(200)["state"] == "done").then_some(())
    })
    .await;
    id
}

impl Operation {
    pub(crate) fn needs_admin(&self) -> bool {
        let admins = ["/api/v1/tenants", "/api/v1/engine", "/api/v1/admin-keys", "/metrics"];
        admins.iter().any(|prefix| self.path.starts_with(prefix))
    }

    /// Whether the operation concerns the caller's own session, which needs no scope; `sessions` tests these.
    pub(crate) fn is_of_sessions(&self) -> bool {
        self.path.ends_with("/session")
    }

    /// The one scope that the operation needs.
    pub(crate) fn scope(&self) -> &'static str {
        let is = |prefix: &str| self.path.starts_with(&format!("/api/v1/{prefix}"));
        if is("audit") || is("sessions") {
            "manage"
        } else if self.method == Method::GET || is("explain") {
            "read"
        } else if is("events") && self.method == Method::POST {
            "publish"
        } else if is("deliveries") || is("operations") || is("webhooks/{id}/") && !self.path.contains("/secret") {
            "operate"
        } else {
            "manage"
        }
    }

    /// Placeholders of the path, from left to right.
    pub(crate) fn placeholders(&self) -> Vec<(String, Kind)> {
        let parts: Vec<&str> = self.path.split('/').collect();
        let mut found = Vec::new();
        for pair in parts.windows(2) {
            let [before, part] = pair else { continue };
            if !part.starts_with('{') {
                continue;
            }
            let kind = match *before {
                "tenants" => Kind::Tenant,
                "keys" => Kind::Key,
                "admin-keys" => Kind::AdminKey,
                "sessions" => Kind::Session,
                "webhooks" => Kind::Webhook,
                "secrets" => Kind::Secret,
                "events" => Kind::Event,
                "deliveries" => Kind::Delivery,
                "event-types" => Kind::EventType,
                "operations" => Kind::Operation,
                _ => panic!("{} {}: say here what {part} is", self.method, self.path),
            };
            found.push(((*part).to_owned(), kind));
        }
        found
    }

    /// Query parameters that hold an id.
    pub(crate) fn id_filters(&self) -> Vec<(String, Vec<Kind>)> {
        let mut found = Vec::new();
        for name in &self.query {
            let kinds = match name.as_str() {
                "webhookId" => vec![Kind::Webhook],
                "eventId" => vec![Kind::Event],
                "subject" => vec![Kind::Webhook, Kind::Delivery, Kind::EventType, Kind::Key, Kind::Session],
                "limit" | "cursor" | "sort" | "status" | "outcome" | "statusCode" | "event" | "callerId" | "since"
                | "until" | "isActive" | "q" | "state" | "attempts" | "action" | "top" | "by" => continue,
                _ => panic!("{} {}: say here whether {name} holds an id", self.method, self.path),
            };
            found.push((name.clone(), kinds));
        }
        found
    }

    /// The path with these ids filled in.
    pub(crate) fn path_with(&self, ids: &Ids) -> String {
        self.placeholders().iter().fold(self.path.clone(), |path, (place, kind)| path.replace(place, ids.of(*kind)))
    }

    /// A body that the operation accepts.
    pub(crate) fn body(&self) -> Option<Value> {
        if !self.takes_body {
            return None;
        }
        Some(match self.name.as_str() {
            "createEventType" => json!({"name": "isolation.test"}),
            "updateEventType" => json!({"description": "changed"}),
            "explainDraft" => json!({"event": "message.sent"}),
            "publishEvent" => json!({"event": "message.sent", "data": {}}),
            "publishEvents" => json!({"events": [{"event": "message.sent", "data": {}}]}),
            "createTenant" | "updateTenant" => json!({"name": "Changed"}),
            "createAdminKey" => json!({"name": "another"}),
            "createKey" => json!({"name": "another", "scopes": ["read"]}),
            "createWebhook" => json!({"name": "x", "url": "https://example.com/", "events": ["never.sent"]}),
            "updateWebhook" => json!({"name": "changed", "isActive": false}),
            "createOperation" | "replayWebhook" => json!({"kind": "retry", "status": "success"}),
            "updateOperation" => json!({"ratePerSecond": 7}),
            "purgeWebhook" | "pauseWebhook" | "resumeWebhook" => json!({"reason": "maintenance"}),
            "rotateSecret" => json!({"graceSeconds": 0}),
            other => panic!("{} {}: say here what body {other} takes", self.method, self.path),
        })
    }

    /// A call that is valid except for its ids.
    pub(crate) fn call(&self, client: &Client, path_and_query: &str) -> RequestBuilder {
        let call = client.root(self.method.clone(), path_and_query);
        match self.body() {
            None => call,
            Some(body) => call.header("Content-Type", "application/json").body(body.to_string()),
        }
    }
}
