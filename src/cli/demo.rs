//! `posthaste demo`: runs a server on a temporary database, receivers that misbehave, and a steady flow of events. The
//! demo uses the server over HTTP only, as users do.

mod client;
mod guide;
mod receivers;
mod scene;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tokio::time::MissedTickBehavior;

use crate::app::{App, AppError, StopSignals};
use crate::config::{self, Config, Written};
use crate::listener::ListenError;
use crate::telemetry;

use self::client::Client;
use self::guide::{Guide, Summary};
use self::receivers::Receivers;
use self::scene::Scene;
use super::{CliError, say};

/// Short, so that Ctrl-C does not wait for the receiver that hangs; the database is discarded anyway.
const STOP_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Address of the API; port 0 picks a free port
    #[arg(long, env = "POSTHASTE_LISTEN", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Milliseconds between two events
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    every_ms: u64,
    /// End after this many seconds [default: end on Ctrl-C or SIGTERM]
    #[arg(long, value_name = "N")]
    for_seconds: Option<u64>,
    /// Log filter, such as info or posthaste=debug
    #[arg(long, env = "POSTHASTE_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
}

pub(super) async fn run(args: DemoArgs) -> Result<(), CliError> {
    config::check_variables()?;
    telemetry::start(config::log_filter(&args.log)?);
    let mut signals = StopSignals::catch()?;
    let directory = tempfile::tempdir().map_err(CliError::failed)?;
    let receivers = Receivers::start().await.map_err(CliError::failed)?;
    let app = Box::pin(App::start(settings(&args, directory.path())?)).await.map_err(explained)?;
    let played = tokio::select! {
        played = Box::pin(play(&app, &receivers, &args)) => played.map(|never| match never {}),
        () = signals.asked() => Ok(()),
        () = time_is_up(args.for_seconds) => Ok(()),
    };
    app.stop().await;
    let seen = receivers.stop().await;
    directory.close().map_err(CliError::failed)?;
    played.inspect(|()| say(format_args!("\n{}", Summary(&seen))))
}

/// The settings of `posthaste serve`, with plain HTTP and loopback receivers allowed.
fn settings(args: &DemoArgs, directory: &Path) -> Result<Config, CliError> {
    Ok(Config {
        database_url: format!("sqlite://{}", directory.join("demo.db").display()).into(),
        listen: args.listen,
        allow_http: true,
        egress_allow: vec!["127.0.0.0/8".parse().map_err(CliError::failed)?],
        admin_key: None,
        master_key: None,
        previous_keys: Vec::new(),
        stop_grace: STOP_GRACE,
        ..Config::try_from(Written::default())?
    })
}

fn explained(error: AppError) -> CliError {
    match error {
        AppError::Listen(ListenError::Bind { address, source }) if source.kind() == io::ErrorKind::AddrInUse => {
            CliError::failed(format!(
                "--listen: {address} is in use; choose another address, or any free port with --listen 127.0.0.1:0"
            ))
        }
        other => other.into(),
    }
}

/// Creates the sample tenant and webhooks, prints the guide, and publishes until this future is dropped.
async fn play(app: &App, receivers: &Receivers, args: &DemoArgs) -> Result<Infallible, CliError> {
    let url = app.url.clone();
    let admin_key =
        app.new_admin_key.as_deref().ok_or_else(|| CliError::failed("the new database has no admin key"))?;
    let admin = Client::new(&url, admin_key)?;
    let scene = Scene::set(&admin, receivers).await?;
    let every = Duration::from_millis(args.every_ms);
    say(Guide { url: &url, admin_key, scene: &scene, every });

    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    for number in 1.. {
        tick.tick().await;
        if let Err(error) = scene.publish(number).await {
            tracing::warn!(%error, "sample event not published; the demo goes on with the next one");
        }
    }
    Err(CliError::failed("there are no further numbers for events"))
}

async fn time_is_up(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}
