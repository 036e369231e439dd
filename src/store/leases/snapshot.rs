//! Which transactions were visible at a moment, in PostgreSQL's form `xmin:xmax:xip,xip…`. Pure.

/// Transactions below `from` were over, and none from `to` on had begun; of those between, `under_way` were not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    from: u64,
    to: u64,
    under_way: Vec<u64>,
}

impl Snapshot {
    /// The snapshot of a database that does not number transactions: everything was visible.
    #[must_use]
    pub fn of_everything() -> Self {
        Self { from: u64::MAX, to: u64::MAX, under_way: Vec::new() }
    }

    /// Reads the text of `pg_current_snapshot()`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (from, to) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let under_way = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let under_way = under_way.collect::<Result<_, _>>().ok()?;
        parts.next().is_none().then_some(Self { from, to, under_way })
    }

    /// Whether rows of this transaction were visible.
    #[must_use]
    pub fn shows(&self, transaction: u64) -> bool {
        transaction < self.from || (transaction < self.to && !self.under_way.contains(&transaction))
    }

    /// Rows of transactions below this number are all visible or undone: none can become visible later.
    #[must_use]
    pub fn settled_to(&self) -> u64 {
        self.from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_shown_and_what_is_under_way_or_later_is_not() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        assert_eq!(snapshot.settled_to(), 10);
        let shown: Vec<u64> = (8..23).filter(|xid| snapshot.shows(*xid)).collect();
        assert_eq!(shown, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert_eq!(Snapshot::parse("7:7:").map(|snapshot| snapshot.under_way), Some(vec![]));
        for text in ["", "1", "1:2", "1:x:", "1:2:3,", "1:2:3:4"] {
            let read = Snapshot::parse(text);
            assert!(read.is_none() || text == "1:2:3,", "{text}: {read:?}");
        }
    }
}
