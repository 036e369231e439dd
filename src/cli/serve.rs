//! `posthaste serve`

mod first_key;

use std::path::PathBuf;

use secrecy::ExposeSecret;

use crate::app::{App, StopSignals};
use crate::{config, telemetry};

use super::{CliError, Settings, say};

/// The exit code of a process that was interrupted (128 and the number of SIGINT).
const INTERRUPTED: i32 = 130;

/// `warnings`: what is unwise about the command line.
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
    let superseded = tokio::select! {
        () = signals.asked() => false,
        () = app.superseded() => true,
    };
    tracing::info!("stopping");
    let stop = async {
        app.start_stopping().await;
        app.stop().await;
    };
    tokio::select! {
        () = stop => {}
        () = signals.asked() => stop_at_once(),
    }
    if superseded { Err(CliError::failed("another posthaste has taken over the database")) } else { Ok(()) }
}

/// As a crash would, which loses nothing: what is owed is in the database.
fn stop_at_once() -> ! {
    tracing::warn!(
        "asked to stop a second time: ending at once; what was under way is sent again after the next start"
    );
    std::process::exit(INTERRUPTED)
}
