//! What lets a webhook in at its receiver, as the store sees it: a document to seal.

use std::fmt;

use serde_json::Value;

use crate::id::{TenantNum, WebhookId};
use crate::store::seal::Place;

use super::{Store, StoreError, to_json};

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
