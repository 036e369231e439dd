//! The layouts of sealed values. The first byte of a value names its layout. Pure.

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Layout {
    /// Bound to a webhook.
    Webhook = 1,
    /// Bound to a row and to its tenant.
    Tenant = 2,
    /// Like [`Self::Tenant`], and a value for one origin alone begins with that origin.
    Origin = 3,
}

impl Layout {
    pub(crate) const NEWEST: Self = Self::Origin;

    /// The newest layout up to this number that this version knows.
    pub(crate) const fn up_to(number: i64) -> Self {
        match number {
            ..=1 => Self::Webhook,
            2 => Self::Tenant,
            3.. => Self::Origin,
        }
    }

    /// The layout that the first byte of a sealed value names.
    pub(super) const fn named(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Webhook),
            2 => Some(Self::Tenant),
            3 => Some(Self::Origin),
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
        for layout in [Layout::Webhook, Layout::Tenant, Layout::Origin] {
            assert_eq!(Layout::named(layout.number()), Some(layout));
            assert_eq!(Layout::up_to(layout.number().into()), layout);
        }
        assert_eq!((Layout::named(0), Layout::named(Layout::NEWEST.number() + 1)), (None, None));
        assert_eq!((Layout::up_to(0), Layout::up_to(i64::MAX)), (Layout::Webhook, Layout::NEWEST));
    }
}
