//! Parse and run; everything else is in the library.

use std::process::ExitCode;

/// Frees across threads cheaply: a delivery is allocated by the API, sent by an endpoint and written by the journal.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    posthaste::cli::run()
}
