//! Runs the server under test, `posthaste serve` as a child process on a temporary database, and calls its API for the
//! scenarios.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::CliError;
use crate::store::Store;

use super::place::Place;
use super::raw;
use super::usage::{Usage, resident_bytes};

const ADMIN_KEY: &str = "an admin key that exists for one benchmark only";

/// Starting and stopping take less, even with a million webhooks.
const PATIENCE: Duration = Duration::from_secs(120);

/// Webhooks created concurrently over the API.
const CREATING: usize = 16;

/// Connection slots for any scenario; a server's default is lower.
const CONNECTIONS: &str = "16384";

/// The server gives the same page of metrics to all that ask within a second.
const PAGE_SHARED_FOR: Duration = Duration::from_millis(1100);

/// Memory is steady when it changes by less than this share between two samples.
const STEADY: f64 = 0.005;
const STEADY_EVERY: Duration = Duration::from_millis(500);
const STEADY_LOOKS: u32 = 20;

pub(super) struct Server {
    child: Child,
    url: String,
    client: reqwest::Client,
    ready_after: Duration,
    /// Read for the bytes of write-ahead log.
    database: Option<Store>,
}

impl Server {
    pub(super) async fn start(place: &Place) -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(CliError::failed)?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .arg("serve")
            .envs(place.variables())
            .env("POSTHASTE_LISTEN", "127.0.0.1:0")
            .env("POSTHASTE_ADMIN_KEY", ADMIN_KEY)
            .env("POSTHASTE_ALLOW_HTTP", "true")
            .env("POSTHASTE_EGRESS_ALLOW", "127.0.0.0/8")
            .env("POSTHASTE_MAX_CONNECTIONS", CONNECTIONS)
            .env("POSTHASTE_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(CliError::failed)?;
        let stdout = child.stdout.take().ok_or_else(|| CliError::failed("the server has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let url = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.map_err(CliError::failed)? {
                if let Some(url) = line.strip_prefix("listening on ") {
                    return Ok(url.to_owned());
                }
            }
            Err(CliError::failed("the server ended while starting"))
        });
        let url = url.await.map_err(|_| CliError::failed("the server did not start in time"))??;
        let database = place.store();
        Ok(Self { child, url, client: raw::client()?, ready_after: began.elapsed(), database })
    }

    /// Time from the start of the process until it listens.
    pub(super) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.url)
    }

    /// The address that the server listens on.
    pub(super) fn address(&self) -> Result<SocketAddr, CliError> {
        self.url.trim_start_matches("http://").parse().map_err(CliError::failed)
    }

    /// Resident bytes now.
    pub(super) fn memory(&self) -> Result<f64, CliError> {
        resident_bytes(self.pid()?)
    }

    /// Posts as the admin, or with `key`.
    pub(super) async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, key.unwrap_or(ADMIN_KEY), Some(body)).await
    }

    /// Sends one request to the API; returns null when the answer has no body.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let mut request = self.client.request(method, self.url(path)).bearer_auth(key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(CliError::failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(CliError::failed)?;
        if !status.is_success() {
            return Err(CliError::failed(format!("{path} answered {status}: {text}")));
        }
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).map_err(CliError::failed) }
    }

    /// Creates a tenant; returns a key of it.
    pub(super) async fn new_tenant(&self) -> Result<String, CliError> {
        let tenant = self.post("/tenants", None, &json!({ "name": "bench" })).await?;
        self.key_of(tenant["id"].as_str().unwrap_or_default()).await
    }

    /// Creates a key of `tenant` with all scopes.
    pub(super) async fn key_of(&self, tenant: &str) -> Result<String, CliError> {
        let scopes = json!({ "name": "bench", "scopes": ["publish", "read", "operate", "manage"] });
        let key = self.post(&format!("/tenants/{tenant}/keys"), None, &scopes).await?;
        Ok(key["key"].as_str().unwrap_or_default().to_owned())
    }

    /// Creates webhooks; returns their ids in order.
    pub(super) async fn subscribe(
        &self,
        key: &str,
        webhooks: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<String>, CliError> {
        let create = async |body: Value| {
            let webhook = self.post("/webhooks", Some(key), &body).await?;
            Ok::<_, CliError>(webhook["id"].as_str().unwrap_or_default().to_owned())
        };
        stream::iter(webhooks.into_iter().map(create)).buffered(CREATING).try_collect().await
    }

    /// Attempts recorded at this moment; the metrics page may be a second old.
    pub(super) async fn attempts(&self) -> Result<u64, CliError> {
        let engine = self.call(Method::GET, "/engine", ADMIN_KEY, None).await?;
        Ok(engine["journal"]["attempts"].as_u64().unwrap_or(0))
    }

    /// The server's usage, read after [`PAGE_SHARED_FOR`], so that the figures are new.
    pub(super) async fn usage(&self) -> Result<Usage, CliError> {
        tokio::time::sleep(PAGE_SHARED_FOR).await;
        let asked = self.client.get(format!("{}/metrics", self.url)).bearer_auth(ADMIN_KEY).send();
        let answer = asked.await.map_err(CliError::failed)?;
        let metrics = answer.text().await.map_err(CliError::failed)?;
        let usage = Usage::of(self.pid()?, &metrics)?;
        Ok(match &self.database {
            Some(store) => Usage { wal_bytes: store.wal_bytes().await.map_err(CliError::failed)?, ..usage },
            None => usage,
        })
    }

    /// Resident bytes once they are steady, or after ten seconds.
    pub(super) async fn steady_memory(&self) -> Result<f64, CliError> {
        let mut bytes = resident_bytes(self.pid()?)?;
        for _ in 0..STEADY_LOOKS {
            tokio::time::sleep(STEADY_EVERY).await;
            let before = std::mem::replace(&mut bytes, resident_bytes(self.pid()?)?);
            if (bytes - before).abs() < before * STEADY {
                break;
            }
        }
        Ok(bytes)
    }

    fn pid(&self) -> Result<u32, CliError> {
        self.child.id().ok_or_else(|| CliError::failed("the server has ended"))
    }

    /// Asks the server to stop and waits for it.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        if let Some(pid) = self.child.id() {
            let kill = Command::new("kill").arg(pid.to_string()).status().await;
            kill.map_err(CliError::failed)?;
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.map_err(|_| CliError::failed("the server did not stop in time"))?;
        let status = status.map_err(CliError::failed)?;
        if status.success() { Ok(()) } else { Err(CliError::failed(format!("the server ended with {status}"))) }
    }
}
