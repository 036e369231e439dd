//! `posthaste openapi`

use crate::api;

use super::CliError;

pub(super) fn run() -> Result<(), CliError> {
    let document = serde_json::to_string_pretty(&api::openapi()).map_err(CliError::failed)?;
    println!("{document}");
    Ok(())
}
