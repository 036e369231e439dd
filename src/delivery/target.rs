//! Where a webhook's requests go and how they are signed. The engine builds a target from a row, and a target that
//! exists has passed the guard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::credentials::{TlsMaterial, auth_problems, fixed_header, tls_material};
use super::guard::{Guard, GuardError};
use super::headers::check_headers;
use super::lru::{Digest, Key};
use super::signature::SigningSecret;
use super::token::TokenSource;
use crate::domain::credentials::{Auth, Credentials};
use crate::domain::id::{TenantNum, WebhookId};
use crate::domain::policy::SignatureFormat;
use crate::domain::policy::{Policy, PolicyProblem};

/// What the sender needs to know about a webhook.
#[derive(Debug)]
pub struct Target {
    /// Normalised, and vetted when the target was built.
    pub url: Url,
    /// Custom headers; their values are marked sensitive, so that `Debug` does not show them.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// Newest first; several while a rotated secret still signs.
    pub secrets: Vec<SigningSecret>,
    pub format: SignatureFormat,
    /// One deadline over DNS, connect, TLS, headers and body.
    pub timeout: Duration,
    /// `None` without credentials, as for most webhooks.
    pub(super) access: Option<Box<Access>>,
}

/// The parsed credentials of a target that are not fixed headers.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) tls: Option<Arc<TlsMaterial>>,
    pub(super) tokens: Option<TokenSource>,
    tenant: TenantNum,
    /// Over the webhook, its credentials and the origin that they are for.
    digest: Digest,
}

/// Why no target can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Refused(#[from] GuardError),
    #[error("the stored credentials cannot be used: {message} (`{pointer}`)")]
    Credentials { pointer: String, message: String },
}

impl From<PolicyProblem> for TargetError {
    fn from(PolicyProblem { pointer, message }: PolicyProblem) -> Self {
        Self::Credentials { pointer, message }
    }
}

impl Target {
    /// Builds a target from stored values, checked by the current rules: a row may be older than the rules.
    ///
    /// # Errors
    ///
    /// When the URL may not be called or a header may not be sent.
    pub fn try_new(
        guard: &Guard,
        url: &str,
        headers: &BTreeMap<String, String>,
        secrets: Vec<SigningSecret>,
        policy: &Policy,
    ) -> Result<Self, GuardError> {
        Ok(Self {
            url: guard.check_url(url)?,
            headers: checked(headers)?,
            secrets,
            format: policy.signature.format,
            timeout: Duration::from_millis(policy.timeout_ms.into()),
            access: None,
        })
    }

    /// Adds the credentials of the tenant's webhook `owner`. Its tokens are not shared with other webhooks.
    ///
    /// # Errors
    ///
    /// When the credentials cannot be used.
    pub fn with_credentials(
        mut self,
        guard: &Guard,
        (tenant, owner): (TenantNum, WebhookId),
        credentials: Credentials,
    ) -> Result<Self, TargetError> {
        let digest = digest_of(owner, &self.url, &credentials);
        let Credentials { tls, auth } = credentials;
        let tls = tls.as_ref().map(tls_material).transpose().map_err(first_of)?;
        let problems = auth.as_ref().map(|auth| auth_problems(auth, guard)).unwrap_or_default();
        if !problems.is_empty() {
            return Err(first_of(problems));
        }
        if let Some(header) = auth.as_ref().and_then(fixed_header) {
            let fixed = std::iter::once((AUTHORIZATION, header));
            self.headers = self.headers.into_iter().filter(|(name, _)| name != AUTHORIZATION).chain(fixed).collect();
        }
        let tokens = match auth {
            Some(Auth::OAuth2(with)) => {
                let url = guard.check_url(&with.token_url)?;
                Some(TokenSource { url, credentials: *with, key: Key { tenant, digest } })
            }
            Some(Auth::Basic { .. } | Auth::Bearer { .. }) | None => None,
        };
        self.access = Some(Box::new(Access { tls: tls.map(Arc::new), tokens, tenant, digest }));
        Ok(self)
    }

    /// Whether the receiver sees the same credentials as with `other`.
    #[must_use]
    pub fn is_let_in_like(&self, other: &Self) -> bool {
        let digest = |target: &Self| target.access.as_ref().map(|access| access.digest);
        digest(self) == digest(other)
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.access.is_some()
    }

    /// The TLS material, with the tenant that it belongs to.
    pub(super) fn tls(&self) -> Option<(TenantNum, &Arc<TlsMaterial>)> {
        let access = self.access.as_ref()?;
        access.tls.as_ref().map(|tls| (access.tenant, tls))
    }

    pub(super) fn tokens(&self) -> Option<&TokenSource> {
        self.access.as_ref()?.tokens.as_ref()
    }
}

/// Reports only the first problem.
fn first_of(problems: Vec<PolicyProblem>) -> TargetError {
    let none = || PolicyProblem { pointer: String::new(), message: "unknown".to_owned() };
    problems.into_iter().next().unwrap_or_else(none).into()
}

/// Covers everything that a token may depend on, and the origin that it is sent to: a token that one receiver has seen
/// is not for another.
fn digest_of(owner: WebhookId, url: &Url, credentials: &Credentials) -> Digest {
    let text = serde_json::to_vec(credentials).unwrap_or_default();
    let origin = url.origin().ascii_serialization();
    Sha256::new().chain_update(owner.bytes()).chain_update(origin).chain_update(text).finalize().into()
}

fn checked(headers: &BTreeMap<String, String>) -> Result<Box<[(HeaderName, HeaderValue)]>, GuardError> {
    if let Some(problem) = check_headers(headers).into_iter().next() {
        return Err(GuardError::Header { name: problem.name, message: problem.message });
    }
    headers.iter().map(|(name, value)| header(name, value)).collect()
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), GuardError> {
    let refused = |message: String| GuardError::Header { name: name.to_owned(), message };
    let mut value = HeaderValue::from_str(value).map_err(|error| refused(error.to_string()))?;
    value.set_sensitive(true);
    Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|error| refused(error.to_string()))?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, headers: &[(&str, &str)]) -> Result<Target, GuardError> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let guard = Guard::new(false, Vec::new());
        Target::try_new(&guard, url, &headers, vec![SigningSecret::generate()], &Policy::default())
    }

    #[test]
    fn a_target_is_normalised_and_follows_the_policy() {
        let target = target("https://Hooks.Example.com.", &[("X-Team", "billing")]).unwrap();
        assert_eq!(target.url.as_str(), "https://hooks.example.com/");
        assert_eq!(target.headers[0].0, "x-team");
        assert_eq!(target.headers[0].1, "billing");
        assert_eq!(target.timeout, Duration::from_secs(5));
        assert_eq!(target.format, SignatureFormat::Hex);
    }

    #[test]
    fn a_row_that_breaks_the_rules_of_today_makes_no_target() {
        assert!(matches!(target("http://hooks.example.com/", &[]), Err(GuardError::Scheme { .. })));
        assert!(matches!(target("https://a.example/", &[("Host", "b.example")]), Err(GuardError::Header { .. })));
    }

    #[test]
    fn debug_shows_no_header_values() {
        let target = target("https://a.example/", &[("Authorization", "Bearer hunter2")]).unwrap();
        assert!(!format!("{target:?}").contains("hunter2"));
    }
}
