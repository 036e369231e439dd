//! `posthaste check`

use crate::clock::UnixMillis;
use crate::store::{Options, Store};

use super::{CliError, Settings, say};

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
    let problems = store.integrity_problems().await?;
    let unreadable = store.unreadable().await;
    store.close().await;
    if !problems.is_empty() {
        return Err(CliError::failed(format!("integrity: {}", problems.join("; "))));
    }
    say("integrity: ok");
    let unreadable = unreadable.map_err(|error| CliError::failed(format!("rows: {error}")))?;
    if !unreadable.is_empty() {
        return Err(CliError::failed(format!("rows that cannot be read:\n{}", unreadable.join("\n"))));
    }
    say("rows: ok");
    Ok(())
}
