//! How much the dispatcher has in hand, and how many endpoints of one tenant are many. Pure.

use super::tenant_quota::LARGE;

/// How much the dispatcher has in hand. The simulation makes all of it small, so that every bound is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct DispatchBounds {
    /// Targets offered at once.
    pub(super) chunk: usize,
    /// The most events whose fan-outs are read back at once.
    pub(super) read: usize,
    /// The most fan-outs that a scan reads at once.
    pub(super) scan: usize,
    /// Payload and target bytes in the fair queue beyond which further fan-outs wait in the feed.
    pub(super) held: usize,
    /// Items of one tenant that may wait for activations. Beyond this, the tenant's fan-outs wait.
    pub(super) activator: usize,
    /// Items whose endpoints are activated together: a few milliseconds of work, for which another tenant may have to
    /// wait.
    pub(super) slice: usize,
    /// The same while other tenants are active, which would notice even those milliseconds.
    pub(super) small_slice: usize,
    /// With this many live endpoints of one tenant, idle ones end at once and activations are paced.
    pub(super) live_endpoints: usize,
}

impl DispatchBounds {
    pub(super) const LIVE: Self = Self {
        chunk: 256,
        read: 64,
        scan: 256,
        held: 32 * 1024 * 1024,
        activator: 1024,
        slice: 128,
        small_slice: 16,
        live_endpoints: LARGE,
    };
}
