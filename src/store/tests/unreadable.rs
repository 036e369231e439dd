//! Rows that were damaged or sealed under another key: everything else is served.

use super::*;

on_both!(a_webhook_that_cannot_be_read_keeps_no_other_from_being_served);
async fn a_webhook_that_cannot_be_read_keeps_no_other_from_being_served(on: On) {
    let world = World::new(on).await;
    let damaged = [world.webhook().await.num, world.webhook().await.num, world.webhook().await.num];
    let (sound, deleted) = (world.webhook().await, world.webhook().await);
    let [policy, headers, secret] = damaged.map(|num| num.0);
    world.tamper(&format!("UPDATE webhook SET policy = '{{' WHERE num = {policy}")).await;
    let [stump, foreign] = ["01", "01ffffffff"].map(|hex| world.store.bytes_literal(hex));
    world.tamper(&format!("UPDATE webhook SET headers = {stump} WHERE num = {headers}")).await;
    world.tamper(&format!("UPDATE webhook_secret SET sealed = {foreign} WHERE webhook_num = {secret}")).await;
    let now = UnixMillis::now();
    world.store.delete_webhook(&deleted, now, &Author::engine()).await.unwrap();

    let nums = [damaged.as_slice(), &[sound.num, deleted.num]].concat();
    let configs = world.store.endpoint_configs(&nums, now).await.unwrap();

    assert_eq!(configs[&sound.num].as_ref().unwrap().webhook, sound);
    for (num, table) in damaged.into_iter().zip(["webhook", "webhook", "webhook_secret"]) {
        let error = configs[&num].as_ref().unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { row: Some(row), .. } if row.table == table), "{error:?}");
    }
    assert!(!configs.contains_key(&deleted.num), "a deleted webhook is no damage");
}

on_both!(credentials_of_a_newer_version_are_lost_until_they_are_given_anew_and_are_not_quoted);
async fn credentials_of_a_newer_version_are_lost_until_they_are_given_anew_and_are_not_quoted(on: On) {
    let world = World::new(on).await;
    let Webhook { tenant, id, credentials_origin, .. } = world.webhook().await;
    let newer = br#"{"auth":{"type":"bearer","token":"hunter2","hunter3":"hunter4"}}"#;
    let place = SealContext::Credentials { tenant, webhook: id };
    let sealed = world.store.seal().close_for(&place, credentials_origin.as_str(), newer).unwrap();
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    world.tamper(&format!("UPDATE webhook SET credentials = {}", world.store.bytes_literal(&hex))).await;

    let error = world.store.webhook(tenant, id).await.unwrap_err();
    let found = world.store.unreadable(|_| true).await.unwrap();
    let salvaged = world.store.salvaged_webhook(tenant, id).await.unwrap().unwrap();

    let StoreError::Unreadable { row: Some(row), .. } = &error else { panic!("{error:?}") };
    assert_eq!(row.column.as_deref(), Some("credentials"));
    assert!(found.len() == 1 && found[0].ends_with(", credentials: not as it is written"), "{found:?}");
    assert!(!format!("{error} {error:?} {found:?}").contains("hunter"), "{error:?}, {found:?}");
    assert_eq!(salvaged.lost.iter().collect::<Vec<_>>(), ["auth", "tls"]);
    assert_eq!(salvaged.webhook.credentials, None);
}

on_both!(a_summary_opens_no_seal);
async fn a_summary_opens_no_seal(on: On) {
    let world = World::new(on).await;
    let [policy, headers, secret] = [world.webhook().await.num, world.webhook().await.num, world.webhook().await.num];
    let foreign = world.store.bytes_literal("01ffffffff");
    world.tamper(&format!("UPDATE webhook SET policy = '{{' WHERE num = {}", policy.0)).await;
    world.tamper(&format!("UPDATE webhook SET headers = {foreign} WHERE num = {}", headers.0)).await;
    world.tamper(&format!("UPDATE webhook_secret SET sealed = {foreign} WHERE webhook_num = {}", secret.0)).await;

    let summaries = world.store.webhook_summaries(&[policy, headers, secret]).await.unwrap();

    let is_readable = [policy, headers, secret].map(|num| summaries[&num].unreadable.is_none());
    assert_eq!(is_readable, [false, true, true], "readable parts are there all the same");
}

#[tokio::test]
async fn a_value_of_another_type_is_damage_to_one_webhook_alone() {
    let world = World::new(On::Sqlite).await;
    let (damaged, sound) = (world.webhook().await, world.webhook().await);
    for column in ["url", "events"] {
        world.tamper(&format!("UPDATE webhook SET {column} = x'fffe' WHERE num = {}", damaged.num.0)).await;

        let page = world.store.webhooks(&[sound.num, damaged.num]).await.unwrap();
        let [Ok(readable), Err(unreadable)] = &page[..] else { panic!("{column}: {page:?}") };
        let list = WebhookList { tenant: Some(world.tenant.num), order: WebhookOrder::Created };
        let entries = world.store.webhook_entries(&list, None, 10).await.unwrap();
        assert_eq!(entries.iter().map(|entry| entry.num).collect::<Vec<_>>(), [sound.num, damaged.num], "{column}");
        assert_eq!(
            (readable, unreadable.id, unreadable.row.column.as_deref()),
            (&sound, Some(damaged.id), Some("url"))
        );
        let asked = world.store.webhook(world.tenant.num, damaged.id).await;
        assert!(matches!(asked, Err(StoreError::Unreadable { .. })), "{column}: {asked:?}");
        let routes = world.store.routes(WebhookNum(0)).await.unwrap();
        assert_eq!(routes.iter().map(|route| route.num).collect::<Vec<_>>(), [damaged.num, sound.num], "{column}");
    }
    assert!(world.store.unreadable_rows().contains(&("webhook", 1)), "it is one row");
}

#[tokio::test]
async fn damage_is_blamed_on_the_table_that_it_is_in() {
    let world = World::new(On::Sqlite).await;
    let webhook = world.webhook().await.num;
    let receipt = world.accept(&[webhook.0]).await;
    world.record(attempted(id(receipt, webhook), 1, Status::Pending, Some(UnixMillis(1)))).await;
    world.tamper("UPDATE event SET kind = x'fffe'").await;

    let page = world.store.deliveries(world.tenant.num, &DeliveryFilter::default(), None, 10).await.unwrap();
    assert!(page.found.is_empty());
    let due = world.store.due(&world.shard_set, webhook, wanted(UnixMillis::now(), false)).await;
    assert!(due.is_err() || due.is_ok_and(|due| due.rows.is_empty()));

    let counts = world.store.unreadable_rows();
    assert!(counts.contains(&("event", 1)) && counts.contains(&("delivery", 0)), "{counts:?}");
}

on_both!(unreadable_subscriptions_match_nothing_and_stop_no_start);
async fn unreadable_subscriptions_match_nothing_and_stop_no_start(on: On) {
    let world = World::new(on).await;
    let (damaged, sound) = (world.webhook().await, world.webhook().await);
    world.tamper(&format!("UPDATE webhook SET events = '[' WHERE num = {}", damaged.num.0)).await;

    let routes = world.store.routes(WebhookNum(0)).await.unwrap();

    let subscribed: Vec<_> = routes.iter().map(|route| (route.num, route.events.clone())).collect();
    assert_eq!(subscribed, [(damaged.num, vec![]), (sound.num, sound.events)]);
}

on_both!(a_master_key_that_does_not_fit_the_database_is_named_and_refused);
async fn a_master_key_that_does_not_fit_the_database_is_named_and_refused(on: On) {
    let world = World::new(on).await;
    world.webhook().await;
    let home = world.stop().await;
    let refused = async |key| home.open_with(key).await.map(drop).unwrap_err().to_string();
    let wrong = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    let said = refused(MasterKey::parse(wrong)).await;
    assert!(said.starts_with("POSTHASTE_MASTER_KEY does not fit"), "{said}");

    let Home::Sqlite(directory) = &home else { return };
    let file = directory.path().join("test.db.key");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, wrong).unwrap();
    let said = refused(None).await;
    assert!(said.starts_with(&format!("{} does not fit", file.display())), "{said}");

    home.open_with(MasterKey::parse(&right)).await.unwrap();
}

on_both!(any_master_key_fits_a_database_without_secrets);
async fn any_master_key_fits_a_database_without_secrets(on: On) {
    let home = World::new(on).await.stop().await;

    home.open_with(MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).await.unwrap();
}

on_both!(rows_that_cannot_be_read_keep_none_behind_them_from_being_sent_or_listed);
async fn rows_that_cannot_be_read_keep_none_behind_them_from_being_sent_or_listed(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let mut accepted = Vec::new();
    for due in 1..=4 {
        let receipt = world.accept(&[webhook.0]).await;
        world.record(attempted(id(receipt, webhook), 1, Status::Pending, Some(UnixMillis(due)))).await;
        accepted.push(receipt);
    }
    let (sound, newest) = (accepted[2], accepted[3]);
    world.tamper(&format!("UPDATE delivery SET attempts = -1 WHERE event_seq <> {}", sound.seq.0)).await;

    for ordered in [false, true] {
        let wanted = Wanted { limit: 2, ..wanted(UnixMillis::now(), ordered) };
        let due = world.store.due(&world.shard_set, webhook, wanted).await.unwrap();
        assert_eq!(due.rows.iter().map(|due| due.event.seq).collect::<Vec<_>>(), [sound.seq]);
    }
    let all = DeliveryFilter::default();
    let page = world.store.deliveries(world.tenant.num, &all, None, 1).await.unwrap();
    assert_eq!(page.found.iter().map(|found| found.id).collect::<Vec<_>>(), [id(sound, webhook)]);
    assert_eq!(page.looked_to, Some(id(sound, webhook)), "the next page goes on there");
    let page = world.store.deliveries(world.tenant.num, &all, Some(id(newest, webhook)), 1).await.unwrap();
    assert_eq!((page.found.len(), page.looked_to), (1, Some(id(accepted[1], webhook))));
}

on_both!(due_rows_of_which_none_can_be_sent_are_counted);
async fn due_rows_of_which_none_can_be_sent_are_counted(on: On) {
    let world = World::new(on).await;
    let webhook = world.webhook().await.num;
    let unsendable = async || world.store.unsendable(&world.shard_set, webhook, false).await.unwrap();
    assert_eq!(unsendable().await, 0, "nothing is due");
    let later = UnixMillis::now().plus(Duration::from_secs(3600));
    let mut accepted = Vec::new();
    for due in [UnixMillis(1), UnixMillis(2), later] {
        let receipt = world.accept(&[webhook.0]).await;
        world.record(attempted(id(receipt, webhook), 1, Status::Pending, Some(due))).await;
        accepted.push(receipt.seq.0);
    }

    world.tamper(&format!("UPDATE delivery SET attempts = -1 WHERE event_seq = {}", accepted[0])).await;
    assert_eq!(unsendable().await, 0, "one can be sent");
    world.tamper(&format!("DELETE FROM event WHERE seq = {}", accepted[1])).await;
    assert_eq!(unsendable().await, 2);
}
