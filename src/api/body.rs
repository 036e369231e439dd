//! Reads request bodies: JSON of bounded size and depth, read into an input type with [`super::fields`].
//! [`super::budget`] bounds the memory that all bodies take together.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use serde_json::value::RawValue;

use super::App;
use super::budget::Share;
use super::fields::{At, Errors, Reader};
use super::problem::Problem;

/// Time within which a body must arrive: a slow sender must not hold a connection for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum depth of arrays and objects within each other. Common parsers of receivers give up at 128.
const MAX_DEPTH: usize = 100;

/// A type that a body can be read into.
pub(super) trait Input: Sized {
    /// The names of the accepted members.
    const FIELDS: &'static [&'static str];

    /// `None` when a required member is missing. Faults are noted in the reader's errors.
    fn read(reader: &mut Reader<'_, '_>) -> Option<Self>;
}

/// A body that is read but not yet accepted, so that a handler can add errors that only the handler can find.
pub(super) struct Json<T> {
    pub(super) input: Option<T>,
    pub(super) errors: Errors,
    /// The body as it was sent.
    pub(super) text: Bytes,
    /// The body's share of the memory for bodies.
    _share: Share,
}

impl<T> Json<T> {
    /// Returns the input and the text that it was read from, or the errors.
    pub(super) fn accepted(self) -> Result<(T, Bytes), Problem> {
        let Self { input, errors, text, _share: _ } = self;
        errors.into_result()?;
        let input = input.ok_or_else(|| Problem::internal(&"an input was refused without a reason"))?;
        Ok((input, text))
    }
}

impl<T: Input> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let (text, share) = collect(request, app).await?;
        let mut errors = Errors::default();
        let input = read(&text, &mut errors)?;
        Ok(Self { input, errors, text, _share: share })
    }
}

/// A body that may be left out. A missing body counts as `{}`.
pub(super) struct OptionalJson<T>(pub(super) Json<T>);

impl<T: Input> FromRequest<App> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let declared = require_json(request.headers());
        let (text, share) = collect(request, app).await?;
        let text = if text.is_empty() { Bytes::from_static(b"{}") } else { declared.map(|()| text)? };
        let mut errors = Errors::default();
        let input = read(&text, &mut errors)?;
        Ok(Self(Json { input, errors, text, _share: share }))
    }
}

/// The body of an action that takes no input: none, or `{}`. It is received and checked, so that a caller that asks for
/// what the action cannot do is told.
pub(super) struct NoBody;

struct Nothing;

impl Input for Nothing {
    const FIELDS: &'static [&'static str] = &[];

    fn read(_: &mut Reader<'_, '_>) -> Option<Self> {
        Some(Self)
    }
}

impl FromRequest<App> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let OptionalJson(body) = OptionalJson::<Nothing>::from_request(request, app).await?;
        body.accepted().map(|_| Self)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let content_type = given(CONTENT_TYPE).unwrap_or_default();
    let detail = if !is_json(content_type) {
        "the header Content-Type must be application/json"
    } else if !is_utf8(content_type) {
        "this charset is not accepted; send the body in UTF-8, with the Content-Type application/json"
    } else if given(CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        "a body in a Content-Encoding is not accepted, send it as it is"
    } else {
        return Ok(());
    };
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// Whether this is `application/json` or a relative such as `application/merge-patch+json`.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    subtype == "json" || subtype.len() > "+json".len() && subtype.ends_with("+json")
}

/// Whether a content type names no charset but UTF-8, or ASCII, which is part of it. JSON has no other charset (RFC
/// 8259, 8.1): other text, read as UTF-8, would change its meaning.
fn is_utf8(content_type: &str) -> bool {
    let mut charsets = content_type.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    let is_known = |charset: &str| ["utf-8", "utf8", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name));
    charsets.all(is_known)
}

/// Receives a body, with its share of the memory for bodies.
pub(super) async fn collect(request: Request, app: &App) -> Result<(Bytes, Share), Problem> {
    let mut share = app.bodies().open(request.extensions().get().copied());
    let text = gather_in_time(request.into_body(), app.body_limit(), &mut share).await?;
    Ok((text, share))
}

async fn gather_in_time(body: Body, limit: usize, share: &mut Share) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_TIMEOUT, gather(body, limit, share)).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
    })
}

/// Receives the pieces of a body. A body in one piece is not copied.
async fn gather(body: Body, limit: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let incomplete = |_| Problem::bad_request("incomplete_body", "the body ended before it was complete");
    let mut pieces = body.into_data_stream();
    let mut text = Bytes::new();
    while let Some(piece) = pieces.try_next().await.map_err(incomplete)? {
        if text.len() + piece.len() > limit {
            drain(pieces, limit).await;
            let detail = format!("the body is longer than the {limit} bytes that are accepted");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
        }
        share.grow(piece.len())?;
        if text.is_empty() {
            text = piece;
        } else {
            let mut longer = text.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
            longer.extend_from_slice(&piece);
            text = longer.freeze();
        }
    }
    Ok(text)
}

/// Discards about as much again, so that a client that is still sending can read the answer.
async fn drain(mut pieces: BodyDataStream, limit: usize) {
    let mut drained = 0;
    while drained <= limit
        && let Ok(Some(piece)) = pieces.try_next().await
    {
        drained += piece.len();
    }
}

fn malformed(detail: String) -> Problem {
    Problem::bad_request("malformed_json", detail)
}

/// Reads a whole body. Fails if the body is not JSON; faults in its fields go to `errors`.
pub(super) fn read<T: Input>(text: &[u8], errors: &mut Errors) -> Result<Option<T>, Problem> {
    let raw = parse(text)?;
    Ok(Reader::open(raw, At::Root, T::FIELDS, errors).and_then(|mut reader| T::read(&mut reader)))
}

/// Checks that a text is one JSON value (RFC 8259) of acceptable depth.
fn parse(text: &[u8]) -> Result<&RawValue, Problem> {
    let text =
        std::str::from_utf8(text).map_err(|error| malformed(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    if let Some(at) = too_deep(text.as_bytes()) {
        return Err(malformed(format!("nested more than {MAX_DEPTH} deep at byte {at}")));
    }
    serde_json::from_str(text).map_err(|error| malformed(error.to_string()))
}

/// The offset at which a JSON text first nests deeper than is accepted. The parser itself passes over values of any
/// depth.
fn too_deep(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some(at);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use futures_util::stream;
    use tokio::time::Instant;

    use super::super::budget::Budget;
    use super::super::fields::{any_text, boolean, integer};
    use super::*;

    /// The pointers and codes of the faults in `text`, read as a `T`.
    pub(crate) fn faults<T: Input>(text: &str) -> Vec<(String, &'static str)> {
        let mut errors = Errors::default();
        if let Err(problem) = read::<T>(text.as_bytes(), &mut errors) {
            return vec![(String::new(), problem.into_parts().1)];
        }
        match errors.into_result() {
            Ok(()) => Vec::new(),
            Err(problem) => problem.into_parts().3.into_iter().map(|error| (error.pointer, error.code)).collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_dribbles_is_refused_after_its_time_however_often_a_byte_comes() {
        let (budget, began) = (Budget::of_bodies(1 << 20), Instant::now());
        let mut share = budget.open(None);
        let drip = async |()| {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Some((Ok::<_, std::io::Error>("x"), ()))
        };
        let body = Body::from_stream(stream::unfold((), drip));

        let gathered = gather_in_time(body, 1 << 20, &mut share);
        let refused = tokio::time::timeout(Duration::from_hours(1), gathered).await.expect("not for ever");
        let problem = refused.unwrap_err();

        let (status, code, ..) = problem.into_parts();
        assert_eq!((status, code), (StatusCode::REQUEST_TIMEOUT, "request_timeout"));
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    struct Sample;

    impl Input for Sample {
        const FIELDS: &'static [&'static str] = &["a", "b", "c", "d"];

        fn read(reader: &mut Reader<'_, '_>) -> Option<Self> {
            let a = reader.required("a", any_text);
            let _ = reader.object("b", &["x", "y"], |inner| {
                (inner.field("x", boolean), inner.field("y", |raw| integer(raw, &(1..=9))))
            });
            let _ = reader
                .list("c", &(1..=3), |at, raw, errors| any_text(raw).map_err(|fault| errors.add(&at, fault)).ok());
            let _ = reader.map("d", any_text);
            a.map(|_| Self)
        }
    }

    fn pointers(text: &str) -> Vec<String> {
        faults::<Sample>(text).into_iter().map(|(pointer, _)| pointer).collect()
    }

    #[test]
    fn every_problem_is_reported_with_its_pointer() {
        let text = r#"{"b":{"x":1,"y":10,"z":0},"c":["",2,null],"d":{"a/b~":4},"e":1,"c":[]}"#;
        let expected = ["/e", "/c", "/a", "/b/z", "/b/x", "/b/y", "/c/1", "/c/2", "/d/a~1b~0"];
        assert_eq!(pointers(text), expected);
    }

    #[test]
    fn what_is_no_json_is_malformed_and_what_is_no_object_is_invalid() {
        for text in ["", "{", "{\"a\":}", "{} x", "{\"a\":01}", "nul", "{\"\\ud800\":\"", "{'a':1}"] {
            assert_eq!(faults::<Sample>(text), [(String::new(), "malformed_json")], "{text}");
        }
        for text in ["[]", "1", "\"a\"", "null"] {
            assert_eq!(faults::<Sample>(text), [(String::new(), "wrong_type")], "{text}");
        }
        assert!(read::<Sample>(b"{\"a\":\"\xff\"}", &mut Errors::default()).is_err());
    }

    #[test]
    fn a_syntax_error_names_its_place() {
        let problem = parse(b"{\n \"a\" 1}").unwrap_err();
        assert!(problem.into_parts().2.contains("line 2 column 6"));
    }

    #[test]
    fn lone_surrogates_and_huge_numbers_are_refused_where_they_stand() {
        assert_eq!(faults::<Sample>(r#"{"a":"\ud800"}"#), [("/a".to_owned(), "invalid")]);
        assert_eq!(faults::<Sample>(r#"{"a":"","b":{"y":1e999999}}"#), [("/b/y".to_owned(), "out_of_range")]);
        assert_eq!(faults::<Sample>(r#"{"a":"","\udc00":1}"#).len(), 1);
    }

    #[test]
    fn depth_is_bounded_outside_of_strings() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(pointers(&nested(MAX_DEPTH - 1)), ["/a"]);
        assert_eq!(faults::<Sample>(&nested(MAX_DEPTH)), [(String::new(), "malformed_json")]);
        assert_eq!(faults::<Sample>(&nested(500_000)), [(String::new(), "malformed_json")]);
        assert_eq!(pointers(&format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(300), "{".repeat(300))), [""; 0]);
    }

    #[test]
    fn json_content_types_are_recognised() {
        for accepted in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(accepted), "{accepted}");
        }
        for refused in ["", "text/json", "application/jsonx", "application/+json", "text/plain"] {
            assert!(!is_json(refused), "{refused}");
        }
    }

    #[test]
    fn json_in_another_charset_is_recognised() {
        for accepted in
            ["application/json", "application/json; charset=utf-8", "application/json;Charset=\"UTF-8\"; x=y"]
        {
            assert!(is_utf8(accepted), "{accepted}");
        }
        for refused in ["latin1", "utf-16", "\"iso-8859-1\"", "", "utf-8; charset=latin1"] {
            assert!(!is_utf8(&format!("application/json; charset={refused}")), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Sample>(&text, &mut Errors::default());
        }

        #[test]
        fn no_text_of_json_letters_panics(text in r#"[{}\[\]",:\\ua-d0-9eE.+ \-]{0,60}"#) {
            let _ = faults::<Sample>(&text);
        }
    }
}
