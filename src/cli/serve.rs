//! `posthaste serve`

mod first_key;

use std::path::PathBuf;

use secrecy::ExposeSecret;

use crate::app::{App, StopSignals};
use crate::telemetry;

use super::{CliError, Settings};

pub(super) async fn run(settings: Settings) -> Result<(), CliError> {
    let config = settings.load()?;
    telemetry::start(&config.log)?;
    let database = config.database_url.expose_secret().strip_prefix("sqlite://").map(PathBuf::from);
    let mut signals = StopSignals::catch()?;
    let app = Box::pin(App::start(config)).await?;
    if let Some(key) = &app.new_admin_key {
        first_key::show(key, database.as_deref());
    }
    println!("listening on {}", app.url);
    let deposed = tokio::select! {
        () = signals.asked() => false,
        () = app.deposed() => true,
    };
    tracing::info!("stopping");
    app.stop().await;
    if deposed { Err(CliError::failed("another posthaste has taken over the database")) } else { Ok(()) }
}
