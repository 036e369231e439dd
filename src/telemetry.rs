//! Logs: words on a terminal, JSON lines elsewhere, on standard error. Never secrets, bodies or signatures.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Not logged with any filter. Waiting for a reader is how a busy store pushes back, and no event of its own. The certificate
/// of a receiver is the receiver's business, and the log of its webhook says what is wrong with it.
const NEVER: [&str; 2] = ["sqlx::pool::acquire=error", "rustls_platform_verifier=off"];

/// Starts logging; called once.
pub fn start(filter: EnvFilter) {
    let directives = NEVER.iter().filter_map(|directive| directive.parse().ok());
    let filter = directives.fold(filter, EnvFilter::add_directive);
    // Where nobody can write, nobody can complain about that either; to try would be a panic.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
    if stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}
