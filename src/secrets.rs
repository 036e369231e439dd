//! Secrets at rest: master keys, and what is sealed, vouched for and signed with them. Used by the store, which keeps
//! what is sealed; by `config`, which reads master keys; and by the API, which signs cursors. Knows no database.

mod context;
mod cursors;
mod error;
pub(crate) mod key_file;
mod layout;
mod master_key;
mod opener;
mod seal;

pub(crate) use context::SealContext;
pub use cursors::CursorKeys;
pub(crate) use error::SealError;
pub use key_file::KeyFileError;
pub(crate) use layout::Layout;
pub use master_key::MasterKey;
pub(crate) use seal::{HEAD_BYTES, Seal};
