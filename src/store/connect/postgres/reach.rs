//! Makes the first connection to the server, without a pool: a pool reports every failure as a timeout.

use std::io::ErrorKind;
use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{self, ConnectOptions, Connection};
use tokio::time::{Instant, sleep, timeout_at};

use super::{ACQUIRE, introduced};
use crate::store::OpenError;

/// Pause between two attempts while the server is starting.
const PAUSE: Duration = Duration::from_millis(200);

/// `cannot_connect_now`: the server is starting or stopping.
const STARTING: &str = "57P03";

/// Classes of `invalid_authorization_specification` and `invalid_catalog_name`: the URL is wrong.
const OF_THE_URL: [&str; 2] = ["28", "3D"];

/// Waits for a server that is starting, as long as for any connection.
pub(super) async fn once(url: &str) -> Result<(), OpenError> {
    let Ok(options) = url.parse::<PgConnectOptions>().map(introduced) else { return Ok(()) };
    let end = Instant::now() + ACQUIRE;
    loop {
        let failed = match timeout_at(end, options.connect()).await {
            Ok(Ok(connection)) => {
                // The connection is only a probe: an error while it is closed means nothing.
                let _ = connection.close().await;
                return Ok(());
            }
            Ok(Err(error)) if may_be_starting(&error) && Instant::now() + PAUSE < end => None,
            Ok(Err(error)) => Some(explained(&options, &error)),
            Err(_) => Some(unreachable(&options, format!("no answer within {} s", ACQUIRE.as_secs()))),
        };
        if let Some(error) = failed {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

fn may_be_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == STARTING),
        _ => false,
    }
}

fn explained(options: &PgConnectOptions, error: &sqlx::Error) -> OpenError {
    let why = match error {
        sqlx::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => {
            let is_of_url = error.code().is_some_and(|code| OF_THE_URL.iter().any(|class| code.starts_with(class)));
            if is_of_url {
                let (server, why) = (server(options), error.message());
                return OpenError::Setting(format!(
                    "POSTHASTE_DATABASE_URL (--database-url, database_url in the file): PostgreSQL at {server} refuses it: {why}"
                ));
            }
            error.message().to_owned()
        }
        other => other.to_string(),
    };
    unreachable(options, why)
}

fn unreachable(options: &PgConnectOptions, why: String) -> OpenError {
    OpenError::Unreachable { server: server(options), why }
}

/// Where the server listens: host and port, or the directory of a socket.
fn server(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(directory) => format!("{}, port {}", directory.display(), options.get_port()),
        None => format!("{}, port {}", options.get_host(), options.get_port()),
    }
}
