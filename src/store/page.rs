//! Pages of lists, bounded in items and in bytes. Pure.

/// Bytes of the rows on one page, unless one row alone is larger.
pub const PAGE_BYTES: i64 = 1024 * 1024;

/// Rows that a page looks at if no index supports its filter. The page of a rare filter ends there, perhaps empty, and
/// its cursor continues: no statement takes long, and a caller that hangs up leaves no long statement behind.
pub const LOOKS: u64 = 10_000;

/// One page of a list: its items, and where the next page starts.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Position of the next page; `None` at the end.
    pub next: Option<i64>,
}

impl<T> Page<T> {
    /// Makes a page. `found` rows matched, at most one more than `limit`; rows missing from `items` were left out for
    /// their size.
    pub(super) fn part_of(mut items: Vec<T>, found: usize, limit: u64, position: impl Fn(&T) -> i64) -> Self {
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = if found > items.len() { items.last().map(position) } else { None };
        Self { items, next }
    }

    /// Lets the next page start at `floor`, down to which rows were searched, unless this page is full; `None`: rows
    /// were searched to the end.
    pub(super) fn down_to(self, floor: Option<i64>) -> Self {
        Self { next: self.next.or(floor), ..self }
    }
}

/// The limit and one row more, which shows whether there are more.
pub(super) fn one_more(limit: u64) -> i64 {
    i64::try_from(limit).map_or(i64::MAX, |limit| limit.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_not_filled_goes_on_where_the_looking_ended() {
        let page = |items: &[i64]| Page::part_of(items.to_vec(), items.len(), 2, |item| *item);
        let next = |floor, items: &[i64]| page(items).down_to(floor).next;
        assert_eq!(next(Some(3), &[]), Some(3));
        assert_eq!(next(Some(3), &[8, 5]), Some(3));
        assert_eq!(next(Some(3), &[8, 5, 4]), Some(5), "it is full before");
        assert_eq!(next(None, &[8, 5]), None);
    }
}
