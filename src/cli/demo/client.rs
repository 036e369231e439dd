//! A client of the management API with one key, used by the demo.

use serde_json::Value;

use crate::cli::CliError;

pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    pub(super) fn new(url: &str, key: &str) -> Result<Self, CliError> {
        let http = reqwest::Client::builder().no_proxy().build().map_err(CliError::failed)?;
        Ok(Self { http, base: format!("{url}/api/v1"), key: key.to_owned() })
    }

    /// The same server with another key.
    pub(super) fn with_key(&self, key: &str) -> Self {
        Self { http: self.http.clone(), base: self.base.clone(), key: key.to_owned() }
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        self.send(path, request.body(body.to_string())).await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.send(path, self.http.get(format!("{}{path}", self.base))).await
    }

    async fn send(&self, path: &str, request: reqwest::RequestBuilder) -> Result<Value, CliError> {
        let answer = request.bearer_auth(&self.key).send().await.map_err(CliError::failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(CliError::failed)?;
        if !status.is_success() {
            return Err(CliError::failed(format!("{path} answered {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(CliError::failed)
    }
}

/// Reads a text field of an answer.
pub(super) fn text(answer: &Value, field: &str) -> Result<String, CliError> {
    let found = answer[field].as_str().map(str::to_owned);
    found.ok_or_else(|| CliError::failed(format!("an answer has no `{field}`: {answer}")))
}
