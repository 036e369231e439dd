//! `posthaste check`

use crate::store::{Options, Store};

use super::{CliError, Settings};

pub(super) async fn run(settings: Settings) -> Result<(), CliError> {
    let config = settings.load()?;
    let options = Options { migrate: false, reads_secrets: false, ..config.database() };
    let store = Store::open(options).await?;
    let problems = store.integrity_problems().await?;
    store.close().await;
    if problems.is_empty() {
        println!("integrity: ok");
        return Ok(());
    }
    Err(CliError::failed(format!("integrity: {}", problems.join("; "))))
}
