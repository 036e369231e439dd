//! `posthaste openapi`

use std::io::Write;

use crate::api;

use super::CliError;

pub(super) fn run() -> Result<(), CliError> {
    let document = serde_json::to_string_pretty(&api::openapi()).map_err(CliError::failed)?;
    // A reader that has seen enough is no failure.
    let _ = writeln!(std::io::stdout(), "{document}");
    Ok(())
}
