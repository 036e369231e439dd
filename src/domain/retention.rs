//! How long what is settled is kept. Pure.

use std::ops::RangeInclusive;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The ages at which the engine deletes, for tenants without settings of their own. `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events, with their deliveries and attempts.
    pub events: Option<Duration>,
    /// What is kept of receivers' answers.
    pub responses: Option<Duration>,
    /// Rows of the audit log.
    pub audit: Option<Duration>,
}

impl Retention {
    pub const DEFAULT: Self = Self { events: Some(days(30)), responses: Some(days(7)), audit: Some(days(400)) };

    /// Outcomes of the last seconds are still on their way to the log index, and requests are still being made.
    pub const SHORTEST: Duration = Duration::from_secs(10);

    /// Ten years.
    pub const LONGEST: Duration = days(3650);

    /// What a tenant may choose, in seconds: an hour to ten years.
    pub const OF_TENANT: RangeInclusive<u32> = 3600..=315_360_000;

    /// The shortest of the three.
    #[must_use]
    pub fn shortest(&self) -> Option<Duration> {
        [self.events, self.responses, self.audit].into_iter().flatten().min()
    }
}

const fn days(days: u32) -> Duration {
    Duration::from_secs(DAY.as_secs() * days as u64)
}
