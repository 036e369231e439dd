//! `posthaste serve`

use crate::app::{App, StopSignals};
use crate::telemetry;

use super::{CliError, Settings};

pub(super) async fn run(settings: Settings) -> Result<(), CliError> {
    let config = settings.load()?;
    telemetry::start(&config.log)?;
    let mut signals = StopSignals::catch()?;
    let app = Box::pin(App::start(config)).await?;
    if let Some(key) = &app.new_admin_key {
        println!("admin key, shown only now: {key}");
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
