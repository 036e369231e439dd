//! Handles failures of our own code. When an essential task panics, the process aborts: its supervisor starts it again,
//! and what is owed is in the store.
//!
//! Also the fault points, at which tests make a debug build fail: `POSTHASTE_FAULT=<abort|panic>:<point>[:<n>]` fires
//! at the n-th passage, with `<n>+` also at every later one. `POSTHASTE_FAULT_WEBHOOK=<name>` limits the fault to one
//! webhook. Release builds contain no fault points.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use futures_util::FutureExt;

/// Runs a task that the engine cannot live without; aborts the process if the task panics.
pub async fn or_abort<T>(what: &str, task: impl Future<Output = T>) -> T {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(output) => output,
        Err(_) => abort(what),
    }
}

thread_local! {
    /// Where this thread panicked last.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Records the location of every panic, and then calls the previous hook. Not the message, which may quote data.
pub fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
            LAST_PANIC.with(|last| last.replace(place));
            before(panic);
        }));
    });
}

/// Where this thread panicked last, as file and line.
#[must_use]
pub fn last_panic() -> Option<String> {
    LAST_PANIC.with(|last| last.borrow().clone())
}

/// Ends the process as a crash.
pub fn abort(what: &str) -> ! {
    tracing::error!("{what} failed; the process aborts and has to be started again");
    std::process::abort()
}

/// A fault point: aborts or panics here if the test asks for it.
#[inline]
pub fn point(name: &str) {
    #[cfg(test)]
    simulated::passage(name);
    #[cfg(debug_assertions)]
    armed::passage(name, None);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// A fault point like [`point`], passed for one webhook.
#[inline]
pub fn point_of(name: &str, webhook: &str) {
    #[cfg(debug_assertions)]
    armed::passage(name, Some(webhook));
    #[cfg(not(debug_assertions))]
    let _ = (name, webhook);
}

/// Fault points as a simulation on this thread wants them.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    thread_local! {
        static HOOK: Cell<Option<fn(&str)>> = const { Cell::new(None) };
    }

    /// Calls `hook` at every fault point that this thread passes; it may panic.
    pub(crate) fn set(hook: Option<fn(&str)>) {
        HOOK.set(hook);
    }

    pub(super) fn passage(name: &str) {
        if let Some(hook) = HOOK.get() {
            hook(name);
        }
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    enum Action {
        Abort,
        Panic,
    }

    struct Fault {
        action: Action,
        point: String,
        at: u64,
        again: bool,
        webhook: Option<String>,
        passages: AtomicU64,
    }

    fn fault() -> Option<&'static Fault> {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        FAULT.get_or_init(from_environment).as_ref()
    }

    fn from_environment() -> Option<Fault> {
        let text = std::env::var("POSTHASTE_FAULT").ok()?;
        let mut parts = text.split(':');
        let action = match parts.next()? {
            "abort" => Action::Abort,
            "panic" => Action::Panic,
            _ => return None,
        };
        let point = parts.next()?.to_owned();
        let at = parts.next().unwrap_or("1");
        let (at, again) = (at.trim_end_matches('+').parse().unwrap_or(1), at.ends_with('+'));
        let webhook = std::env::var("POSTHASTE_FAULT_WEBHOOK").ok();
        Some(Fault { action, point, at, again, webhook, passages: AtomicU64::new(0) })
    }

    pub(super) fn passage(name: &str, webhook: Option<&str>) {
        let Some(fault) = fault() else { return };
        if fault.point != name || fault.webhook.as_deref().is_some_and(|only| Some(only) != webhook) {
            return;
        }
        let passage = fault.passages.fetch_add(1, Ordering::Relaxed) + 1;
        if passage == fault.at || fault.again && passage > fault.at {
            match fault.action {
                Action::Abort => std::process::abort(),
                Action::Panic => panic!("fault {name}"),
            }
        }
    }
}
