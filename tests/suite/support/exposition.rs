//! Reads metrics pages in both text formats, as strictly as the strictest scraper: a page that breaks a rule of its
//! format fails the test.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Answer;

pub(crate) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What OpenMetrics keeps for the samples of counters, histograms and infos.
const RESERVED: [&str; 6] = ["_total", "_count", "_sum", "_bucket", "_info", "_created"];

type Labels = BTreeMap<String, String>;

/// A metrics page that is sound.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

impl Page {
    pub(crate) fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let openmetrics = match answer.header("content-type").expect("a content type") {
            OPENMETRICS => true,
            CLASSIC => false,
            other => panic!("{other} is no format of metrics"),
        };
        let page = Self { families: families(&answer.text, openmetrics) };
        page.families.iter().for_each(|(name, family)| check(name, family, openmetrics));
        page.check_that_no_sample_comes_twice();
        page
    }

    /// The value of the one sample with this name and exactly these labels.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples().find(|sample| sample.name == name && sample.labels == labels).map(|sample| sample.value)
    }

    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("{name} {labels:?} is not in {self:#?}"))
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.values().flat_map(|family| &family.samples)
    }

    fn check_that_no_sample_comes_twice(&self) {
        let mut seen = BTreeSet::new();
        for sample in self.samples() {
            assert!(seen.insert((&sample.name, &sample.labels)), "twice: {sample:?}");
        }
    }
}

fn families(text: &str, openmetrics: bool) -> BTreeMap<String, Family> {
    let body = if openmetrics { text.strip_suffix("# EOF\n").expect("an end that says so") } else { text };
    assert!(body.ends_with('\n'), "the last line has no end");
    let (mut families, mut current) = (BTreeMap::<String, Family>::new(), String::new());
    for line in body.strip_suffix('\n').expect("it has").split('\n') {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help");
            current = name.to_owned();
            let fresh = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(current.clone(), fresh).is_none(), "{name} comes twice");
            continue;
        }
        let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family yet: {line}"));
        let is_fresh = family.samples.is_empty();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["#", "TYPE", name, kind] if is_fresh && family.kind.is_empty() && name == current => {
                family.kind = kind.to_owned();
            }
            ["#", "UNIT", name, unit] if openmetrics && is_fresh && family.unit.is_none() && name == current => {
                family.unit = Some(unit.to_owned());
            }
            _ => family.samples.push(sample(line)),
        }
    }
    families
}

fn sample(line: &str) -> Sample {
    assert!(!line.starts_with('#') && !line.is_empty(), "no sample: {line:?}");
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels_of(labels.strip_suffix('}').expect("a closing brace"))),
        None => (series, Labels::new()),
    };
    assert!(is_name(name), "{name} is no name");
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
    };
    assert!(!f64::is_nan(value), "{line}");
    Sample { name: name.to_owned(), labels, value }
}

fn labels_of(mut rest: &str) -> Labels {
    let mut labels = Labels::new();
    loop {
        let (name, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest}"));
        assert!(is_name(name) && !name.starts_with("__"), "{name} is no name of a label");
        let (mut value, mut letters) = (String::new(), quoted.char_indices());
        let end = loop {
            match letters.next().expect("a closing quote") {
                (end, '"') => break end,
                (_, '\\') => value.push(match letters.next().expect("an escape").1 {
                    'n' => '\n',
                    plain @ ('\\' | '"') => plain,
                    other => panic!("\\{other} escapes nothing"),
                }),
                (_, plain) => value.push(plain),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} twice");
        match &quoted[end + 1..] {
            "" => return labels,
            more => rest = more.strip_prefix(',').expect("a comma"),
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    name.starts_with(is_letter) && name.chars().all(|letter| is_letter(letter) || letter.is_ascii_digit())
}

fn check(name: &str, family: &Family, openmetrics: bool) {
    let Family { kind, help, unit, samples } = family;
    assert!(is_name(name) && !help.is_empty(), "{name}");
    let suffixes: &[&str] = match (kind.as_str(), openmetrics) {
        ("counter", true) => &["_total"],
        ("info", true) => &["_info"],
        ("histogram", _) => &["_bucket", "_sum", "_count"],
        ("counter" | "gauge", false) | ("gauge", true) => &[""],
        other => panic!("{name} has the type {other:?}"),
    };
    if openmetrics {
        assert!(RESERVED.iter().all(|suffix| !name.ends_with(suffix)), "{name} ends like a sample");
        let ending = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        assert_eq!(unit.as_deref(), ending, "the unit of {name}");
    } else if kind == "counter" {
        assert!(name.ends_with("_total"), "{name} does not end like a counter");
    }
    for sample in samples {
        let suffix = sample.name.strip_prefix(name).unwrap_or_else(|| panic!("{sample:?} stands below {name}"));
        assert!(suffixes.contains(&suffix), "{sample:?} is no sample of a {kind}");
        assert!(kind == "gauge" || sample.value >= 0.0, "{sample:?}");
        assert!(kind != "info" || sample.value == 1.0, "{sample:?}");
        assert_eq!(sample.labels.contains_key("le"), suffix == "_bucket", "{sample:?}");
    }
    if kind == "histogram" {
        check_histogram(name, samples);
    }
}

/// Each label set has its buckets in ascending order, up to infinity, then its sum and its count.
fn check_histogram(name: &str, samples: &[Sample]) {
    let mut series = BTreeMap::<Labels, Vec<(f64, f64)>>::new();
    let others = |sample: &Sample| {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        labels
    };
    for sample in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let bound = match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().expect("a bound"),
        };
        series.entry(others(sample)).or_default().push((bound, sample.value));
    }
    for (labels, buckets) in &series {
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{name} {labels:?} {buckets:?}");
        let of = |suffix: &str| {
            let named = |sample: &&Sample| sample.name == format!("{name}{suffix}") && sample.labels == *labels;
            samples.iter().find(named).unwrap_or_else(|| panic!("{name}{suffix} {labels:?}")).value
        };
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, of("_count"))), "{name} {labels:?}");
        assert!(of("_sum") >= 0.0);
    }
    assert_eq!(samples.len(), series.values().map(|buckets| buckets.len() + 2).sum::<usize>(), "{name}");
}
