//! Binds secrets to the origin (scheme, host and port) that they were given for. When `url` or `tokenUrl` moves to
//! another origin, the secrets that would go there must be given again; so must the value of a header that is to be
//! shown from now on. Pure.

use std::fmt;

use crate::api::fields::{At, Errors, Fault, Given};
use crate::domain::credentials::Auth;
use crate::engine::is_secret_header;
use crate::store::webhooks::Origin;

use super::Settings;
use crate::api::redaction::REDACTED;
use crate::api::webhooks::credentials::secret_pointer;
use crate::api::webhooks::input::Changes;

/// The state before a change, and which secrets the change gives anew.
pub(in crate::api::webhooks) struct Bound {
    /// The origin that the stored secrets were given for.
    origin: Origin,
    /// The origin of `url`; it differs if an older version has moved `url` without asking for the secrets.
    url_origin: Origin,
    token_origin: Option<Origin>,
    /// Names of headers whose values are not shown.
    hidden: Vec<String>,
    headers: Vec<String>,
    has_auth: bool,
    has_key: bool,
}

impl Bound {
    pub(in crate::api::webhooks) fn of(settings: &Settings, changes: &Changes) -> Self {
        let given = match &changes.headers {
            Given::Value(headers) => headers.as_slice(),
            Given::Absent | Given::Null | Given::Invalid => &[],
        };
        let is_new = |value: &Option<String>| value.as_deref().is_some_and(|value| value != REDACTED);
        let new = given.iter().filter(|(_, value)| is_new(value)).map(|(name, _)| name.clone());
        Self {
            origin: settings.credentials_origin.clone(),
            url_origin: Origin::of(&settings.url),
            token_origin: token_origin(settings),
            hidden: hidden(settings).cloned().collect(),
            headers: new.collect(),
            has_auth: matches!(&changes.auth, Given::Value(auth) if auth.gives_secret()),
            has_key: matches!(&changes.tls, Given::Value(tls) if tls.gives_key()),
        }
    }

    /// Judges what the change has made of the settings, and notes the origin that its secrets are for.
    pub(in crate::api::webhooks) fn check(&self, settings: &mut Settings, errors: &mut Errors) {
        self.check_shown(settings, errors);
        self.check_token_url(settings, errors);
        let now = Origin::of(&settings.url);
        if now == self.origin {
            return;
        }
        // Changing something else must not bind the secrets to a URL that was moved without asking for them.
        if now == self.url_origin && !self.gives_any() {
            return;
        }
        let kept = self.kept(settings);
        for pointer in &kept {
            errors.add_new(pointer, bound_to(&self.origin, &now));
        }
        if kept.is_empty() {
            settings.credentials_origin = now;
        }
    }

    /// Pointers to the secrets that go to the receiver and are not given anew.
    fn kept(&self, settings: &Settings) -> Vec<String> {
        let headers = hidden(settings).filter(|name| !self.gives(name)).map(|name| header_pointer(name));
        let auth = settings.credentials.auth.as_ref().filter(|_| !self.has_auth).map(secret_pointer);
        let key = has_key(settings) && !self.has_key;
        headers.chain(auth.map(str::to_owned)).chain(key.then(|| KEY.to_owned())).collect()
    }

    /// The token endpoint gets the client's secret and sees the client certificate.
    fn check_token_url(&self, settings: &Settings, errors: &mut Errors) {
        let Some(now) = token_origin(settings).filter(|now| Some(now) != self.token_origin.as_ref()) else { return };
        let before = self.token_origin.as_ref().unwrap_or(&self.origin);
        if !self.has_auth {
            errors.add_new("/auth/clientSecret", bound_to(before, &now));
        }
        if has_key(settings) && !self.has_key && now != self.origin {
            errors.add_new(KEY, bound_to(before, &now));
        }
    }

    /// A key that may change a webhook must not reveal its secrets.
    fn check_shown(&self, settings: &Settings, errors: &mut Errors) {
        let is_among = |names: &[String], name: &str| names.iter().any(|other| other.eq_ignore_ascii_case(name));
        let shown = settings.headers.keys().filter(|name| !is_secret_header(name, &settings.public_headers));
        for name in shown.filter(|name| is_among(&self.hidden, name) && !self.gives(name)) {
            let fault = Fault::new("hidden", "its value was hidden until now; give it again to have it shown");
            errors.add_new(&header_pointer(name), fault);
        }
    }

    fn gives(&self, header: &str) -> bool {
        self.headers.iter().any(|given| given.eq_ignore_ascii_case(header))
    }

    fn gives_any(&self) -> bool {
        !self.headers.is_empty() || self.has_auth || self.has_key
    }
}

const KEY: &str = "/tls/clientKey";

fn header_pointer(name: &str) -> String {
    At::Member(&At::Member(&At::Root, "headers"), name).to_string()
}

fn hidden(settings: &Settings) -> impl Iterator<Item = &String> {
    settings.headers.keys().filter(|name| is_secret_header(name, &settings.public_headers))
}

fn has_key(settings: &Settings) -> bool {
    settings.credentials.tls.as_ref().is_some_and(|tls| tls.client_key.is_some())
}

fn token_origin(settings: &Settings) -> Option<Origin> {
    match settings.credentials.auth.as_ref()? {
        Auth::OAuth2(credentials) => Some(Origin::of(&credentials.token_url)),
        Auth::Basic { .. } | Auth::Bearer { .. } => None,
    }
}

fn bound_to(origin: &impl fmt::Display, now: &impl fmt::Display) -> Fault {
    let message =
        format!("given for {origin} and sent nowhere else; give it again for {now}, or take it away with null");
    Fault::new("bound_to_origin", message)
}
