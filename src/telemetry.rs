//! Logs: words on a terminal, JSON lines elsewhere, on standard error. Never secrets, bodies or signatures.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The filter that could not be read, or the part of it.
#[derive(Debug, thiserror::Error)]
#[error(
    "POSTHASTE_LOG (--log, log in the file): `{filter}` is not accepted; expected a tracing filter such as info or posthaste=debug, \
     with one of the levels {}", LEVELS.join(", ")
)]
pub struct LogError {
    filter: String,
}

/// Starts logging; called once.
pub fn start(filter: &str) -> Result<(), LogError> {
    let refused = || LogError { filter: filter.to_owned() };
    if let Some(part) = misspelt_level(filter) {
        return Err(LogError { filter: part.to_owned() });
    }
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

/// A part without a level. The library would take it for the name of a target, and log nothing else.
fn misspelt_level(filter: &str) -> Option<&str> {
    let is_level = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
    filter.split(',').find(|part| !part.is_empty() && !part.contains('=') && !is_level(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_filter_without_a_target_is_a_level() {
        for accepted in
            ["info", "WARN", "off", "", "info,", "warn,posthaste::endpoint=info", "posthaste[span{a=1}]=debug"]
        {
            assert_eq!(misspelt_level(accepted), None, "{accepted}");
        }
        for (filter, part) in
            [("warning", "warning"), ("info,loud", "loud"), ("posthaste", "posthaste"), ("info, warn", " warn")]
        {
            assert_eq!(misspelt_level(filter), Some(part));
            let said = start(filter).unwrap_err().to_string();
            assert!(said.contains(&format!("`{part}` is not accepted")) && said.contains("off, error, warn"), "{said}");
        }
    }
}
