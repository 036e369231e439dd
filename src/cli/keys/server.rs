//! A client of the running server that has the SQLite file open, for the commands in `keys`, which then cannot open the
//! file themselves.

use std::error::Error;
use std::time::Duration;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::CliError;
use crate::config::Config;
use crate::engine::peer_client;

const CONNECT: Duration = Duration::from_secs(5);

/// Longest wait for an answer: a server rewraps some ten thousand values a second.
const LONGEST_ANSWER: Duration = Duration::from_secs(3600);

pub(super) struct Server {
    url: String,
    client: reqwest::Client,
    admin_key: SecretString,
}

impl Server {
    /// The server at `url`, or by default at the address in the settings.
    pub(super) fn of(config: &Config, url: Option<String>) -> Result<Self, CliError> {
        let Some(admin_key) = config.admin_key.clone() else {
            let why =
                "a server has the database open and must be asked; set POSTHASTE_ADMIN_KEY to one of its admin keys";
            return Err(CliError::failed(why));
        };
        let scheme = if config.api.tls.is_some() { "https" } else { "http" };
        let url = url.unwrap_or_else(|| format!("{scheme}://{}", config.listen));
        Ok(Self { url, client: peer_client(CONNECT, LONGEST_ANSWER).map_err(CliError::failed)?, admin_key })
    }

    pub(super) async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<A, CliError> {
        let Self { url, client, admin_key } = self;
        let request = client.request(method, format!("{url}/api/v1{path}")).bearer_auth(admin_key.expose_secret());
        let request = match body {
            None => request,
            Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
        };
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let text = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if !status.is_success() {
            let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
            let said =
                problem["detail"].as_str().map_or_else(|| String::from_utf8_lossy(&text).into_owned(), str::to_owned);
            return Err(CliError::failed(format!("{url} answered {status}: {said}")));
        }
        let text = if text.is_empty() { b"null".as_slice() } else { &text };
        serde_json::from_slice(text).map_err(CliError::failed)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let mut cause: &dyn Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let url = &self.url;
        CliError::failed(format!(
            "a server has the database open and cannot be asked at {url}: {cause}; say where it is reached with --server, \
             or with its own POSTHASTE_LISTEN"
        ))
    }
}
