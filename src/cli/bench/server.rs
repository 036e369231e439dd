//! The engine under test: `posthaste serve` as a child process on a temporary database.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::CliError;

use super::raw;

const ADMIN_KEY: &str = "an admin key that exists for one benchmark only";

/// Starting and stopping take less.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kernel clock ticks per second in /proc, the same on every Linux that Rust runs on (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

pub(super) struct Server {
    child: Child,
    url: String,
    client: reqwest::Client,
}

/// What the server has used and done since it started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) peak_memory_mib: f64,
    pub(super) attempts: u64,
    pub(super) statements: u64,
    pub(super) rows: u64,
    pub(super) commits: u64,
}

impl Usage {
    /// What was used and done since `before`; the memory is the peak of all time.
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            peak_memory_mib: self.peak_memory_mib,
            attempts: self.attempts - before.attempts,
            statements: self.statements - before.statements,
            rows: self.rows - before.rows,
            commits: self.commits - before.commits,
        }
    }
}

impl Server {
    pub(super) async fn start(directory: &Path) -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(CliError::failed)?;
        let mut child = Command::new(program)
            .arg("serve")
            .env("POSTHASTE_DATABASE_URL", format!("sqlite://{}", directory.join("bench.db").display()))
            .env("POSTHASTE_LISTEN", "127.0.0.1:0")
            .env("POSTHASTE_ADMIN_KEY", ADMIN_KEY)
            .env("POSTHASTE_ALLOW_HTTP", "true")
            .env("POSTHASTE_EGRESS_ALLOW", "127.0.0.0/8")
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
        Ok(Self { child, url, client: raw::client()? })
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.url)
    }

    /// Posts as the admin, or with `key`.
    pub(super) async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, CliError> {
        let request = self
            .client
            .post(self.url(path))
            .bearer_auth(key.unwrap_or(ADMIN_KEY))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.send().await.map_err(CliError::failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(CliError::failed)?;
        if !status.is_success() {
            return Err(CliError::failed(format!("{path} answered {status}: {text}")));
        }
        serde_json::from_str(&text).map_err(CliError::failed)
    }

    pub(super) async fn usage(&self) -> Result<Usage, CliError> {
        let answer = self.client.get(format!("{}/metrics", self.url)).send().await.map_err(CliError::failed)?;
        let metrics = answer.text().await.map_err(CliError::failed)?;
        let pid = self.child.id().ok_or_else(|| CliError::failed("the server has ended"))?;
        Ok(Usage {
            cpu_seconds: cpu_seconds(pid)?,
            peak_memory_mib: peak_memory_mib(pid)?,
            attempts: metric(&metrics, "posthaste_journal_attempts_total"),
            statements: metric(&metrics, "posthaste_journal_statements_total"),
            rows: metric(&metrics, "posthaste_journal_rows_total"),
            commits: metric(&metrics, "posthaste_journal_commits_total"),
        })
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

/// The sum of a counter over its labels.
fn metric(text: &str, name: &str) -> u64 {
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

fn cpu_seconds(pid: u32) -> Result<f64, CliError> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(CliError::failed)?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS)
}

fn peak_memory_mib(pid: u32) -> Result<f64, CliError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(CliError::failed)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    Ok(kib / 1024.0)
}
