//! `posthaste keys`: under which master keys secrets are sealed. Where servers share the database, the command does the
//! work on it, beside them. Of a file that a server has open, it asks that server.

use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::config::Config;
use crate::engine::peer_client;
use crate::store::audit::Author;
use crate::store::rewrap::Sealed;
use crate::store::{OpenError, Options, Store};

use super::{CliError, Settings};

const CONNECT: Duration = Duration::from_secs(5);

/// A server seals some ten thousand values a second anew.
const LONGEST_ANSWER: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show how much is sealed under which key
    Status(KeysSettings),
    /// Seal everything under the master key that still is under one before it, beside running servers
    Rotate(KeysSettings),
}

#[derive(Debug, Args)]
struct KeysSettings {
    /// SQLite: where the server that has the file open is reached [default: http:// and its address]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What is sealed, whoever says so.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    key_ids: Vec<String>,
    sealed: Vec<Line>,
    old: u64,
    rewrapped: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    what: String,
    key_id: String,
    layout: u8,
    count: u64,
    opens: bool,
}

pub(super) async fn run(args: KeysArgs) -> Result<(), CliError> {
    let (rotate, KeysSettings { server, settings }) = match args.what {
        What::Status(settings) => (false, settings),
        What::Rotate(settings) => (true, settings),
    };
    let config = settings.load()?;
    let report = match Box::pin(Store::open(Options { migrate: false, ..config.database() })).await {
        Ok(store) => {
            let report = on_database(&store, rotate).await;
            store.close().await;
            report?
        }
        Err(OpenError::Locked { .. }) => by_server(&config, server, rotate).await?,
        Err(error) => return Err(error.into()),
    };
    report.print();
    match (rotate, report.old) {
        (true, left @ 1..) => Err(CliError::failed(format!("{left} values could not be sealed anew; see above"))),
        _ => Ok(()),
    }
}

async fn on_database(store: &Store, rotate: bool) -> Result<Report, CliError> {
    let rewrapped = match rotate {
        true => Some(store.rewrap(&Author::command()).await.map_err(CliError::failed)?),
        false => None,
    };
    let sealed = store.sealed().await.map_err(CliError::failed)?;
    let old = sealed.iter().filter(|sealed| sealed.is_old).map(|sealed| sealed.count).sum();
    let line = |sealed: Sealed| {
        let Sealed { what, key_id, layout, count, opens, is_old: _ } = sealed;
        Line { what: what.to_owned(), key_id, layout, count, opens }
    };
    Ok(Report { key_ids: store.master_key_ids(), sealed: sealed.into_iter().map(line).collect(), old, rewrapped })
}

async fn by_server(config: &Config, server: Option<String>, rotate: bool) -> Result<Report, CliError> {
    let Some(admin_key) = &config.admin_key else {
        let why = "a server has the database open and must be asked; give its admin key as POSTHASTE_ADMIN_KEY";
        return Err(CliError::failed(why));
    };
    let scheme = if config.api.tls.is_some() { "https" } else { "http" };
    let server = server.unwrap_or_else(|| format!("{scheme}://{}", config.listen));
    let client = peer_client(CONNECT, LONGEST_ANSWER).map_err(CliError::failed)?;
    let request = match rotate {
        true => client.post(format!("{server}/api/v1/engine/secrets/rewrap")),
        false => client.get(format!("{server}/api/v1/engine/secrets")),
    };
    let answer = request.bearer_auth(admin_key.expose_secret()).send().await.map_err(CliError::failed)?;
    let status = answer.status();
    let text = answer.bytes().await.map_err(CliError::failed)?;
    if !status.is_success() {
        return Err(CliError::failed(format!("{server} answered {status}: {}", String::from_utf8_lossy(&text))));
    }
    serde_json::from_slice(&text).map_err(CliError::failed)
}

impl Report {
    fn print(&self) {
        if let Some(rewrapped) = self.rewrapped {
            println!("sealed anew: {rewrapped}");
        }
        for (place, key) in self.key_ids.iter().enumerate() {
            let role = if place == 0 { "master key" } else { "was the master key" };
            println!("key {key}: {role}");
        }
        for Line { what, key_id, layout, count, opens } in &self.sealed {
            let note = if *opens { "" } else { ", and no key here opens them" };
            println!("{count} {what} under key {key_id}, layout {layout}{note}");
        }
        println!("to be sealed anew: {}", self.old);
    }
}
