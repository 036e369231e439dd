//! Sets up the log on standard error: text on a terminal, JSON lines elsewhere. Called once by the command line. The
//! log never contains secrets, bodies or signatures.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Not logged under any filter. sqlx: waiting for a reader is how a busy store pushes back, not an event. The verifier:
/// a receiver's certificate is the receiver's business, and the log of its webhook says what is wrong with it.
const NEVER: [&str; 2] = ["sqlx::pool::acquire=error", "rustls_platform_verifier=off"];

/// Starts logging; called once.
pub fn start(filter: EnvFilter) {
    let directives = NEVER.iter().filter_map(|directive| directive.parse().ok());
    let filter = directives.fold(filter, EnvFilter::add_directive);
    // A failed write is not reported: that would be another write to standard error, and its failure a panic.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).log_internal_errors(false);
    if stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}
