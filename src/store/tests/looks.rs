//! Lists whose filter matches little: each page reads a bounded number of rows, and the next page goes on there.

use super::audit::{Action, AuditFilter};
use super::events::EventFilter;
use super::page::LOOKS;
use super::*;

/// How many rows lie between the match and the newest row.
const OTHERS: u64 = 2 * LOOKS + LOOKS / 2;

/// A statement that inserts `OTHERS` rows, numbered by `n.i`.
fn many(insert: &str, select: &str) -> String {
    format!(
        "INSERT INTO {insert} WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {OTHERS}) \
         SELECT {select} FROM n"
    )
}

on_both!(a_rare_event_is_found_page_by_page);
async fn a_rare_event_is_found_page_by_page(on: On) {
    let world = World::new(on).await;
    let rare = world.accept(&[]).await.seq;
    let (tenant, body) = (world.tenant.num.0, world.store.bytes_literal("7b7d"));
    let columns = "event (seq, tenant_num, kind, occurred_at, matched, body)";
    world.tamper(&many(columns, &format!("{} + i, {tenant}, 'other', 0, 0, {body}", rare.0))).await;
    let kind = world.store.event(world.tenant.num, rare).await.unwrap().unwrap().kind;
    let filter = EventFilter { kind: Some(kind), ..EventFilter::default() };

    let (mut sizes, mut found, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let page = world.store.events(world.tenant.num, &filter, before, 10).await.unwrap();
        sizes.push(page.items.len());
        found.extend(page.items.iter().map(|event| event.seq));
        before = page.next.map(EventSeq);
        if before.is_none() {
            break;
        }
    }
    assert_eq!((sizes, found), (vec![0, 0, 1], vec![rare]));
}

on_both!(a_rare_change_is_found_page_by_page);
async fn a_rare_change_is_found_page_by_page(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await;
    let tenant = world.tenant.num.0;
    let columns = "audit (at, author, tenant_num, action, subject, fields)";
    world.tamper(&many(columns, &format!("i, 'admin', {tenant}, 'webhook.update', 'x', 'name'"))).await;
    let filter =
        AuditFilter { tenant: Some(world.tenant.num), action: Some(Action::CreateWebhook), ..AuditFilter::default() };

    let (mut sizes, mut found, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let page = world.store.audit(&filter, before, 10).await.unwrap();
        sizes.push(page.items.len());
        found.extend(page.items.into_iter().map(|entry| entry.subject));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!((sizes, found), (vec![0, 0, 1], vec![webhook.id.to_string()]));

    let by_subject = AuditFilter { action: None, subject: Some(webhook.id.to_string()), ..filter };
    let page = world.store.audit(&by_subject, None, 10).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None), "its index leads there at once");
}
