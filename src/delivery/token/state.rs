//! Decides when a token is used, when a new one is requested, and for how long a token endpoint that failed is left
//! alone. Called by `token`. Pure: `now` is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::grant::Granted;
use super::{Refusal, Token};
use crate::domain::outcome::Outcome;

/// How long a token lives if its endpoint does not say, which RFC 6749, 5.1, permits.
const UNSAID_LIFE: Duration = Duration::from_mins(5);

/// No token is used for longer: it may be revoked, and nobody tells the client.
pub(super) const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// A token is renewed this long before it ends, or when a tenth of its life is left, whichever is shorter.
const RENEWAL: Duration = Duration::from_mins(1);

/// A token endpoint that failed is left alone for this long, and twice as long after each further failure, up to the
/// limit. The limit is as long as the first cool-down of a breaker.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct State {
    kept: Option<Kept>,
    failed: Option<Failed>,
    /// The number of the last token.
    number: u64,
}

#[derive(Debug)]
struct Kept {
    token: Token,
    renew_at: Instant,
    ends_at: Instant,
}

#[derive(Debug)]
struct Failed {
    refusal: Refusal,
    times: u32,
    until: Instant,
}

/// What an attempt does about its token.
#[derive(Debug)]
pub(super) enum Step {
    Use(Token),
    /// Request a new token. `meanwhile` is the old one, if it is still valid: it serves while another attempt makes the
    /// request.
    Ask {
        meanwhile: Option<Token>,
    },
    /// The last token request failed a moment ago; make none now.
    Refuse(Refusal),
}

impl State {
    pub(super) fn step(&self, now: Instant) -> Step {
        let living = self.kept.as_ref().filter(|kept| now < kept.ends_at);
        let failed = self.failed.as_ref().filter(|failed| now < failed.until);
        match (living, failed) {
            (Some(kept), Some(_)) => Step::Use(kept.token.clone()),
            (Some(kept), None) if now < kept.renew_at => Step::Use(kept.token.clone()),
            (Some(kept), None) => Step::Ask { meanwhile: Some(kept.token.clone()) },
            (None, Some(failed)) => Step::Refuse(failed.refusal_at(now)),
            (None, None) => Step::Ask { meanwhile: None },
        }
    }

    /// Applies the answer of the token endpoint.
    pub(super) fn learn(&mut self, answer: Result<Granted, Refusal>, now: Instant) -> Result<Token, Refusal> {
        match answer {
            Ok(Granted { header, expires_in }) => {
                self.number += 1;
                self.failed = None;
                let token = Token { header, number: self.number };
                let life = expires_in.unwrap_or(UNSAID_LIFE).min(LONGEST_LIFE);
                let renew_at = now + (life - RENEWAL.min(life / 10));
                self.kept = Some(Kept { token: token.clone(), renew_at, ends_at: now + life });
                Ok(token)
            }
            Err(refusal) => {
                let times = self.failed.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
                let until = now + pause(times).max(hint(&refusal.outcome));
                self.failed = Some(Failed { refusal: refusal.clone(), times, until });
                Err(refusal)
            }
        }
    }

    /// Drops this token, unless a newer one has replaced it.
    pub(super) fn discard(&mut self, refused: &Token) {
        self.kept.take_if(|kept| kept.token.number == refused.number);
    }
}

impl Failed {
    /// The failure of the last request, with a note that no other was made.
    fn refusal_at(&self, now: Instant) -> Refusal {
        let Refusal { outcome, text } = self.refusal.clone();
        let left = self.until.saturating_duration_since(now);
        let outcome = match outcome {
            Outcome::Throttled { .. } => Outcome::Throttled { retry_after: Some(left) },
            other => other,
        };
        Refusal { outcome, text: format!("{text}; not asked again for {} ms", left.as_millis().max(1)) }
    }
}

fn pause(times: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(LONGEST_PAUSE)
}

/// For how long the token endpoint asked to be left alone.
fn hint(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Throttled { retry_after } => retry_after.unwrap_or_default(),
        Outcome::Success
        | Outcome::Rejected
        | Outcome::Gone
        | Outcome::TimedOut
        | Outcome::ConnectFailed
        | Outcome::TlsFailed
        | Outcome::DnsFailed
        | Outcome::Blocked
        | Outcome::ProtocolError
        | Outcome::Crashed => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn granted(seconds: Option<u64>) -> Result<Granted, Refusal> {
        Ok(Granted { header: HeaderValue::from_static("Bearer x"), expires_in: seconds.map(Duration::from_secs) })
    }

    fn failed(outcome: Outcome) -> Result<Granted, Refusal> {
        Err(Refusal { outcome, text: "no".to_owned() })
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn word(step: &Step) -> &'static str {
        match step {
            Step::Use(_) => "use",
            Step::Ask { meanwhile: None } => "ask",
            Step::Ask { meanwhile: Some(_) } => "renew",
            Step::Refuse(_) => "refuse",
        }
    }

    #[test]
    fn a_token_is_renewed_a_minute_or_a_tenth_before_it_ends() {
        let start = Instant::now();
        for (life, renewed_at, ends_at) in
            [(Some(3600), 3_540_000, 3_600_000), (Some(100), 90_000, 100_000), (None, 270_000, 300_000)]
        {
            let mut state = State::default();
            assert_eq!(word(&state.step(start)), "ask");
            state.learn(granted(life), start).unwrap();
            assert_eq!(word(&state.step(after(start, renewed_at - 1))), "use");
            assert_eq!(word(&state.step(after(start, renewed_at))), "renew");
            assert_eq!(word(&state.step(after(start, ends_at - 1))), "renew");
            assert_eq!(word(&state.step(after(start, ends_at))), "ask");
        }
    }

    #[test]
    fn no_life_is_longer_than_a_day_and_one_of_nothing_serves_once() {
        let (start, mut state) = (Instant::now(), State::default());
        state.learn(granted(Some(u64::MAX)), start).unwrap();
        assert_eq!(word(&state.step(start + LONGEST_LIFE)), "ask");
        state.learn(granted(Some(0)), start).unwrap();
        assert_eq!(word(&state.step(start)), "ask");
    }

    #[test]
    fn an_endpoint_that_fails_is_left_alone_for_longer_and_longer() {
        let (mut now, mut state) = (Instant::now(), State::default());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            state.learn(failed(Outcome::TimedOut), now).unwrap_err();
            assert_eq!(word(&state.step(after(now, pause * 1000 - 1))), "refuse");
            now = after(now, pause * 1000);
            assert_eq!(word(&state.step(now)), "ask");
        }
        state.learn(granted(Some(1)), now).unwrap();
        state.learn(failed(Outcome::TimedOut), after(now, 1000)).unwrap_err();
        assert_eq!(word(&state.step(after(now, 2000))), "ask", "a success begins anew");
    }

    #[test]
    fn what_asks_for_time_gets_it_and_says_how_much_is_left() {
        let (start, mut state) = (Instant::now(), State::default());
        let outcome = Outcome::Throttled { retry_after: Some(Duration::from_secs(90)) };
        state.learn(failed(outcome), start).unwrap_err();
        let Step::Refuse(refusal) = state.step(after(start, 30_000)) else { panic!("it was asked for time") };
        assert_eq!(refusal.outcome, Outcome::Throttled { retry_after: Some(Duration::from_mins(1)) });
        assert_eq!(refusal.text, "no; not asked again for 60000 ms");
    }

    #[test]
    fn a_token_that_lives_is_used_while_its_endpoint_fails() {
        let (start, mut state) = (Instant::now(), State::default());
        state.learn(granted(Some(100)), start).unwrap();
        state.learn(failed(Outcome::ConnectFailed), after(start, 95_000)).unwrap_err();
        assert_eq!(word(&state.step(after(start, 95_500))), "use");
        assert_eq!(word(&state.step(after(start, 96_000))), "renew");
    }

    #[test]
    fn only_the_token_that_was_refused_is_thrown_away() {
        let (start, mut state) = (Instant::now(), State::default());
        let old = state.learn(granted(Some(100)), start).unwrap();
        state.learn(granted(Some(100)), start).unwrap();
        state.discard(&old);
        assert_eq!(word(&state.step(start)), "use");
        let Step::Use(current) = state.step(start) else { panic!("there is one") };
        state.discard(&current);
        assert_eq!(word(&state.step(start)), "ask");
    }
}
