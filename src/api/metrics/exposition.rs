//! Writes families of samples in the two text formats that scrapers read: the classic one of Prometheus (0.0.4) and
//! OpenMetrics 1.0.0. Pure.
//!
//! OpenMetrics names the family of a counter without the `_total` of its samples, and that of an info without `_info`;
//! it says the unit; and it ends with `# EOF`. The samples are the same in both, so a series keeps its name and labels
//! if a scraper changes the format.

use std::fmt::{self, Display, Write};

use crate::histogram::HistogramSnapshot;

/// Names of families end with their unit, if they have one.
const UNITS: [&str; 2] = ["seconds", "bytes"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Classic,
    OpenMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge that is always 1 and says something with its labels.
    Info,
}

pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page under way.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    text: String,
}

/// Writes the samples of one family.
#[derive(Debug)]
pub(super) struct Family<'a> {
    name: &'a str,
    kind: Kind,
    text: &'a mut String,
}

impl Format {
    pub(super) const BOTH: [Self; 2] = [Self::Classic, Self::OpenMetrics];

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Kind {
    /// What the names of samples have beyond the name of their family in OpenMetrics.
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }

    fn word(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Gauge, _) | (Self::Info, Format::Classic) => "gauge",
            (Self::Histogram, _) => "histogram",
            (Self::Info, Format::OpenMetrics) => "info",
        }
    }
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(16 * 1024) }
    }

    /// Begins a family. `name` has neither `_total` nor `_info`; `help` is one line.
    pub(super) fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let Self { format, text } = self;
        let suffix = match format {
            Format::Classic => kind.suffix(),
            Format::OpenMetrics => "",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name}{suffix} {help}");
        let _ = writeln!(text, "# TYPE {name}{suffix} {}", kind.word(*format));
        if *format == Format::OpenMetrics
            && let Some(unit) = unit_of(name)
        {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        Family { name, kind, text }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.write(self.kind.suffix(), labels, None, value);
        self
    }

    pub(super) fn histogram(&mut self, labels: Labels<'_>, snapshot: &HistogramSnapshot) -> &mut Self {
        for (bound_us, count) in snapshot.cumulative() {
            self.write("_bucket", labels, Some(&in_seconds(bound_us)), count);
        }
        let count = snapshot.count();
        self.write("_bucket", labels, Some("+Inf"), count);
        self.write("_sum", labels, None, snapshot.sum().as_secs_f64());
        self.write("_count", labels, None, count);
        self
    }

    fn write(&mut self, suffix: &str, labels: Labels<'_>, up_to: Option<&str>, value: impl Display) {
        let Self { name, text, .. } = self;
        text.push_str(name);
        text.push_str(suffix);
        let labels = labels.iter().copied().chain(up_to.map(|bound| ("le", bound)));
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(text, "{before}{label}=\"{}\"", Escaped(value));
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

fn unit_of(name: &str) -> Option<&'static str> {
    UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

/// As OpenMetrics writes bounds: always with a point.
#[allow(clippy::cast_precision_loss, reason = "a bound of days has far fewer digits than a float")]
fn in_seconds(us: u64) -> String {
    format!("{:?}", us as f64 / 1e6)
}

/// The value of a label, as it stands between quotes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\\' => f.write_str(r"\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            plain => f.write_char(plain),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::histogram::{Histogram, QUICK};

    fn page(format: Format) -> String {
        let mut page = Exposition::new(format);
        page.family("x_jobs", Kind::Counter, "Jobs").sample(&[("kind", "a\"\\\n")], 3).sample(&[("kind", "b")], 0);
        page.family("x_cpu_seconds", Kind::Counter, "CPU time").sample(&[], 0.25);
        page.family("x_build", Kind::Info, "Version").sample(&[("version", "1")], 1);
        page.family("x_seconds", Kind::Gauge, "No unit without a name before").sample(&[], 1.5);
        page.finish()
    }

    #[test]
    fn counters_and_infos_have_other_families_in_the_two_formats_and_the_same_samples() {
        assert_eq!(
            page(Format::Classic),
            "# HELP x_jobs_total Jobs\n# TYPE x_jobs_total counter\n\
             x_jobs_total{kind=\"a\\\"\\\\\\n\"} 3\nx_jobs_total{kind=\"b\"} 0\n\
             # HELP x_cpu_seconds_total CPU time\n# TYPE x_cpu_seconds_total counter\nx_cpu_seconds_total 0.25\n\
             # HELP x_build_info Version\n# TYPE x_build_info gauge\nx_build_info{version=\"1\"} 1\n\
             # HELP x_seconds No unit without a name before\n# TYPE x_seconds gauge\nx_seconds 1.5\n"
        );
        assert_eq!(
            page(Format::OpenMetrics),
            "# HELP x_jobs Jobs\n# TYPE x_jobs counter\n\
             x_jobs_total{kind=\"a\\\"\\\\\\n\"} 3\nx_jobs_total{kind=\"b\"} 0\n\
             # HELP x_cpu_seconds CPU time\n# TYPE x_cpu_seconds counter\n# UNIT x_cpu_seconds seconds\n\
             x_cpu_seconds_total 0.25\n\
             # HELP x_build Version\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
             # HELP x_seconds No unit without a name before\n# TYPE x_seconds gauge\n# UNIT x_seconds seconds\n\
             x_seconds 1.5\n# EOF\n"
        );
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_up_to_infinity() {
        let histogram = Histogram::new(&QUICK);
        [1, 700, 90_000].into_iter().for_each(|ms| histogram.count(Duration::from_millis(ms)));
        let mut page = Exposition::new(Format::Classic);
        page.family("x_seconds", Kind::Histogram, "How long").histogram(&[("op", "a")], &histogram.snapshot());
        let text = page.finish();
        let samples: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            samples[..2],
            ["x_seconds_bucket{op=\"a\",le=\"0.0005\"} 0", "x_seconds_bucket{op=\"a\",le=\"0.001\"} 1"]
        );
        assert_eq!(
            samples[10..12],
            ["x_seconds_bucket{op=\"a\",le=\"1.0\"} 2", "x_seconds_bucket{op=\"a\",le=\"2.5\"} 2"]
        );
        assert_eq!(
            samples[16..],
            [
                "x_seconds_bucket{op=\"a\",le=\"+Inf\"} 3",
                "x_seconds_sum{op=\"a\"} 90.701",
                "x_seconds_count{op=\"a\"} 3"
            ]
        );
    }
}
