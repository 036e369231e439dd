//! `posthaste check`: looks for damage in a database and, with `--repair`, ends deliveries whose event is gone.

use crate::api::scope::is_scope;
use crate::domain::moment::UnixMillis;
use crate::store::{Options, Store, StoreError};

use super::{CliError, Settings, say};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Cancel deliveries that can never be sent because their event is gone; no server may use the database
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(super) async fn run(CheckArgs { repair, settings }: CheckArgs) -> Result<(), CliError> {
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
        say(
            "sealed values: not opened, for lack of the master key; put its file beside the database, or set POSTHASTE_MASTER_KEY",
        );
    }
    store.close().await;
    // Damage rarely comes alone, so both checks run and every problem is reported.
    let wrong: Vec<String> = [found("integrity", problems), found("rows", unreadable)].into_iter().flatten().collect();
    if wrong.is_empty() { Ok(()) } else { Err(CliError::failed(wrong.join("\n"))) }
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
