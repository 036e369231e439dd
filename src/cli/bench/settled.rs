//! Waits for the end of what a benchmark has published.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::cli::CliError;

use super::PATIENCE;
use super::server::Server;
use super::sink::Sink;

/// Waits until everything that was published has arrived and every attempt is recorded.
pub(super) async fn settled(server: &Server, sink: &Sink, bar: &ProgressBar) -> Result<(), CliError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (owed, arrived) = (sink.owed(), sink.arrived());
        bar.set_length(owed);
        bar.set_position(arrived);
        if arrived >= owed && server.attempts().await? >= owed {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(CliError::failed(format!("only {arrived} of {owed} deliveries arrived within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
