//! Reads, merges and shows `tls` and `auth` of a webhook. A secret is shown as a mark; the mark, sent back, keeps what
//! is stored.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::fields::{Errors, Fault, Given, Reader, any_text, word};
use crate::domain::credentials::{Auth, ClientCredentials, Concealed, TlsOptions, TokenAuthMethod};

use crate::api::redaction::REDACTED;

#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = TlsInput, rename_all = "camelCase")]
pub(in crate::api) struct TlsChanges {
    /// PEM certificates of authorities to trust besides the system's; at most 64 KiB.
    #[schema(value_type = Option<String>)]
    ca: Given<String>,
    /// The engine's certificate for receivers that ask for one, with its intermediates, in PEM; at most 32 KiB.
    #[schema(value_type = Option<String>)]
    client_certificate: Given<String>,
    /// The key of `clientCertificate` in PEM, without a passphrase; at most 16 KiB. Never shown.
    #[schema(value_type = Option<String>)]
    client_key: Given<SecretText>,
}

#[derive(Debug, Clone, PartialEq, ToSchema)]
#[schema(as = AuthInput, rename_all = "camelCase")]
pub(in crate::api) struct AuthChanges {
    /// `basic`, `bearer` or `oauth2` (client credentials).
    #[schema(value_type = Option<String>)]
    r#type: Given<Kind>,
    /// For `basic`; at most 1 KiB.
    #[schema(value_type = Option<String>)]
    username: Given<String>,
    /// For `basic`; at most 1 KiB. Never shown.
    #[schema(value_type = Option<String>)]
    password: Given<SecretText>,
    /// For `bearer`; at most 4 KiB. Never shown.
    #[schema(value_type = Option<String>)]
    token: Given<SecretText>,
    /// For `oauth2`: the URL at which tokens are fetched; the rules for `url` apply.
    #[schema(value_type = Option<String>)]
    token_url: Given<String>,
    /// For `oauth2`; at most 1 KiB.
    #[schema(value_type = Option<String>)]
    client_id: Given<String>,
    /// For `oauth2`; at most 1 KiB. Never shown.
    #[schema(value_type = Option<String>)]
    client_secret: Given<SecretText>,
    /// For `oauth2`; at most 2 KiB.
    #[schema(value_type = Option<String>)]
    scope: Given<String>,
    /// For `oauth2`; at most 2 KiB.
    #[schema(value_type = Option<String>)]
    audience: Given<String>,
    /// For `oauth2`: `client_secret_basic` or `client_secret_post`.
    #[schema(value_type = Option<String>, default = "client_secret_basic")]
    token_endpoint_auth_method: Given<TokenAuthMethod>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Basic,
    Bearer,
    OAuth2,
}

const METHODS: [(&str, TokenAuthMethod); 2] = [
    ("client_secret_basic", TokenAuthMethod::ClientSecretBasic),
    ("client_secret_post", TokenAuthMethod::ClientSecretPost),
];

/// What a request gives where a secret belongs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SecretText {
    /// The mark under which the stored secret was shown.
    Mark,
    New(Concealed),
}

fn secret(raw: &RawValue) -> Result<SecretText, Fault> {
    let text = any_text(raw)?;
    Ok(if text == REDACTED { SecretText::Mark } else { SecretText::New(text.into()) })
}

impl TlsChanges {
    pub(super) const FIELDS: &'static [&'static str] = &["ca", "clientCertificate", "clientKey"];

    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        Self {
            ca: reader.field("ca", any_text),
            client_certificate: reader.field("clientCertificate", any_text),
            client_key: reader.field("clientKey", secret),
        }
    }

    pub(super) fn gives_key(&self) -> bool {
        is_new(&self.client_key)
    }

    /// Merges changes into a webhook's `tls`.
    pub(super) fn merge_into(given: Given<Self>, tls: &mut Option<TlsOptions>, errors: &mut Errors) {
        let Self { ca, client_certificate, client_key } = match given {
            Given::Absent | Given::Invalid => return,
            Given::Null => return *tls = None,
            Given::Value(changes) => changes,
        };
        let stored = tls.take().unwrap_or_default();
        let merged = TlsOptions {
            ca: text(ca, stored.ca),
            client_certificate: text(client_certificate, stored.client_certificate),
            client_key: concealed("/tls/clientKey", client_key, stored.client_key, errors),
        };
        *tls = (!merged.is_empty()).then_some(merged);
    }
}

impl AuthChanges {
    pub(super) const FIELDS: &'static [&'static str] = &[
        "type",
        "username",
        "password",
        "token",
        "tokenUrl",
        "clientId",
        "clientSecret",
        "scope",
        "audience",
        "tokenEndpointAuthMethod",
    ];

    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        let kinds = [("basic", Kind::Basic), ("bearer", Kind::Bearer), ("oauth2", Kind::OAuth2)];
        Self {
            r#type: reader.field("type", |raw| word(raw, &kinds)),
            username: reader.field("username", any_text),
            password: reader.field("password", secret),
            token: reader.field("token", secret),
            token_url: reader.field("tokenUrl", any_text),
            client_id: reader.field("clientId", any_text),
            client_secret: reader.field("clientSecret", secret),
            scope: reader.field("scope", any_text),
            audience: reader.field("audience", any_text),
            token_endpoint_auth_method: reader.field("tokenEndpointAuthMethod", |raw| word(raw, &METHODS)),
        }
    }

    pub(super) fn gives_secret(&self) -> bool {
        [&self.password, &self.token, &self.client_secret].into_iter().any(is_new)
    }

    /// Merges changes into a webhook's `auth`. Another type starts from nothing.
    pub(super) fn merge_into(given: Given<Self>, auth: &mut Option<Auth>, errors: &mut Errors) {
        let changes = match given {
            Given::Absent | Given::Invalid => return,
            Given::Null => return *auth = None,
            Given::Value(changes) => changes,
        };
        let kind = match (&changes.r#type, auth.as_ref()) {
            (Given::Value(kind), _) => *kind,
            (Given::Absent, Some(stored)) => kind_of(stored),
            (Given::Absent | Given::Null, _) => {
                return errors
                    .add(&"/auth/type", Fault::new("required", "missing; basic, bearer or oauth2 is required"));
            }
            (Given::Invalid, _) => return,
        };
        changes.note_strangers(kind, errors);
        let stored = auth.take().filter(|stored| kind_of(stored) == kind);
        *auth = match kind {
            Kind::Basic => changes.basic(stored, errors),
            Kind::Bearer => changes.bearer(stored, errors),
            Kind::OAuth2 => changes.oauth2(stored, errors),
        };
    }

    /// Notes fields that belong to other types.
    fn note_strangers(&self, kind: Kind, errors: &mut Errors) {
        let Self { r#type: _, username, password, token, token_url, client_id, client_secret, .. } = self;
        let fields = [
            (Kind::Basic, "username", is_given(username)),
            (Kind::Basic, "password", is_given(password)),
            (Kind::Bearer, "token", is_given(token)),
            (Kind::OAuth2, "tokenUrl", is_given(token_url)),
            (Kind::OAuth2, "clientId", is_given(client_id)),
            (Kind::OAuth2, "clientSecret", is_given(client_secret)),
            (Kind::OAuth2, "scope", is_given(&self.scope)),
            (Kind::OAuth2, "audience", is_given(&self.audience)),
            (Kind::OAuth2, "tokenEndpointAuthMethod", is_given(&self.token_endpoint_auth_method)),
        ];
        for (_, name, _) in fields.iter().filter(|(owner, _, is_given)| *is_given && *owner != kind) {
            errors.add(&format!("/auth/{name}"), Fault::new("unknown_field", "belongs to another type of `auth`"));
        }
    }

    fn basic(self, stored: Option<Auth>, errors: &mut Errors) -> Option<Auth> {
        let (name, password) = match stored {
            Some(Auth::Basic { username, password }) => (Some(username), Some(password)),
            Some(Auth::Bearer { .. } | Auth::OAuth2(_)) | None => (None, None),
        };
        let username = required("/auth/username", &self.username.clone(), text(self.username, name), errors);
        let is_given = self.password.clone();
        let password = concealed("/auth/password", self.password, password, errors);
        let password = required("/auth/password", &is_given, password, errors);
        Some(Auth::Basic { username: username?, password: password? })
    }

    fn bearer(self, stored: Option<Auth>, errors: &mut Errors) -> Option<Auth> {
        let token = match stored {
            Some(Auth::Bearer { token }) => Some(token),
            Some(Auth::Basic { .. } | Auth::OAuth2(_)) | None => None,
        };
        let is_given = self.token.clone();
        let token = concealed("/auth/token", self.token, token, errors);
        Some(Auth::Bearer { token: required("/auth/token", &is_given, token, errors)? })
    }

    fn oauth2(self, stored: Option<Auth>, errors: &mut Errors) -> Option<Auth> {
        let stored = match stored {
            Some(Auth::OAuth2(stored)) => Some(*stored),
            Some(Auth::Basic { .. } | Auth::Bearer { .. }) | None => None,
        };
        let known = stored.as_ref();
        let url = text(self.token_url.clone(), known.map(|stored| stored.token_url.clone()));
        let url = required("/auth/tokenUrl", &self.token_url, url, errors);
        let id = text(self.client_id.clone(), known.map(|stored| stored.client_id.clone()));
        let id = required("/auth/clientId", &self.client_id, id, errors);
        let secret = known.map(|stored| stored.client_secret.clone());
        let secret = concealed("/auth/clientSecret", self.client_secret.clone(), secret, errors);
        let secret = required("/auth/clientSecret", &self.client_secret, secret, errors);
        let mut method = known.map(|stored| stored.token_endpoint_auth_method).unwrap_or_default();
        self.token_endpoint_auth_method.merge_into(&mut method, TokenAuthMethod::default);
        Some(Auth::OAuth2(Box::new(ClientCredentials {
            token_url: url?,
            client_id: id?,
            client_secret: secret?,
            scope: text(self.scope, known.and_then(|stored| stored.scope.clone())),
            audience: text(self.audience, known.and_then(|stored| stored.audience.clone())),
            token_endpoint_auth_method: method,
        })))
    }
}

fn kind_of(auth: &Auth) -> Kind {
    match auth {
        Auth::Basic { .. } => Kind::Basic,
        Auth::Bearer { .. } => Kind::Bearer,
        Auth::OAuth2(_) => Kind::OAuth2,
    }
}

fn is_new(given: &Given<SecretText>) -> bool {
    matches!(given, Given::Value(SecretText::New(_)))
}

/// The pointer to the secret of this kind of credentials.
pub(super) fn secret_pointer(auth: &Auth) -> &'static str {
    match auth {
        Auth::Basic { .. } => "/auth/password",
        Auth::Bearer { .. } => "/auth/token",
        Auth::OAuth2(_) => "/auth/clientSecret",
    }
}

fn is_given<T>(given: &Given<T>) -> bool {
    match given {
        Given::Value(_) => true,
        Given::Absent | Given::Null | Given::Invalid => false,
    }
}

fn text(given: Given<String>, stored: Option<String>) -> Option<String> {
    match given {
        Given::Value(text) => Some(text),
        Given::Absent | Given::Invalid => stored,
        Given::Null => None,
    }
}

fn concealed(
    pointer: &str,
    given: Given<SecretText>,
    stored: Option<Concealed>,
    errors: &mut Errors,
) -> Option<Concealed> {
    match given {
        Given::Value(SecretText::New(text)) => Some(text),
        Given::Value(SecretText::Mark) if stored.is_none() => {
            let message = "the mark of a hidden value was given, but no value is stored";
            errors.add(&pointer, Fault::new("invalid", message));
            None
        }
        Given::Value(SecretText::Mark) | Given::Absent | Given::Invalid => stored,
        Given::Null => None,
    }
}

fn required<T, G>(pointer: &str, given: &Given<G>, merged: Option<T>, errors: &mut Errors) -> Option<T> {
    let is_noted = matches!(given, Given::Invalid | Given::Value(_));
    if merged.is_none() && !is_noted {
        errors.add(&pointer, Fault::new("required", "missing, a value is required"));
    }
    merged
}

/// TLS options as the API shows them; they can be sent back as they are.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Tls)]
pub(in crate::api) struct TlsView {
    ca: Option<String>,
    client_certificate: Option<String>,
    /// `[redacted]` when there is a key; null otherwise.
    client_key: Option<&'static str>,
}

impl From<TlsOptions> for TlsView {
    fn from(TlsOptions { ca, client_certificate, client_key }: TlsOptions) -> Self {
        Self { ca, client_certificate, client_key: client_key.map(|_| REDACTED) }
    }
}

/// Credentials as the API shows them: the fields of their type, with secrets as `[redacted]`. They can be sent back as
/// they are.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "type")]
#[schema(as = Auth)]
pub(in crate::api) enum AuthView {
    Basic {
        username: String,
        password: &'static str,
    },
    Bearer {
        token: &'static str,
    },
    #[serde(rename = "oauth2", rename_all = "camelCase")]
    OAuth2 {
        token_url: String,
        client_id: String,
        client_secret: &'static str,
        scope: Option<String>,
        audience: Option<String>,
        #[schema(value_type = String)]
        token_endpoint_auth_method: TokenAuthMethod,
    },
}

impl From<Auth> for AuthView {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Basic { username, password: _ } => Self::Basic { username, password: REDACTED },
            Auth::Bearer { token: _ } => Self::Bearer { token: REDACTED },
            Auth::OAuth2(stored) => {
                let ClientCredentials { token_url, client_id, client_secret: _, scope, audience, .. } = *stored;
                let token_endpoint_auth_method = stored.token_endpoint_auth_method;
                let client_secret = REDACTED;
                Self::OAuth2 { token_url, client_id, client_secret, scope, audience, token_endpoint_auth_method }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_document_states_the_limits_of_credentials() {
        let (tls, auth) = (TlsChanges::schema(), AuthChanges::schema());
        let [tls, auth] = [tls, auth].map(|schema| serde_json::to_value(schema).unwrap());
        let properties = |field: &str| tls["properties"].get(field).or(auth["properties"].get(field)).unwrap().clone();
        for (field, bytes) in [
            ("ca", TlsOptions::CA_BYTES),
            ("clientCertificate", TlsOptions::CERTIFICATE_BYTES),
            ("clientKey", TlsOptions::KEY_BYTES),
            ("username", Auth::NAME_BYTES),
            ("password", Auth::NAME_BYTES),
            ("clientId", Auth::NAME_BYTES),
            ("clientSecret", Auth::NAME_BYTES),
            ("token", Auth::TOKEN_BYTES),
            ("scope", Auth::SCOPE_BYTES),
            ("audience", Auth::SCOPE_BYTES),
        ] {
            let property = properties(field);
            let described = property["description"].as_str().unwrap();
            assert!(described.contains(&format!("at most {} KiB", bytes / 1024)), "{field}: {described}");
        }
    }
}
