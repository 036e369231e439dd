//! Reads query parameters and makes pages. A cursor is signed together with its list, its tenant and its filters. It is
//! no secret, since every query is limited to the tenant anyway; but a cursor that was made up, or belongs to another
//! list, is refused instead of misread.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::LINK;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use url::form_urlencoded;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::problem::Problem;
use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventId, EventSeq, MAX_ATTEMPT, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::secrets::CursorKeys;

const DEFAULT_LIMIT: u64 = 20;
pub(super) const MAX_LIMIT: u64 = 100;

/// The query of a request, as it was sent.
pub(super) struct Query {
    text: String,
    /// The keys that sign cursors.
    keys: CursorKeys,
}

impl FromRequestParts<App> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let keys = app.store().cursor_keys();
        Ok(Self { text: parts.uri.query().unwrap_or_default().to_owned(), keys })
    }
}

/// The query of a route that takes no parameters.
pub(super) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        match form_urlencoded::parse(query.as_bytes()).next() {
            None => Ok(Self),
            Some((name, _)) => {
                let detail = format!("{name:?} is unknown; there are no parameters here");
                Err(Problem::bad_request("unknown_parameter", detail))
            }
        }
    }
}

impl Query {
    /// The query of a list that begins inside another answer.
    pub(super) fn empty(app: &App) -> Self {
        Self { text: String::new(), keys: app.store().cursor_keys() }
    }

    /// Reads the query of a list with these filters. `route` names the list, together with what its path says.
    pub(super) fn list(
        &self,
        route: &str,
        tenant: Option<TenantNum>,
        filters: &[&'static str],
    ) -> Result<List<'_>, Problem> {
        let binding = Sha256::new();
        let mut list = List { limit: DEFAULT_LIMIT, cursor: None, filters: Vec::new(), binding, keys: &self.keys };
        let mut has_limit = false;
        for (name, value) in form_urlencoded::parse(self.text.as_bytes()) {
            match name.as_ref() {
                "limit" if !has_limit => (list.limit, has_limit) = (limit(&value)?, true),
                "cursor" if list.cursor.is_none() => list.cursor = Some(value),
                "limit" | "cursor" => return Err(given_twice(&name)),
                other => {
                    let Some(known) = filters.iter().find(|filter| **filter == other) else {
                        return Err(unknown(other, filters));
                    };
                    if list.filters.iter().any(|(earlier, _)| earlier == known) {
                        return Err(given_twice(known));
                    }
                    list.filters.push((known, value));
                }
            }
        }
        list.filters.sort_unstable();
        list.bind(route, tenant);
        Ok(list)
    }
}

fn limit(value: &str) -> Result<u64, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| {
        let detail = format!("limit: {value:?} was given, a whole number from 1 to {MAX_LIMIT} is accepted");
        Problem::bad_request("invalid_limit", detail)
    })
}

fn unknown(name: &str, filters: &[&str]) -> Problem {
    let accepted: Vec<&str> = filters.iter().copied().chain(["limit", "cursor"]).collect();
    let detail = format!("{name:?} is unknown; accepted are {}", accepted.join(", "));
    Problem::bad_request("unknown_parameter", detail)
}

fn given_twice(name: &str) -> Problem {
    Problem::bad_request("invalid_parameter", format!("{name} was given twice, once is accepted"))
}

/// What a request asks of a list.
pub(super) struct List<'q> {
    pub(super) limit: u64,
    cursor: Option<Cow<'q, str>>,
    filters: Vec<(&'static str, Cow<'q, str>)>,
    /// Hash of everything that a cursor is bound to.
    binding: Sha256,
    keys: &'q CursorKeys,
}

impl List<'_> {
    fn bind(&mut self, route: &str, tenant: Option<TenantNum>) {
        let mut take = |part: &[u8]| {
            self.binding.update((part.len() as u64).to_be_bytes());
            self.binding.update(part);
        };
        take(route.as_bytes());
        take(&tenant.map_or(0, |tenant| tenant.0).to_be_bytes());
        for (name, value) in &self.filters {
            take(name.as_bytes());
            take(value.as_bytes());
        }
    }

    pub(super) fn filter<T: Filter>(&self, name: &str) -> Result<Option<T>, Problem> {
        let value = self.filters.iter().find(|(filter, _)| *filter == name).map(|(_, value)| value);
        value.map(|value| T::read(name, value)).transpose()
    }

    /// The position after which the page starts; `None` for the first page.
    pub(super) fn position<P: Position>(&self) -> Result<Option<P>, Problem> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let open = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor.as_bytes()).ok()?;
            let (text, signature) = bytes.split_at_checked(bytes.len().checked_sub(CursorKeys::SIGNATURE)?)?;
            let is_ours = self.keys.is_signed(&[&self.bound_to(), text], signature);
            if is_ours { P::read(std::str::from_utf8(text).ok()?) } else { None }
        };
        let detail = "the cursor does not belong to this list with these filters; start again without one";
        open().map(Some).ok_or_else(|| Problem::bad_request("invalid_cursor", detail))
    }

    pub(super) fn cursor(&self, position: &impl Position) -> String {
        let text = position.write();
        let signature = self.keys.sign(&[&self.bound_to(), text.as_bytes()]);
        URL_SAFE_NO_PAD.encode([text.as_bytes(), &signature].concat())
    }

    fn bound_to(&self) -> [u8; 32] {
        self.binding.clone().finalize().into()
    }

    /// Makes the answer, with a cursor if the list goes on after `next`.
    pub(super) fn answer<V, P: Position>(&self, data: Vec<V>, next: Option<P>) -> PageView<V> {
        let next_cursor = next.map(|next| self.cursor(&next));
        let link = next_cursor.as_deref().map(|cursor| self.link(cursor));
        PageView { data, next_cursor, link }
    }

    /// Links the next page (RFC 8288). The reference is relative to the list, so that it is right behind every proxy.
    fn link(&self, cursor: &str) -> String {
        let (start, rest) = ("<?", ">; rel=\"next\"");
        let mut query = form_urlencoded::Serializer::for_suffix(start.to_owned(), start.len());
        query.extend_pairs(&self.filters);
        query.append_pair("limit", &self.limit.to_string()).append_pair("cursor", cursor);
        query.finish() + rest
    }

    /// Cuts off the row that was read only to see whether there are more; returns the position to go on from.
    pub(super) fn cut<T, P>(&self, rows: &mut Vec<T>, position: impl Fn(&T) -> P) -> Option<P> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        if has_more { rows.last().map(position) } else { None }
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Page)]
pub(super) struct PageView<V> {
    data: Vec<V>,
    /// Pass it as `cursor` to read the next page; null on the last page.
    next_cursor: Option<String>,
    /// The header `Link`, if there is a next page.
    #[serde(skip)]
    link: Option<String>,
}

impl<V> PageView<V> {
    /// Makes the answer from what it shows, which may be more than the page.
    pub(super) fn answer_with(&self, shown: &impl Serialize) -> Response {
        (self.link.clone().map(|link| [(LINK, link)]), axum::Json(shown)).into_response()
    }
}

impl<V: Serialize> IntoResponse for PageView<V> {
    fn into_response(self) -> Response {
        self.answer_with(&self)
    }
}

/// A position in a list; the next page starts after it.
pub(super) trait Position: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Position for i64 {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Position for String {
    fn write(&self) -> String {
        self.clone()
    }

    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Position for DeliveryId {
    fn write(&self) -> String {
        format!("{}.{}", self.event.0, self.webhook.0)
    }

    fn read(text: &str) -> Option<Self> {
        let (event, webhook) = text.split_once('.')?;
        Some(Self { event: EventSeq(event.parse().ok()?), webhook: WebhookNum(webhook.parse().ok()?) })
    }
}

/// The value of a filter.
pub(super) trait Filter: Sized {
    fn read(name: &str, value: &str) -> Result<Self, Problem>;
}

fn invalid(name: &str, value: &str, accepted: &str) -> Problem {
    Problem::bad_request("invalid_parameter", format!("{name}: {value:?} was given, {accepted} is accepted"))
}

impl Filter for bool {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        value.parse().map_err(|_| invalid(name, value, "true or false"))
    }
}

impl Filter for u64 {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        value.parse().map_err(|_| invalid(name, value, "a whole number"))
    }
}

impl Filter for String {
    /// Refuses NUL: no stored text has one, and PostgreSQL takes none.
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        if value.contains('\0') { Err(invalid(name, value, "text without NUL")) } else { Ok(value.to_owned()) }
    }
}

impl Filter for UnixMillis {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        value.parse().map_err(|_| invalid(name, value, "an RFC 3339 time such as 2026-11-23T08:00:00.000Z"))
    }
}

impl Filter for Status {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        match value {
            "pending" => Ok(Self::Pending),
            "success" => Ok(Self::Success),
            "failed" => Ok(Self::Failed),
            "cancelled" => Ok(Self::Cancelled),
            _ => Err(invalid(name, value, "one of pending, success, failed, cancelled")),
        }
    }
}

impl Filter for OutcomeKind {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        let words = Self::ALL.map(Self::as_str);
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == value);
        found.ok_or_else(|| invalid(name, value, &format!("one of {}", words.join(", "))))
    }
}

/// The status code of an answer, from 100 to 599.
pub(super) struct StatusCodeFilter(pub(super) u16);

impl Filter for StatusCodeFilter {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        let code = value.parse().ok().filter(|code| (100..=599).contains(code));
        code.map(Self).ok_or_else(|| invalid(name, value, "a status code from 100 to 599"))
    }
}

/// A number of attempts of one delivery.
pub(super) struct AttemptsFilter(pub(super) u16);

impl Filter for AttemptsFilter {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        let attempts = value.parse().ok().filter(|attempts| *attempts <= MAX_ATTEMPT);
        attempts.map(Self).ok_or_else(|| invalid(name, value, &format!("a whole number from 0 to {MAX_ATTEMPT}")))
    }
}

impl Filter for WebhookId {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        value.parse().map_err(|error| Problem::bad_request("invalid_id", format!("{name}: {error}")))
    }
}

impl Filter for EventId {
    fn read(name: &str, value: &str) -> Result<Self, Problem> {
        value.parse().map_err(|error| Problem::bad_request("invalid_id", format!("{name}: {error}")))
    }
}

/// Describes an optional query parameter for the OpenAPI document.
pub(super) fn query_parameter(name: &str, what: &str, schema: ObjectBuilder) -> Parameter {
    let mut parameter = Parameter::new(name);
    parameter.parameter_in = ParameterIn::Query;
    parameter.required = utoipa::openapi::Required::False;
    parameter.description = Some(what.to_owned());
    parameter.schema = Some(schema.build().into());
    parameter
}

/// `limit` and `cursor`, for the OpenAPI document.
pub(super) enum PageParams {}

impl IntoParams for PageParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MAX_LIMIT as f64));
        let limit = number.default(Some(DEFAULT_LIMIT.into()));
        let cursor = ObjectBuilder::new().schema_type(Type::String);
        vec![
            query_parameter("limit", "Maximum items on a page.", limit),
            query_parameter("cursor", "`nextCursor` of the page before.", cursor),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TENANT: Option<TenantNum> = Some(TenantNum(7));

    fn code(problem: Problem) -> &'static str {
        problem.into_parts().1
    }

    fn query_of(text: &str) -> Query {
        Query { text: text.to_owned(), keys: CursorKeys::of_bytes(b"key") }
    }

    fn read(query: &str, route: &str, tenant: Option<TenantNum>) -> Result<Option<i64>, &'static str> {
        let query = query_of(query);
        let list = query.list(route, tenant, &["isActive", "event"]).map_err(code)?;
        list.position().map_err(code)
    }

    fn cursor_for(query: &str) -> String {
        let query = query_of(query);
        query.list("webhooks", TENANT, &["isActive", "event"]).unwrap().cursor(&42_i64)
    }

    #[test]
    fn a_cursor_goes_on_in_its_own_list_only() {
        let cursor = cursor_for("isActive=true&event=a");
        let with = |filters: &str| format!("{filters}&cursor={cursor}");
        assert_eq!(read(&with("event=a&isActive=true&limit=5"), "webhooks", TENANT), Ok(Some(42)));
        for filters in ["", "isActive=true", "isActive=false&event=a", "isActive=true&event=b"] {
            assert_eq!(read(&with(filters), "webhooks", TENANT), Err("invalid_cursor"), "{filters}");
        }
        let same = with("isActive=true&event=a");
        assert_eq!(read(&same, "events", TENANT), Err("invalid_cursor"));
        assert_eq!(read(&same, "webhooks", Some(TenantNum(8))), Err("invalid_cursor"));
        assert_eq!(read(&same, "webhooks", None), Err("invalid_cursor"));
    }

    #[test]
    fn a_cursor_that_was_signed_under_another_key_is_refused() {
        let cursor = cursor_for("");
        let elsewhere = Query { keys: CursorKeys::of_bytes(b"another"), ..query_of(&format!("cursor={cursor}")) };
        let list = elsewhere.list("webhooks", TENANT, &["isActive", "event"]).unwrap();
        assert_eq!(list.position::<i64>().map_err(code), Err("invalid_cursor"));
        assert_eq!(read(&format!("cursor={cursor}"), "webhooks", TENANT), Ok(Some(42)));
    }

    #[test]
    fn parameters_are_judged_by_name_value_and_number() {
        for (query, expected) in [
            ("limit=0", "invalid_limit"),
            ("limit=101", "invalid_limit"),
            ("limit=ten", "invalid_limit"),
            ("limit=", "invalid_limit"),
            ("cursor=", "invalid_cursor"),
            ("cursor=AAAA", "invalid_cursor"),
            ("cursor=%00", "invalid_cursor"),
            ("page=2", "unknown_parameter"),
            ("event=a&event=b", "invalid_parameter"),
            ("limit=1&limit=2", "invalid_parameter"),
        ] {
            assert_eq!(read(query, "webhooks", TENANT), Err(expected), "{query}");
        }
        assert_eq!(read("limit=100&isActive=x", "webhooks", TENANT), Ok(None));
    }

    proptest! {
        #[test]
        fn no_query_panics_and_no_forged_cursor_passes(query in "\\PC{0,60}", cursor in "[A-Za-z0-9_-]{0,40}") {
            let _ = read(&query, "webhooks", TENANT);
            prop_assert_eq!(read(&format!("cursor={cursor}"), "webhooks", TENANT), Err("invalid_cursor"));
        }

        #[test]
        fn a_position_reads_back(event: i64, webhook: i64) {
            let id = DeliveryId { event: EventSeq(event), webhook: WebhookNum(webhook) };
            prop_assert_eq!(DeliveryId::read(&id.write()), Some(id));
        }
    }
}
