//! `posthaste check`: looks for damage in a database. With `--repair` it ends deliveries whose event is gone, with
//! `--compact` it rewrites a SQLite file without its free pages.

use crate::api::scope::is_scope;
use crate::domain::moment::UnixMillis;
use crate::store::{FreeSpace, Options, Store, StoreError};

use super::{CliError, Settings, say};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Cancel deliveries that can never be sent because their event is gone; no server may use the database
    #[arg(long)]
    repair: bool,
    /// SQLite: rewrite the file without its free pages, and so that a server gives them back from then on
    #[arg(long)]
    compact: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) async fn run(CheckArgs { repair, compact, settings }: CheckArgs) -> Result<(), CliError> {
    let config = settings.load()?;
    let options = Options { migrate: false, reads_secrets: false, ..config.database() };
    let store = Store::open(options).await?;
    if repair {
        let ended = store.repair(UnixMillis::now()).await.map_err(CliError::failed)?;
        let (deliveries, fanouts) = (ended.deliveries.len(), ended.fanouts.len());
        say(format_args!("repaired: {deliveries} deliveries cancelled, {fanouts} fan-outs deleted"));
    }
    let (problems, unreadable) = (store.integrity_problems().await, store.unreadable(is_scope).await);
    if store.master_key_ids().is_empty() {
        say("sealed values: not opened, for lack of the master key; put its file beside the database, or set \
             POSTHASTE_MASTER_KEY");
    }
    let is_sound = problems.as_ref().is_ok_and(Vec::is_empty);
    if compact && !is_sound {
        say("not compacted: the database has to be sound first");
    }
    let spoken = say_space(&store, compact && is_sound).await;
    store.close().await;
    // Damage rarely comes alone, so both checks run and every problem is reported.
    let wrong: Vec<String> = [found("integrity", problems), found("rows", unreadable)].into_iter().flatten().collect();
    if wrong.is_empty() { spoken } else { Err(CliError::failed(wrong.join("\n"))) }
}

/// Says how much of a SQLite file is free. Compacts the file first if `compact`.
async fn say_space(store: &Store, compact: bool) -> Result<(), CliError> {
    let Some(before) = store.free_space().await.map_err(CliError::failed)? else {
        if compact {
            say("not compacted: PostgreSQL reuses the space of deleted rows by itself");
        }
        return Ok(());
    };
    let space = if compact {
        store.compact().await.map_err(CliError::failed)?;
        say("compacted");
        store.free_space().await.map_err(CliError::failed)?.unwrap_or(before)
    } else {
        before
    };
    let FreeSpace { free_pages, all_pages, page_bytes, can_shrink } = space;
    let mib = |pages: u64| (pages * page_bytes) >> 20;
    say(format_args!("space: {} MiB, of which {} MiB are free", mib(all_pages), mib(free_pages)));
    if !can_shrink {
        say("space: this file was made by an older version, and a server does not give free pages back; --compact \
             changes that");
    }
    Ok(())
}

/// Turns the result of one check into an error text, or prints that all is well and returns `None`.
fn found(what: &str, problems: Result<Vec<String>, StoreError>) -> Option<String> {
    match problems {
        Ok(none) if none.is_empty() => {
            say(format_args!("{what}: ok"));
            None
        }
        Ok(some) => Some(format!("{what}: damaged\n{}", some.join("\n"))),
        Err(error) => Some(format!("{what}: {error}")),
    }
}
