//! The scopes of keys.

/// A scope: what a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Read,
    Publish,
    Manage,
    Operate,
}

impl Scope {
    pub(super) const ALL: [Self; 4] = [Self::Read, Self::Publish, Self::Manage, Self::Operate];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Manage => "manage",
            Self::Operate => "operate",
        }
    }
}

/// Whether `name` is a scope that a key may have.
#[must_use]
pub fn is_scope(name: &str) -> bool {
    Scope::ALL.into_iter().any(|scope| scope.as_str() == name)
}
