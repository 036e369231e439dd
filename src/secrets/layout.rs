//! The layouts of sealed values. The first byte of a value names its layout. Pure.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Layout {
    /// Bound to a webhook.
    ByWebhook = 1,
    /// Bound to a row and to its tenant.
    ByTenant = 2,
    /// Like [`Self::ByTenant`], and a value for one origin alone begins with that origin.
    ByOrigin = 3,
}

impl Layout {
    pub(crate) const NEWEST: Self = Self::ByOrigin;

    /// The newest layout up to this number that this version knows.
    pub(crate) const fn up_to(number: i64) -> Self {
        match number {
            ..=1 => Self::ByWebhook,
            2 => Self::ByTenant,
            3.. => Self::ByOrigin,
        }
    }

    /// The layout that the first byte of a sealed value names.
    pub(super) const fn named(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::ByWebhook),
            2 => Some(Self::ByTenant),
            3 => Some(Self::ByOrigin),
            _ => None,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_layouts_and_what_a_newer_version_has_noted_is_the_newest_that_is_known() {
        for layout in [Layout::ByWebhook, Layout::ByTenant, Layout::ByOrigin] {
            assert_eq!(Layout::named(layout.number()), Some(layout));
            assert_eq!(Layout::up_to(layout.number().into()), layout);
        }
        assert_eq!((Layout::named(0), Layout::named(Layout::NEWEST.number() + 1)), (None, None));
        assert_eq!((Layout::up_to(0), Layout::up_to(i64::MAX)), (Layout::ByWebhook, Layout::NEWEST));
    }
}
