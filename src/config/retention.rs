//! Reads how long what is settled is kept. Called by `config`.

use std::time::Duration;

use super::{ConfigError, Written, refused};
use crate::domain::retention::Retention;

/// Means "for ever".
const OFF: &str = "off";

/// The units of a duration, in seconds.
const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];

pub(super) fn read(written: &Written) -> Result<Retention, ConfigError> {
    let age = |key, given: &Option<String>, default| match given.as_deref().map(str::trim) {
        None => Ok(default),
        Some(OFF) => Ok(None),
        Some(text) => duration(text).map(Some).ok_or_else(|| refused(key, text)),
    };
    Ok(Retention {
        events: age("retention_events", &written.retention_events, Retention::DEFAULT.events)?,
        responses: age("retention_responses", &written.retention_responses, Retention::DEFAULT.responses)?,
        audit: age("retention_audit", &written.retention_audit, Retention::DEFAULT.audit)?,
    })
}

/// A whole number and its unit, within the accepted range.
fn duration(text: &str) -> Option<Duration> {
    let (number, seconds) = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)))?;
    if !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let duration = Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?);
    (Retention::SHORTEST..=Retention::LONGEST).contains(&duration).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_its_unit() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        for (text, read) in [("10s", 10), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("3650d", 315_360_000)] {
            assert_eq!(seconds(text), Some(read), "{text}");
        }
        for wrong in
            ["", "d", "30", "9s", "0d", "3651d", "-1d", "+30d", "1.5d", "30 d", "30D", "1w", "99999999999999999999d"]
        {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_age_has_its_default_and_can_be_switched_off() {
        let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
        let Retention { events, responses, audit } = read(&Written::default()).unwrap();
        assert_eq!((events, responses, audit), (days(30), days(7), days(400)));
        let written = Written { retention_responses: Some("off".to_owned()), ..Written::default() };
        assert_eq!(read(&written).unwrap(), Retention { responses: None, ..Retention::DEFAULT });
        let written = Written { retention_audit: Some("1y".to_owned()), ..Written::default() };
        assert_eq!(
            read(&written).unwrap_err().to_string(),
            "POSTHASTE_RETENTION_AUDIT (--retention-audit, retention_audit in the file): `1y` is not accepted; expected off, \
             or a whole number of seconds, minutes, hours or days, 10s to 3650d, such as 30d or 12h"
        );
    }
}
