//! Logs: words on a terminal, JSON lines elsewhere, on standard error. Never secrets, bodies or signatures.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// The filter that could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "POSTHASTE_LOG (--log, log in the file): `{filter}` is not accepted; expected a tracing filter such as info or posthaste=debug"
)]
pub struct LogError {
    filter: String,
}

/// Starts logging; called once.
pub fn start(filter: &str) -> Result<(), LogError> {
    let refused = || LogError { filter: filter.to_owned() };
    let parsed = EnvFilter::try_new(filter).map_err(|_| refused())?;
    // Waiting for a reader is how a busy store pushes back, and no event of its own.
    let parsed = parsed.add_directive("sqlx::pool::acquire=error".parse().map_err(|_| refused())?);
    // The certificate of a receiver is the receiver's business, and the log of its webhook says what is wrong with it.
    let parsed = parsed.add_directive("rustls_platform_verifier=off".parse().map_err(|_| refused())?);
    // Where nobody can write, nobody can complain about that either; to try would be a panic.
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(stderr).log_internal_errors(false);
    if stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
    Ok(())
}
