//! Merges changes of the headers that a webhook's owner adds, and of the names of those that may be shown.

use std::collections::BTreeMap;

use crate::api::fields::{At, Errors, Fault, Given};
use crate::engine::check_headers;

use crate::api::redaction::REDACTED;

/// Merges changes into a webhook's headers.
pub(super) fn merge_headers(
    headers: &mut BTreeMap<String, String>,
    changes: Given<Vec<(String, Option<String>)>>,
    errors: &mut Errors,
) {
    let changes = match changes {
        Given::Absent | Given::Invalid => return,
        Given::Null => return headers.clear(),
        Given::Value(changes) => changes,
    };
    let stored = std::mem::take(headers);
    let is_changed = |name: &str| changes.iter().any(|(change, _)| change.eq_ignore_ascii_case(name));
    headers.extend(stored.iter().filter(|(name, _)| !is_changed(name)).map(|(k, v)| (k.clone(), v.clone())));
    let at = At::Member(&At::Root, "headers");
    for (name, value) in changes {
        let value = match value {
            Some(value) if value == REDACTED => {
                let kept = stored.iter().find(|(stored, _)| stored.eq_ignore_ascii_case(&name));
                if kept.is_none() {
                    let message = "the mark of a hidden value was given, but no value is stored";
                    errors.add(&At::Member(&at, &name), Fault::new("invalid", message));
                }
                kept.map(|(_, value)| value.clone())
            }
            value => value,
        };
        if let Some(value) = value
            && headers.insert(name.clone(), value).is_some()
        {
            errors.add(&At::Member(&at, &name), Fault::new("duplicate_field", "given twice, once is accepted"));
        }
    }
    for problem in check_headers(headers) {
        let fault = Fault::new("invalid", problem.message);
        if problem.name.is_empty() && !headers.contains_key("") {
            errors.add(&at, fault);
        } else {
            errors.add(&At::Member(&at, &problem.name), fault);
        }
    }
}

/// Merges changes into the names of the headers whose values are shown. Names of removed headers are removed too.
pub(super) fn merge_public(
    public: &mut Vec<String>,
    changes: Given<Vec<String>>,
    headers: &BTreeMap<String, String>,
    errors: &mut Errors,
) {
    let is_there = |name: &String| headers.keys().any(|header| header.eq_ignore_ascii_case(name));
    let names = match changes {
        Given::Absent | Given::Invalid => return public.retain(is_there),
        Given::Null => return public.clear(),
        Given::Value(names) => names,
    };
    public.clear();
    let at = At::Member(&At::Root, "publicHeaders");
    for (place, name) in names.into_iter().enumerate() {
        let fault = if !is_there(&name) {
            Fault::new("invalid", "there is no such header; a name that stands in `headers` is accepted")
        } else if public.iter().any(|earlier| earlier.eq_ignore_ascii_case(&name)) {
            Fault::new("duplicate", "given twice, once is accepted")
        } else {
            public.push(name);
            continue;
        };
        errors.add(&At::Item(&at, place), fault);
    }
}
