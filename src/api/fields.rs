//! Reads JSON objects field by field and collects every fault with its pointer, instead of stopping at the first. Raw
//! values are borrowed from the body, so that what goes to receivers stays as it was, to the byte.

pub(super) mod readable;

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{FieldError, Problem};
use crate::domain::moment::{TimeError, UnixMillis};

/// Maximum members of an object; a larger object is refused as a whole. Ours have nineteen at most, custom headers
/// twenty.
const MAX_MEMBERS: usize = 64;

/// Maximum errors that are reported at once; more would say nothing new.
const MAX_ERRORS: usize = 50;

/// Characters of a given number that a message quotes.
const QUOTED: usize = 32;

/// A place in the body: a JSON pointer (RFC 6901), written out only for a fault.
#[derive(Clone, Copy)]
pub(super) enum At<'x> {
    Root,
    Member(&'x At<'x>, &'x str),
    Item(&'x At<'x>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(parent, name) => write!(f, "{parent}/{}", name.replace('~', "~0").replace('/', "~1")),
            Self::Item(parent, place) => write!(f, "{parent}/{place}"),
        }
    }
}

/// Why one value cannot be accepted.
pub(super) struct Fault {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn wrong_type(raw: &RawValue, accepted: &str) -> Self {
        Self::new("wrong_type", format!("{} was given, {accepted} is accepted", given(raw)))
    }
}

/// The faults found so far.
#[derive(Clone, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, at: &impl fmt::Display, fault: Fault) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError { pointer: at.to_string(), code: fault.code, message: fault.message });
        }
    }

    /// Adds a fault unless one is known for the same place.
    pub(super) fn add_new(&mut self, pointer: &str, fault: Fault) {
        if self.0.iter().all(|error| error.pointer != pointer) {
            self.add(&pointer, fault);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_problem(self) -> Problem {
        Problem::invalid(self.0)
    }

    pub(super) fn into_result(self) -> Result<(), Problem> {
        if self.is_empty() { Ok(()) } else { Err(self.into_problem()) }
    }
}

/// What the body says about a field that may be left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given<T> {
    Absent,
    Null,
    /// Not acceptable; the fault is noted.
    Invalid,
    Value(T),
}

impl<T> Given<T> {
    /// Whether the body says anything about the field.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    /// The value, if there is one; `null` counts as absent.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null | Self::Invalid => None,
        }
    }

    /// The field, if its default is to have no value.
    pub(super) fn optional(self) -> Given<Option<T>> {
        match self {
            Self::Value(value) => Given::Value(Some(value)),
            Self::Null => Given::Null,
            Self::Absent => Given::Absent,
            Self::Invalid => Given::Invalid,
        }
    }

    /// Changes `target` as a merge patch does (RFC 7396): an absent field keeps it, `null` restores the default.
    pub(super) fn merge_into(self, target: &mut T, default: impl FnOnce() -> T) {
        match self {
            Self::Value(value) => *target = value,
            Self::Null => *target = default(),
            Self::Absent | Self::Invalid => {}
        }
    }
}

/// The members of one object, and where their faults are noted.
pub(super) struct Reader<'a, 'p> {
    at: At<'p>,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    pub(super) errors: &'p mut Errors,
}

impl<'a, 'p> Reader<'a, 'p> {
    /// Opens an object that may have the members in `accepted`. Notes a fault and returns `None` if `raw` is no object.
    pub(super) fn open(raw: &'a RawValue, at: At<'p>, accepted: &[&str], errors: &'p mut Errors) -> Option<Self> {
        let members = Members::of(raw, &at, errors)?;
        let mut reader = Self { at, members: Vec::with_capacity(members.len()), errors };
        for (name, value) in members {
            let fault = if !accepted.contains(&name.as_ref()) {
                let accepted = if accepted.is_empty() { "none".to_owned() } else { accepted.join(", ") };
                Fault::new("unknown_field", format!("unknown field; accepted are {accepted}"))
            } else if reader.members.iter().any(|(earlier, _)| *earlier == name) {
                Fault::new("duplicate_field", "given twice, once is accepted")
            } else {
                reader.members.push((name, value));
                continue;
            };
            reader.errors.add(&At::Member(&reader.at, &name), fault);
        }
        Some(reader)
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.members.iter().position(|(member, _)| member == name)?;
        Some(self.members.swap_remove(place).1)
    }

    /// Reads a field with `parse`, which returns the value or what is wrong with it.
    pub(super) fn field<T>(&mut self, name: &str, parse: impl FnOnce(&'a RawValue) -> Result<T, Fault>) -> Given<T> {
        match self.take(name) {
            None => Given::Absent,
            Some(raw) if raw.get() == "null" => Given::Null,
            Some(raw) => match parse(raw) {
                Ok(value) => Given::Value(value),
                Err(fault) => {
                    self.errors.add(&At::Member(&self.at, name), fault);
                    Given::Invalid
                }
            },
        }
    }

    /// Reads a required field.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&'a RawValue) -> Result<T, Fault>,
    ) -> Option<T> {
        let given = self.field(name, parse);
        self.demand(name, &given);
        given.value()
    }

    /// Notes a fault if the field is absent or `null`.
    pub(super) fn demand<T>(&mut self, name: &str, given: &Given<T>) {
        let message = match given {
            Given::Absent => "missing, a value is required",
            Given::Null => "null was given, a value is required",
            Given::Invalid | Given::Value(_) => return,
        };
        self.errors.add(&At::Member(&self.at, name), Fault::new("required", message));
    }

    /// Notes a fault if the field is `null`.
    pub(super) fn demand_if_null<T>(&mut self, name: &str, given: &Given<T>) {
        if matches!(given, Given::Null) {
            self.demand(name, given);
        }
    }

    /// Reads a nested object with `read`.
    pub(super) fn object<T>(
        &mut self,
        name: &str,
        accepted: &[&str],
        read: impl FnOnce(&mut Reader<'a, '_>) -> T,
    ) -> Given<T> {
        let at = At::Member(&self.at, name);
        match self.members.iter().position(|(member, _)| member == name) {
            None => Given::Absent,
            Some(place) => match self.members.swap_remove(place).1 {
                raw if raw.get() == "null" => Given::Null,
                raw => match Reader::open(raw, at, accepted, self.errors) {
                    Some(mut inner) => Given::Value(read(&mut inner)),
                    None => Given::Invalid,
                },
            },
        }
    }

    /// Reads an object whose member names are free. `parse` gets each value, also `null`.
    pub(super) fn map<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&'a RawValue) -> Result<T, Fault>,
    ) -> Given<Vec<(String, T)>> {
        let Some(raw) = self.take(name) else { return Given::Absent };
        if raw.get() == "null" {
            return Given::Null;
        }
        let at = At::Member(&self.at, name);
        let Some(members) = Members::of(raw, &at, self.errors) else { return Given::Invalid };
        let mut map = Vec::with_capacity(members.len());
        for (name, raw) in members {
            match parse(raw) {
                Ok(value) => map.push((name.into_owned(), value)),
                Err(fault) => self.errors.add(&At::Member(&at, &name), fault),
            }
        }
        Given::Value(map)
    }

    /// Reads an array with as many items as `accepted` allows.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        accepted: &RangeInclusive<usize>,
        mut item: impl FnMut(At<'_>, &'a RawValue, &mut Errors) -> Option<T>,
    ) -> Given<Vec<T>> {
        let raws = match self.field(name, items) {
            Given::Value(raws) => raws,
            Given::Absent => return Given::Absent,
            Given::Null => return Given::Null,
            Given::Invalid => return Given::Invalid,
        };
        let at = At::Member(&self.at, name);
        if !accepted.contains(&raws.len()) {
            self.errors.add(&at, out_of(raws.len(), " items", accepted));
            return Given::Invalid;
        }
        let mut list = Vec::with_capacity(raws.len());
        for (place, raw) in raws.into_iter().enumerate() {
            list.extend(item(At::Item(&at, place), raw, self.errors));
        }
        Given::Value(list)
    }
}

/// The members of an object in the given order, and their total number.
struct Members<'a> {
    list: Vec<(Cow<'a, str>, &'a RawValue)>,
    total: usize,
}

impl<'a> Members<'a> {
    fn of(raw: &'a RawValue, at: &At<'_>, errors: &mut Errors) -> Option<Vec<(Cow<'a, str>, &'a RawValue)>> {
        let fault = match serde_json::from_str::<Self>(raw.get()) {
            Ok(members) if members.total <= MAX_MEMBERS => return Some(members.list),
            Ok(members) => out_of(members.total, " members", &(0..=MAX_MEMBERS)),
            Err(_) if raw.get().starts_with('{') => Fault::new("invalid", "a member's name is not valid Unicode"),
            Err(_) => Fault::wrong_type(raw, "an object"),
        };
        errors.add(at, fault);
        None
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members { list: Vec::with_capacity(4), total: 0 };
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.total += 1;
                    if members.total <= MAX_MEMBERS {
                        members.list.push((name, value));
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A member's name, borrowed unless it is written with escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Borrow)
    }
}

/// The kind of a given value, in words. Numbers are quoted; texts are not, because they may be secrets.
pub(super) fn given(raw: &RawValue) -> String {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string".to_owned(),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b't' | b'f' | b'n') => raw.get().to_owned(),
        _ if raw.get().len() > QUOTED => format!("{}…", &raw.get()[..QUOTED]),
        _ => raw.get().to_owned(),
    }
}

/// The fault of a value outside the accepted range.
pub(super) fn out_of<T: fmt::Display>(given: impl fmt::Display, unit: &str, accepted: &RangeInclusive<T>) -> Fault {
    let (from, to) = (accepted.start(), accepted.end());
    let was = if unit.is_empty() { "was" } else { "were" };
    Fault::new("out_of_range", format!("{given}{unit} {was} given, {from} to {to} are accepted"))
}

/// Reads any text.
pub(super) fn any_text(raw: &RawValue) -> Result<String, Fault> {
    if !raw.get().starts_with('"') {
        return Err(Fault::wrong_type(raw, "a string"));
    }
    serde_json::from_str(raw.get()).map_err(|_| Fault::new("invalid", "the string is not valid Unicode"))
}

/// Reads a text of one line for people: a bounded number of characters, all of them visible.
pub(super) fn line(raw: &RawValue, accepted: &RangeInclusive<usize>) -> Result<String, Fault> {
    let text = text_of(raw, accepted)?;
    readable::check_line(&text)?;
    if accepted.contains(&1) && text.trim().is_empty() {
        return Err(Fault::new("invalid", "blanks were given, a text is accepted"));
    }
    Ok(text)
}

/// Reads a text of several lines.
pub(super) fn prose(raw: &RawValue, accepted: &RangeInclusive<usize>) -> Result<String, Fault> {
    let text = text_of(raw, accepted)?;
    readable::check_prose(&text)?;
    Ok(text)
}

fn text_of(raw: &RawValue, accepted: &RangeInclusive<usize>) -> Result<String, Fault> {
    let text = any_text(raw)?;
    let length = text.chars().count();
    if accepted.contains(&length) { Ok(text) } else { Err(out_of(length, " characters", accepted)) }
}

pub(super) fn boolean(raw: &RawValue) -> Result<bool, Fault> {
    match raw.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::wrong_type(raw, "true or false")),
    }
}

/// Reads a whole number in a range.
pub(super) fn integer<T>(raw: &RawValue, accepted: &RangeInclusive<T>) -> Result<T, Fault>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    match raw.get().as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => {}
        _ => return Err(Fault::wrong_type(raw, "a whole number")),
    }
    let number = raw.get().parse().ok().filter(|number| accepted.contains(number));
    number.ok_or_else(|| {
        if raw.get().contains(['.', 'e', 'E']) {
            let (from, to) = (accepted.start(), accepted.end());
            let message = format!("{} was given, whole numbers from {from} to {to} are accepted", given(raw));
            return Fault::new("out_of_range", message);
        }
        out_of(given(raw), "", accepted)
    })
}

/// Reads one of a few words.
pub(super) fn word<T: Copy>(raw: &RawValue, accepted: &[(&str, T)]) -> Result<T, Fault> {
    let text = any_text(raw)?;
    let found = accepted.iter().find(|(word, _)| *word == text);
    let words = || accepted.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    found.map(|(_, value)| *value).ok_or_else(|| Fault::new("invalid", format!("accepted are {}", words())))
}

fn items(raw: &RawValue) -> Result<Vec<&RawValue>, Fault> {
    serde_json::from_str(raw.get()).map_err(|_| Fault::wrong_type(raw, "an array"))
}

/// Reads an RFC 3339 time.
pub(super) fn moment(raw: &RawValue) -> Result<UnixMillis, Fault> {
    any_text(raw)?.parse().map_err(|error: TimeError| Fault::new("invalid", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_a_fraction_is_told_that_whole_ones_are_accepted() {
        let said = |text: &str| {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            integer::<u32>(&raw, &(0..=604_800)).unwrap_err().message
        };
        assert_eq!(said("1.5"), "1.5 was given, whole numbers from 0 to 604800 are accepted");
        assert_eq!(said("604801"), "604801 was given, 0 to 604800 are accepted");
    }
}
