//! Headers and credentials of a webhook as the store sees them: documents to seal, each for one origin.

use std::collections::BTreeMap;

use entity::webhook::{ActiveModel, Column, Entity, Model};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, Set};

use crate::domain::credentials::Credentials;
use crate::domain::id::{TenantNum, WebhookId};
use crate::secrets::SealContext;

use super::{Origin, Store, StoreError, to_json};

/// Different TLS options among the webhooks of one tenant. Each needs an HTTP client with connections of its own.
pub const MAX_TLS_OPTIONS: u64 = 100;

/// Why an opened value cannot be read. A parse error might quote it.
const NO_DOCUMENT: &str = "not as it is written";

/// What is sealed in the row of a webhook.
pub(super) struct Sealed {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) credentials: Option<Credentials>,
    /// The origin that both were given for.
    pub(super) origin: Origin,
}

impl Store {
    /// Seals headers and credentials into a row.
    pub(super) fn seal_into(
        &self,
        row: &mut ActiveModel,
        (tenant, webhook): (TenantNum, WebhookId),
        headers: &BTreeMap<String, String>,
        credentials: Option<&Credentials>,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let seal = |place, document: String| self.seal().close_for(&place, origin.as_str(), document.as_bytes());
        row.headers = Set(seal(SealContext::Headers { tenant, webhook }, to_json(headers)?)?);
        let credentials = credentials.map(to_json).transpose()?;
        let place = SealContext::Credentials { tenant, webhook };
        row.credentials = Set(credentials.map(|document| seal(place, document)).transpose()?);
        row.bound_url = Set(Some(origin.as_str().to_owned()));
        Ok(())
    }

    /// Opens what is sealed in a row.
    pub(super) fn open_of(&self, owner: (TenantNum, WebhookId), row: &Model) -> Result<Sealed, StoreError> {
        let (of_headers, headers) = self.open_headers(owner, &row.headers)?;
        let of_row = unsealed_origin(row.bound_url.as_deref(), &row.url);
        let origin = of_headers.map_or_else(|| of_row.clone(), Origin::from);
        let mut sealed = Sealed { headers, credentials: None, origin };
        if let Some(credentials) = &row.credentials {
            let (of_credentials, credentials) = self.open_credentials(owner, credentials)?;
            sealed.credentials = Some(credentials);
            // Headers and credentials name different origins: the row combines values of different times.
            if of_credentials.map_or(of_row, Origin::from) != sealed.origin {
                sealed.origin = Origin::nobody();
            }
        }
        Ok(sealed)
    }

    /// The headers, and the origin that they were given for, if the layout holds one.
    pub(super) fn open_headers(
        &self,
        (tenant, webhook): (TenantNum, WebhookId),
        sealed: &[u8],
    ) -> Result<(Option<String>, BTreeMap<String, String>), StoreError> {
        let opened = self.seal().open_for(&SealContext::Headers { tenant, webhook }, sealed);
        let (origin, headers) = opened.map_err(|error| StoreError::unreadable("headers", error))?;
        let headers = serde_json::from_slice(&headers);
        Ok((origin, headers.map_err(|_| StoreError::unreadable("headers", NO_DOCUMENT))?))
    }

    /// The same for the credentials.
    pub(super) fn open_credentials(
        &self,
        (tenant, webhook): (TenantNum, WebhookId),
        sealed: &[u8],
    ) -> Result<(Option<String>, Credentials), StoreError> {
        let opened = self.seal().open_for(&SealContext::Credentials { tenant, webhook }, sealed);
        let (origin, document) = opened.map_err(|error| StoreError::unreadable("credentials", error))?;
        let credentials = serde_json::from_slice(&document);
        Ok((origin, credentials.map_err(|_| StoreError::unreadable("credentials", NO_DOCUMENT))?))
    }
}

/// Refuses TLS options that the tenant does not use yet and that would be one too many.
pub(super) async fn check_tls<C: ConnectionTrait>(
    on: &C,
    tenant: TenantNum,
    digest: Option<&[u8]>,
) -> Result<(), StoreError> {
    let Some(digest) = digest else { return Ok(()) };
    let of_tenant = || {
        let digests = Entity::find().select_only().column(Column::TlsDigest).filter(Column::TenantNum.eq(tenant.0));
        digests.filter(Column::TlsDigest.is_not_null()).filter(Column::DeletedAt.is_null())
    };
    let known = of_tenant().filter(Column::TlsDigest.eq(digest)).limit(1).into_tuple::<Vec<u8>>().one(on).await?;
    if known.is_some() || of_tenant().distinct().count(on).await? < MAX_TLS_OPTIONS {
        return Ok(());
    }
    Err(StoreError::TooManyTlsOptions)
}

/// The origin of values whose layout does not hold one: that of the URL which the row had when it was first bound.
pub(in crate::store) fn unsealed_origin(bound_url: Option<&str>, url: &str) -> Origin {
    Origin::of(bound_url.unwrap_or(url))
}
