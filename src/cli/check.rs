//! `posthaste check`

use serde::Deserialize;

use crate::api::auth::is_scope;
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::engine::Credentials;
use crate::store::{Judge, Options, Store, StoreError};

use super::{CliError, Settings, say};

/// Values are read as the layers read them that know their meaning.
const JUDGE: Judge = Judge {
    is_scope,
    policy: |policy| Policy::deserialize(policy).map(drop).map_err(|error| error.to_string()),
    // What is wrong may quote what is stored.
    credentials: |stored| Credentials::deserialize(stored).map(drop).map_err(|_| "not as they are written".to_owned()),
};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// End what can never be sent because its event is gone; no server may be at work on the database
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
    let (problems, unreadable) = (store.integrity_problems().await, store.unreadable(&JUDGE).await);
    store.close().await;
    // Damage rarely comes alone, and who mends it wants to see all of it.
    let wrong: Vec<String> = [found("integrity", problems), found("rows", unreadable)].into_iter().flatten().collect();
    if wrong.is_empty() { Ok(()) } else { Err(CliError::failed(wrong.join("\n"))) }
}

/// What is wrong, after one look; nothing, and a line that says so, if all is well.
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
