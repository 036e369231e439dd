//! Parses the log filter. Called by `config` and by the commands.

use tracing_subscriber::EnvFilter;

use super::{ConfigError, refused};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Parses a filter; refuses a part that is neither a level nor has one.
pub fn log_filter(text: &str) -> Result<EnvFilter, ConfigError> {
    if let Some(part) = misspelt_level(text) {
        return Err(refused("log", part));
    }
    EnvFilter::try_new(text).map_err(|_| refused("log", text))
}

/// A part without a level. The library would take it for the name of a target and log nothing else.
fn misspelt_level(filter: &str) -> Option<&str> {
    let is_level = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
    filter.split(',').find(|part| !part.is_empty() && !part.contains('=') && !is_level(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_filter_without_a_target_is_a_level() {
        for accepted in ["info", "WARN", "off", "info,", "warn,posthaste::endpoint=info", "posthaste[span{a=1}]=debug"]
        {
            assert!(log_filter(accepted).is_ok(), "{accepted}");
        }
        for (filter, part) in [
            ("warning", "warning"),
            ("info,loud", "loud"),
            ("posthaste", "posthaste"),
            ("info, warn", " warn"),
            ("posthaste=loud", "posthaste=loud"),
        ] {
            let said = log_filter(filter).unwrap_err().to_string();
            assert!(said.starts_with("POSTHASTE_LOG (--log, log in the file): "), "{said}");
            assert!(said.contains(&format!("`{part}` is not accepted")), "{said}");
            assert!(LEVELS.iter().all(|level| said.contains(level)), "{said}");
        }
    }
}
