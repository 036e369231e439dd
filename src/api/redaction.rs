//! The mark that stands for a secret in answers, and that a change may send back to keep the secret.

/// Stands for a secret, and for the value of a header that is not public.
pub(super) const REDACTED: &str = "[redacted]";
