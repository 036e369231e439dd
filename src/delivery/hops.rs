//! Tracks which engines an event has come through, in the header `CDN-Loop` (RFC 8586). Every delivery names the
//! earlier engines and this one. The API refuses an event that comes back to this engine or has come through too many.
//! Pure.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};

/// RFC 8586, 2.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// How many engines an event may have come through. A longer chain is a loop of engines that lose the header, or a
/// mistake.
pub const MAX_ENGINES: usize = 4;

const PREFIX: &str = "posthaste-";

/// The name of this engine, the same for all nodes on one database.
#[derive(Debug, Clone)]
pub struct EngineName {
    text: Arc<str>,
    header: HeaderValue,
}

/// The names of the engines that an event has come through, oldest first, as a header lists them.
pub type Trail = Arc<str>;

/// Why an event is refused as a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loop {
    #[error("the event comes from this engine: one of its webhooks delivers into it")]
    Own,
    #[error("the event has come through {0} engines, at most {MAX_ENGINES} are accepted")]
    TooMany(usize),
}

impl EngineName {
    /// Makes the name from a number that no other engine is likely to have.
    #[must_use]
    pub fn new(id: u64) -> Self {
        let text: Arc<str> = format!("{PREFIX}{id:016x}").into();
        // The fallback is never used: a header accepts letters and digits.
        let header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("posthaste-unknown"));
        Self { text, header }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The header of a delivery: the trail of its event, and this engine.
    pub(super) fn after(&self, trail: Option<&Trail>) -> HeaderValue {
        let Some(trail) = trail else { return self.header.clone() };
        HeaderValue::from_str(&format!("{trail}, {}", self.text)).unwrap_or_else(|_| self.header.clone())
    }

    /// The engines that the `CDN-Loop` headers of a request name, if any. Other names, such as those of CDNs, concern
    /// this request alone and are dropped.
    ///
    /// # Errors
    ///
    /// When this engine is among them, or more than [`MAX_ENGINES`] are.
    pub fn trail<'a>(&self, headers: impl Iterator<Item = &'a HeaderValue>) -> Result<Option<Trail>, Loop> {
        let infos = headers.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let engines: Vec<&str> = infos.filter_map(name_of).filter(|name| is_engine(name)).collect();
        if engines.iter().any(|name| name.eq_ignore_ascii_case(&self.text)) {
            return Err(Loop::Own);
        }
        match engines.len() {
            0 => Ok(None),
            few if few <= MAX_ENGINES => Ok(Some(engines.join(", ").into())),
            many => Err(Loop::TooMany(many)),
        }
    }
}

/// `cdn-info = cdn-id *( OWS ";" OWS parameter )`
fn name_of(info: &[u8]) -> Option<&str> {
    let name = info.split(|byte| *byte == b';').next()?;
    std::str::from_utf8(name).ok().map(str::trim)
}

fn is_engine(name: &str) -> bool {
    let Some((prefix, id)) = name.split_at_checked(PREFIX.len()) else { return false };
    prefix.eq_ignore_ascii_case(PREFIX) && id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(headers: &[&str]) -> Result<Option<String>, Loop> {
        let headers: Vec<HeaderValue> = headers.iter().map(|text| HeaderValue::from_str(text).unwrap()).collect();
        EngineName::new(1).trail(headers.iter()).map(|trail| trail.map(|trail| trail.to_string()))
    }

    fn name(id: u64) -> String {
        EngineName::new(id).as_str().to_owned()
    }

    #[test]
    fn a_delivery_names_the_engines_before_and_this_one() {
        let engine = EngineName::new(0xA);
        assert_eq!(engine.after(None), "posthaste-000000000000000a");
        let trail = trail(&[&format!("{}, {}", name(2), name(3))]).unwrap().map(Trail::from);
        assert_eq!(engine.after(trail.as_ref()), format!("{}, {}, {}", name(2), name(3), name(0xA)).as_str());
    }

    #[test]
    fn what_comes_back_is_recognised_however_it_is_written() {
        let own = name(1);
        let headers: [&[&str]; 5] = [
            &[&own],
            &[&own.to_uppercase()],
            &["cdn.example", &format!(" {own} ;hops=1")],
            &[&format!("a;x=\"1,2\", {}, {own};a=b", name(2))],
            &[&format!(",,{own},")],
        ];
        for headers in headers {
            assert_eq!(trail(headers), Err(Loop::Own), "{headers:?}");
        }
    }

    #[test]
    fn a_chain_of_engines_has_an_end_and_what_others_add_is_no_part_of_it() {
        let engines = |count: u64| (2..2 + count).map(name).collect::<Vec<_>>().join(",");
        assert_eq!(trail(&[]), Ok(None));
        assert_eq!(trail(&["cdn.example, posthaste-x, posthaste, fastly"]), Ok(None));
        assert_eq!(trail(&[&format!("cdn.example,{}", engines(1))]), Ok(Some(name(2))));
        assert!(trail(&[&engines(4)]).unwrap().is_some());
        assert_eq!(trail(&[&engines(3), &engines(2)]), Err(Loop::TooMany(5)));
    }
}
