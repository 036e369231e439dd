//! Why a value cannot be sealed or opened. The texts follow the name of what cannot be read.

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("there is none")]
    NoMasterKey,
    #[error("it is too large to seal")]
    TooLarge,
    #[error("it is empty")]
    Empty,
    #[error("unknown layout")]
    UnknownLayout,
    #[error("it was sealed under another master key")]
    ForeignKey,
    #[error("it does not belong to this row or was changed")]
    Changed,
    #[error("it names no origin")]
    NoOrigin,
}

impl SealError {
    /// What cannot be read or sealed.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::NoMasterKey => "master key",
            Self::TooLarge => "value",
            Self::Empty | Self::UnknownLayout | Self::ForeignKey | Self::Changed | Self::NoOrigin => "secret",
        }
    }
}
