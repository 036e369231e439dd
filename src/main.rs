//! Runs the command line; everything else is in the library.

use std::process::ExitCode;

/// mimalloc frees cheaply across threads: the API allocates a delivery, an endpoint sends it, the journal writes it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    posthaste::cli::run()
}
