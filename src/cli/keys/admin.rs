//! `posthaste keys admin`: lists, creates and revokes admin keys, on the database itself or through the server that has
//! the SQLite file open.

use std::io::{Write, stdout};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::server::Server;
use super::{KeysSettings, opened};
use crate::api::auth::{is_key_name, new_admin_key};
use crate::cli::{CliError, say};
use crate::config::Config;
use crate::domain::id::KeyId;
use crate::domain::moment::UnixMillis;
use crate::store::Store;
use crate::store::admin_keys::Revoked;
use crate::store::audit::Author;

/// Largest page size of the API.
const PAGE: u64 = 100;

#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the admin keys
    List(KeysSettings),
    /// Create an admin key and print it; it cannot be shown again
    // By default, clap's usage line in an error lists every setting that has a variable, as if all were required.
    #[command(override_usage = "posthaste keys admin create [OPTIONS] --name <NAME>")]
    Create {
        /// What the key is for, 1 to 200 characters
        #[arg(long, value_parser = name)]
        name: String,
        /// When the key expires, such as 2027-01-31T00:00:00Z [default: never]
        #[arg(long, value_name = "TIME", value_parser = end)]
        expires_at: Option<UnixMillis>,
        #[command(flatten)]
        settings: KeysSettings,
    },
    /// Revoke an admin key and end the browser sessions opened with it
    #[command(override_usage = "posthaste keys admin revoke [OPTIONS] <ID>")]
    Revoke {
        /// The key's id, as `posthaste keys admin list` shows it
        id: KeyId,
        #[command(flatten)]
        settings: KeysSettings,
    },
}

fn name(text: &str) -> Result<String, String> {
    is_key_name(text).then(|| text.to_owned()).ok_or_else(|| "1 to 200 visible characters are accepted".to_owned())
}

fn end(text: &str) -> Result<UnixMillis, String> {
    let refused = |_| "a time such as 2027-01-31T00:00:00Z is accepted".to_owned();
    let end: UnixMillis = text.parse().map_err(refused)?;
    let now = UnixMillis::now_reference();
    if end > now { Ok(end) } else { Err(format!("a time after {now} is accepted")) }
}

/// An admin key as both the store and the API show it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    id: String,
    name: String,
    source: String,
    created_at: Option<String>,
    expires_at: Option<String>,
    last_used_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lines {
    data: Vec<Line>,
    next_cursor: Option<String>,
}

pub(super) async fn run(args: AdminArgs) -> Result<(), CliError> {
    match args.what {
        What::List(KeysSettings { server, settings }) => {
            let config = settings.load()?;
            let lines = match opened(&config).await? {
                Some(store) => closing(&store, listed(&store, &config).await).await?,
                None => listed_by(&Server::of(&config, server)?).await?,
            };
            lines.iter().for_each(Line::print);
        }
        What::Create { name, expires_at, settings: KeysSettings { server, settings } } => {
            let config = settings.load()?;
            let (id, key) = match opened(&config).await? {
                Some(store) => closing(&store, created(&store, name, expires_at).await).await?,
                None => created_by(&Server::of(&config, server)?, &name, expires_at).await?,
            };
            let shown = writeln!(stdout(), "id: {id}\nadmin key, shown only now: {key}");
            shown.map_err(|error| {
                CliError::failed(format!("key {id} was created but cannot be shown ({error}); revoke it"))
            })?;
        }
        What::Revoke { id, settings: KeysSettings { server, settings } } => {
            let config = settings.load()?;
            match opened(&config).await? {
                Some(store) => closing(&store, revoked(&store, id, &config).await).await?,
                None => Server::of(&config, server)?.ask(Method::DELETE, &format!("/admin-keys/{id}"), None).await?,
            }
            say(format_args!("revoked: {id}"));
        }
    }
    Ok(())
}

async fn closing<T>(store: &Store, result: Result<T, CliError>) -> Result<T, CliError> {
    store.close().await;
    result
}

async fn listed(store: &Store, config: &Config) -> Result<Vec<Line>, CliError> {
    let (mut lines, mut before) = (Vec::new(), None);
    loop {
        let page = store.admin_keys(before, PAGE).await.map_err(CliError::failed)?;
        lines.extend(page.items.into_iter().map(|key| Line {
            id: key.id.to_string(),
            name: key.name,
            source: "database".to_owned(),
            created_at: Some(key.created_at.to_string()),
            expires_at: key.expires_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
        }));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    if config.admin_key.is_some() {
        let (id, source) = ("configuration".to_owned(), "configuration".to_owned());
        let (created_at, expires_at, last_used_at) = (None, None, None);
        lines.push(Line { id, name: "POSTHASTE_ADMIN_KEY".to_owned(), source, created_at, expires_at, last_used_at });
    }
    Ok(lines)
}

async fn listed_by(server: &Server) -> Result<Vec<Line>, CliError> {
    let (mut lines, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/admin-keys?limit={PAGE}{cursor}");
        let page: Lines = server.ask(Method::GET, &path, None).await?;
        lines.extend(page.data);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(lines),
        }
    }
}

async fn created(store: &Store, name: String, expires_at: Option<UnixMillis>) -> Result<(String, String), CliError> {
    let (shown, new) = new_admin_key(name, expires_at);
    let row = store.create_key(new, None, &Author::command()).await.map_err(CliError::failed)?;
    Ok((row.id.to_string(), shown))
}

async fn created_by(server: &Server, name: &str, expires_at: Option<UnixMillis>) -> Result<(String, String), CliError> {
    let mut wish = json!({ "name": name });
    if let Some(at) = expires_at {
        wish["expiresAt"] = at.to_string().into();
    }
    let answer: Value = server.ask(Method::POST, "/admin-keys", Some(&wish)).await?;
    let text = |field: &str| answer[field].as_str().map(str::to_owned);
    text("id").zip(text("key")).ok_or_else(|| CliError::failed("the server's answer has no key"))
}

async fn revoked(store: &Store, id: KeyId, config: &Config) -> Result<(), CliError> {
    match store.revoke_admin_key(id, config.admin_key.is_some(), &Author::command()).await.map_err(CliError::failed)? {
        Revoked::Done => Ok(()),
        Revoked::NoSuchKey => Err(CliError::failed(format!("there is no admin key {id}"))),
        Revoked::IsLast => {
            let why = "it is the last admin key; create another one first (`posthaste keys admin create`), or set POSTHASTE_ADMIN_KEY";
            Err(CliError::failed(why))
        }
    }
}

impl Line {
    fn print(&self) {
        let Self { id, name, source, created_at, expires_at, last_used_at } = self;
        let or = |at: &Option<String>, none: &str| at.as_deref().unwrap_or(none).to_owned();
        say(format_args!(
            "{id}  {source}  created {}  ends {}  last used {}  {name}",
            or(created_at, "-"),
            or(expires_at, "never"),
            or(last_used_at, "-")
        ));
    }
}
