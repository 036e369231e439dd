//! The texts that the demo prints: URLs and keys, commands to paste, and at the end the requests that each receiver
//! got.

use std::fmt;
use std::time::Duration;

use super::receivers::{SAMPLES, Seen};
use super::scene::Scene;

/// The sample whose log and test commands are printed.
const SHOWN: usize = 1;

/// Printed once the server and its sample data are ready.
pub(super) struct Guide<'a> {
    pub(super) url: &'a str,
    pub(super) admin_key: &'a str,
    pub(super) scene: &'a Scene,
    pub(super) every: Duration,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scene { tenant_id, tenant_key, .. } = self.scene;
        writeln!(f, "Posthaste runs on a temporary database, with receivers that misbehave.\n")?;
        writeln!(f, "  {:<11} {}/api/v1", "API", self.url)?;
        writeln!(f, "  {:<11} {}/openapi.json", "reference", self.url)?;
        writeln!(f, "  {:<11} {}/metrics, with the admin key", "metrics", self.url)?;
        writeln!(f, "  {:<11} {}", "admin key", self.admin_key)?;
        writeln!(f, "  {:<11} Demo, {tenant_id}", "tenant")?;
        writeln!(f, "  {:<11} {tenant_key}\n", "tenant key")?;
        self.webhooks(f)?;
        self.commands(f)?;
        let seconds = self.every.as_secs_f64();
        write!(f, "An event is published every {seconds} s. Ctrl-C ends the demo and removes the database.")
    }
}

impl Guide<'_> {
    fn webhooks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<11} {:<29}  {:<25}  its receiver", "webhook", "id", "events")?;
        for (sample, id) in SAMPLES.iter().zip(&self.scene.webhook_ids) {
            writeln!(f, "  {:<11} {id:<29}  {:<25}  {}", sample.name, sample.events.join(", "), sample.does)?;
        }
        writeln!(f)
    }

    fn commands(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, delivery) = (SAMPLES[SHOWN].name, &self.scene.delivery_id);
        let webhook = self.scene.webhook_ids.get(SHOWN).map(String::as_str).unwrap_or_default();
        let event = r#"-H 'Content-Type: application/json' -d '{"event":"message.sent","data":{"text":"hello"}}'"#;
        self.command(f, "Publish an event", "", "/events", event)?;
        self.command(f, "List the webhooks", "", "/webhooks", "")?;
        self.command(f, &format!("Read the log of {name}"), "", &format!("/webhooks/{webhook}/logs?limit=5"), "")?;
        self.command(f, "See what waits, since when and why, the worst first", "", "/backlogs", "")?;
        self.command(f, &format!("Test {name}"), "-X POST ", &format!("/webhooks/{webhook}/test"), "")?;
        self.command(f, "Retry a delivery that was refused", "-X POST ", &format!("/deliveries/{delivery}/retry"), "")?;
        self.command(f, "See what came of it", "", &format!("/deliveries/{delivery}"), "")
    }

    fn command(&self, f: &mut fmt::Formatter<'_>, what: &str, method: &str, path: &str, body: &str) -> fmt::Result {
        let (url, key) = (self.url, &self.scene.tenant_key);
        let line = format!("curl -sS {method}'{url}/api/v1{path}' -H 'Authorization: Bearer {key}' {body}");
        writeln!(f, "{what}:\n  {}\n", line.trim_end())
    }
}

/// Printed when the demo ends.
pub(super) struct Summary<'a>(pub(super) &'a Seen);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<11} requests", "receiver")?;
        for (sample, seen) in SAMPLES.iter().zip(self.0) {
            write!(f, "\n  {:<11} {seen:>8}", sample.name)?;
        }
        Ok(())
    }
}
