//! What lets a webhook in at its receiver, as the store sees it: a document to seal.

use std::fmt;

use entity::webhook::{Column, Entity};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect};
use serde_json::Value;

use crate::id::{TenantNum, WebhookId};
use crate::store::seal::Place;

use super::{Store, StoreError, to_json};

/// Different TLS options among the webhooks of one tenant. Each is a client with connections of its own.
pub const MAX_TLS_OPTIONS: u64 = 100;

/// The store does not look inside, and nobody sees it by accident.
#[derive(Clone, PartialEq)]
pub struct Credentials(pub Value);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Store {
    pub(super) fn seal_credentials(
        &self,
        tenant: TenantNum,
        id: WebhookId,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let place = Place::Credentials { tenant, webhook: id };
        let sealed = |Credentials(document): &Credentials| self.seal().close(&place, to_json(document)?.as_bytes());
        credentials.map(sealed).transpose()
    }

    pub(super) fn open_credentials(
        &self,
        tenant: TenantNum,
        id: WebhookId,
        sealed: Option<&[u8]>,
    ) -> Result<Option<Credentials>, StoreError> {
        let Some(sealed) = sealed else { return Ok(None) };
        let document = self.seal().open(&Place::Credentials { tenant, webhook: id }, sealed)?;
        let document =
            serde_json::from_slice(&document).map_err(|error| StoreError::unreadable("credentials", error))?;
        Ok(Some(Credentials(document)))
    }
}

/// Refuses options that the tenant has not and that would be one too many.
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
