//! `posthaste keys`: manages admin keys, and shows and rotates the master keys that secrets are sealed under. On
//! PostgreSQL the command works on the database itself, beside running servers. If a server has the SQLite file open,
//! the command asks that server over its API.

mod admin;
mod server;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;

use self::server::Server;
use crate::config::Config;
use crate::store::audit::Author;
use crate::store::rewrap::Sealed;
use crate::store::{OpenError, Options, Store};

use super::{CliError, Settings, say};

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show how many values are sealed under which master key
    Status(KeysSettings),
    /// Seal values that are under a previous master key again under the current one; servers may be running
    Rotate(KeysSettings),
    /// List, create and revoke admin keys
    Admin(admin::AdminArgs),
}

#[derive(Debug, Args)]
struct KeysSettings {
    /// SQLite: URL of the server that has the file open [default: http:// (https:// with TLS) and --listen]
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What is sealed under which key, read from the database or from the server's answer.
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
        What::Admin(args) => return Box::pin(admin::run(args)).await,
    };
    let config = settings.load()?;
    let report = match opened(&config).await? {
        Some(store) => {
            let report = on_database(&store, rotate).await;
            store.close().await;
            report?
        }
        None => by_server(&Server::of(&config, server)?, rotate).await?,
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

async fn by_server(server: &Server, rotate: bool) -> Result<Report, CliError> {
    match rotate {
        true => server.ask(Method::POST, "/engine/secrets/rewrap", None).await,
        false => server.ask(Method::GET, "/engine/secrets", None).await,
    }
}

/// Opens the database; `None` when a server has the SQLite file open.
async fn opened(config: &Config) -> Result<Option<Store>, CliError> {
    match Box::pin(Store::open(Options { migrate: false, ..config.database() })).await {
        Ok(store) => Ok(Some(store)),
        Err(OpenError::Locked { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Report {
    fn print(&self) {
        if let Some(rewrapped) = self.rewrapped {
            say(format_args!("sealed anew: {rewrapped}"));
        }
        for (place, key) in self.key_ids.iter().enumerate() {
            let role = if place == 0 { "master key" } else { "was the master key" };
            say(format_args!("key {key}: {role}"));
        }
        for Line { what, key_id, layout, count, opens } in &self.sealed {
            let note = if *opens { "" } else { ", and no key here opens them" };
            say(format_args!("{count} {what} under key {key_id}, layout {layout}{note}"));
        }
        say(format_args!("to be sealed anew: {}", self.old));
    }
}
