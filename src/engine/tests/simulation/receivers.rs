//! Simulated receivers: how a request ends, and after how long. Their moods change during a simulation.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::domain::outcome::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Accepts,
    /// Accepts after more than a second.
    Slow,
    /// Accepts every other request, at random.
    Flaky,
    /// Answers 500.
    Fails,
    /// Does not answer before the timeout.
    Hangs,
    Refuses,
    /// Answers 429 with a `Retry-After` of so many seconds.
    Throttles(u64),
    /// Answers 410.
    Gone,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Receiver {
    pub(super) mood: Mood,
}

impl Receiver {
    /// Changes the mood at random; accepting is the most likely one.
    pub(super) fn change(&mut self, chance: &mut StdRng) {
        self.mood = match chance.random_range(0..20) {
            0..6 => Mood::Accepts,
            6 => Mood::Slow,
            7..10 => Mood::Flaky,
            10..13 => Mood::Fails,
            13..15 => Mood::Hangs,
            15..17 => Mood::Refuses,
            17 => Mood::Throttles(0),
            18 => Mood::Throttles(chance.random_range(1..45)),
            _ => Mood::Gone,
        };
    }

    /// How a request with the timeout `limit` ends, and after how long.
    pub(super) fn answer(&self, limit: Duration, chance: &mut impl Rng) -> (Outcome, Duration) {
        let quick = Duration::from_millis(chance.random_range(1..300));
        let after = |seconds| Some(Duration::from_secs(seconds));
        match self.mood {
            Mood::Accepts => (Outcome::of_status(200, None), quick),
            Mood::Slow if limit > Duration::from_millis(1600) => (Outcome::of_status(200, None), quick * 2 + SLOWLY),
            Mood::Slow | Mood::Hangs => (Outcome::TimedOut, limit),
            Mood::Flaky if chance.random_bool(0.5) => (Outcome::of_status(204, None), quick),
            Mood::Flaky => (Outcome::ProtocolError, quick),
            Mood::Fails => (Outcome::of_status(500, None), quick),
            Mood::Refuses => (Outcome::ConnectFailed, quick / 10),
            Mood::Throttles(seconds) => (Outcome::of_status(429, after(seconds)), quick),
            Mood::Gone => (Outcome::of_status(410, None), quick),
        }
    }
}

const SLOWLY: Duration = Duration::from_millis(1001);
