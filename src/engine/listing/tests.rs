use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{EventSeq, WebhookId, WebhookNum};

fn id(event: i64, webhook: i64) -> DeliveryId {
    DeliveryId { event: EventSeq(event), webhook: WebhookNum(webhook) }
}

fn row(id: DeliveryId) -> Delivery {
    let state = DeliveryState { attempts: 1, ..DeliveryState::pending(None) };
    Delivery { id, webhook_id: WebhookId::generate(), kind: String::new(), state, last: None }
}

/// The first `most` ids below `before` and not below `floor`, as a source reads them.
fn read(
    all: &BTreeSet<DeliveryId>,
    before: Option<DeliveryId>,
    floor: Option<DeliveryId>,
    most: usize,
) -> Vec<DeliveryId> {
    let wanted =
        |id: &&DeliveryId| before.is_none_or(|before| **id < before) && floor.is_none_or(|floor| **id >= floor);
    all.iter().rev().filter(wanted).take(most).copied().collect()
}

proptest! {
    /// Each delivery is listed once, wherever the sources stop and whichever deliveries get their rows between two
    /// pages.
    #[test]
    fn pages_of_two_sources_lose_nothing_and_repeat_nothing(
        all in prop::collection::btree_map((0i64..8, 1i64..6), any::<(bool, bool)>(), 0..40),
        limit in 1usize..6,
        floors in prop::collection::vec((any::<[bool; 2]>(), 0i64..8, 1i64..6), 64),
    ) {
        let of = |which: fn((bool, bool)) -> bool| -> BTreeSet<DeliveryId> {
            all.iter().filter(|(_, kind)| which(**kind)).map(|((event, webhook), _)| id(*event, *webhook)).collect()
        };
        // Deliveries may have a row from the start, be in both lists at once, or get their row after a page.
        let (mut rows, mut owed) = (of(|(row, _)| row), of(|(row, both)| !row || both));
        let expected: Vec<DeliveryId> = of(|_| true).into_iter().rev().collect();
        let (mut seen, mut before) = (Vec::new(), None);
        for (has_floor, event, webhook) in floors {
            let floor = |at: usize| {
                let floor = id(event, webhook);
                (has_floor[at] && before.is_none_or(|before| floor < before)).then_some(floor)
            };
            let (rows_to, owed_to) = (floor(0), floor(1));
            let found = read(&rows, before, rows_to, limit + 1).into_iter().map(row).collect();
            let only = |id: DeliveryId| Owed { id, webhook: WebhookId::generate(), kind: String::new() };
            let only = read(&owed, before, owed_to, limit + 1).into_iter().map(only).collect();
            let page = merged(OwedPage { found: only, looked_to: owed_to }, RowPage { found, looked_to: rows_to }, limit);
            prop_assert!(page.deliveries.len() <= limit);
            seen.extend(page.deliveries.iter().map(|delivery| delivery.id));
            let Some(next) = page.next else {
                prop_assert_eq!(seen, expected);
                return Ok(());
            };
            prop_assert!(before.is_none_or(|before| next < before), "it goes on");
            before = Some(next);
            if let Some(first) = owed.pop_first() {
                rows.insert(first);
            }
        }
        prop_assert!(seen.iter().collect::<BTreeSet<_>>().len() == seen.len());
    }

    #[test]
    fn a_row_says_more_than_a_fan_out(event in 0i64..3, webhook in 1i64..3) {
        let id = id(event, webhook);
        let owed = Owed { id, webhook: WebhookId::generate(), kind: String::new() };
        let page = merged(
            OwedPage { found: vec![owed], looked_to: None },
            RowPage { found: vec![row(id)], looked_to: None },
            9,
        );
        prop_assert_eq!((page.deliveries.len(), page.deliveries[0].state.attempts), (1, 1));
    }
}
