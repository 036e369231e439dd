//! `posthaste serve`: runs the server until a signal or another node ends it.

mod first_key;

use std::path::PathBuf;

use secrecy::ExposeSecret;

use crate::app::{App, StopSignals};
use crate::config;
use crate::telemetry;

use super::{CliError, Settings, say};

/// The exit code of an interrupted process: 128 plus the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Logs `warnings` about the command line once logging is set up, and serves.
pub(super) async fn run(settings: Settings, warnings: &[String]) -> Result<(), CliError> {
    let config = settings.load()?;
    telemetry::start(config::log_filter(&config.log)?);
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let database = config.database_url.expose_secret().strip_prefix("sqlite://").map(PathBuf::from);
    let mut signals = StopSignals::catch()?;
    let app = Box::pin(App::start(config)).await?;
    if let Some(key) = &app.new_admin_key {
        first_key::show(key, database.as_deref());
    }
    say(format_args!("listening on {}", app.url));
    let reaped = tokio::select! {
        () = signals.asked() => false,
        () = app.reaped() => true,
    };
    tracing::info!("server stopping");
    let stop = async {
        app.start_stopping().await;
        app.stop().await;
    };
    tokio::select! {
        () = stop => {}
        () = signals.asked() => stop_at_once(),
    }
    if reaped { Err(CliError::failed("another posthaste has taken over the database")) } else { Ok(()) }
}

/// Ends the process as a crash would. Nothing is lost: what is owed is in the database.
fn stop_at_once() -> ! {
    tracing::warn!("second stop signal; ending at once, and deliveries in flight are sent again after the next start");
    std::process::exit(INTERRUPTED)
}
