//! The clock of this process, which does not jump when the system's does. It reads the system's clock and follows a
//! reference clock; moments themselves are in [`crate::domain::moment`].

mod slew;

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::MissedTickBehavior;

use self::slew::{Meaning, Reading, Slew};
use crate::domain::moment::{LAST, UnixMillis};

impl UnixMillis {
    /// The time by this process's clock. All waits and all records use it.
    #[must_use]
    pub fn now() -> Self {
        Self(slew().read().at(steady()).div_euclid(1000))
    }

    /// The time by the reference clock, as far as it is known. It is for what others compare with clocks of their own,
    /// and it jumps when the reference clock does.
    #[must_use]
    pub fn now_reference() -> Self {
        Self(slew().read().reference_at(steady()).div_euclid(1000))
    }
}

/// How often the system's clock is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Smaller differences between the clocks are not logged.
const NOTED_MS: i64 = 1000;

/// A question to the reference clock that is not answered yet.
#[derive(Debug)]
pub(crate) struct Question {
    asked_at: Duration,
}

impl Question {
    #[must_use]
    pub(crate) fn ask() -> Self {
        Self { asked_at: steady() }
    }

    /// Takes the answer. The reference clock was read at some moment since the question, so the uncertainty is half of
    /// that time.
    pub(crate) fn answered(self, said: UnixMillis) {
        let took = steady().saturating_sub(self.asked_at);
        let uncertainty = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX);
        let reading = Reading { at: self.asked_at + took / 2, said: said.0.saturating_mul(1000), uncertainty };
        let meaning = slew().write().observe(reading);
        match meaning {
            Meaning::InStep => {}
            Meaning::Jumped(by) => {
                let by_ms = by / 1000;
                tracing::warn!(by_ms, "reference clock jumped; followed slowly if it stays there for five minutes");
            }
            Meaning::Taken(by) => tracing::warn!(
                by_ms = by / 1000,
                "reference clock stayed where it jumped to; its time is adopted at once"
            ),
        }
    }
}

/// Follows the system's clock as the reference clock, for a process whose database has none.
pub(crate) async fn follow_the_system() {
    each_look(|| Question::ask().answered(by_the_system())).await;
}

/// Logs when the system's clock differs from the reference clock. Nothing waits by the system's clock, but logs and
/// certificate checks use it.
pub(crate) async fn watch_the_system() {
    let mut said_ms = 0;
    each_look(|| {
        let by_ms = by_the_system().0 - UnixMillis::now_reference().0;
        if (by_ms - said_ms).abs() <= NOTED_MS {
            return;
        }
        said_ms = by_ms;
        if by_ms.abs() > NOTED_MS {
            tracing::warn!(by_ms, "system clock differs from the database's; the database's counts");
        } else {
            tracing::info!("system clock agrees with the database's again");
        }
    })
    .await;
}

async fn each_look(mut look: impl FnMut()) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look();
    }
}

/// The clock of this process. It starts at the system's time, until the first answer of the reference clock.
fn slew() -> &'static RwLock<Slew> {
    static SLEW: OnceLock<RwLock<Slew>> = OnceLock::new();
    SLEW.get_or_init(|| RwLock::new(Slew::new(steady(), by_the_system().0 * 1000)))
}

/// The only place that reads the system's clock. The timestamps of log lines come from that clock, too.
#[expect(clippy::disallowed_methods, reason = "this is where the system's clock is read")]
pub(crate) fn by_the_system() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(LAST))
}

/// The time since the machine was started. Nobody can set it; on Linux it goes on while the machine sleeps.
fn steady() -> Duration {
    #[cfg(target_os = "linux")]
    let id = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let id = ClockId::Monotonic;
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}
