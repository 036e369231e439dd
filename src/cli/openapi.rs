//! `posthaste openapi`: prints the OpenAPI document of the management API.

use crate::api;

use super::{CliError, say};

pub(super) fn run() -> Result<(), CliError> {
    let document = serde_json::to_string_pretty(&api::openapi()).map_err(CliError::failed)?;
    say(document);
    Ok(())
}
