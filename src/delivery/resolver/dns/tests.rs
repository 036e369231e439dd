//! Tests the DNS client against servers that answer, refuse or stay silent, alone and beside others.

use std::sync::Arc;

use super::*;
use test_support::names::{Names, Say};

async fn dns(servers: &[&Names]) -> Arc<Dns> {
    Arc::new(Dns::new(servers.iter().map(|names| names.address()).collect(), 4).unwrap())
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_name_has_its_addresses_of_both_kinds_the_older_first() {
    let names = Names::start().await;
    names.say("a.example", Say::addresses(&["2606:4700::1", "1.1.1.1", "1.0.0.1"]));
    let found = dns(&[&names]).await.addresses("a.example").await;
    assert_eq!(found, Ok(ips(&["1.1.1.1", "1.0.0.1", "2606:4700::1"])));
    assert_eq!(names.lookups("a.example"), (1, 1));
}

#[tokio::test]
async fn an_alias_has_the_addresses_of_what_it_stands_for() {
    let names = Names::start().await;
    names.say("a.example", Say::Alias("b.example", ips(&["1.1.1.1"])));
    assert_eq!(dns(&[&names]).await.addresses("a.example").await, Ok(ips(&["1.1.1.1"])));
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let names = Names::start().await;
    names.say("empty.example", Say::addresses(&[]));
    names.say("broken.example", Say::Failure);
    names.say("crowd.example", Say::Addresses(vec![ips(&["1.1.1.1"])[0]; MAX_ADDRESSES + 1]));
    names.say("full.example", Say::Addresses(vec![ips(&["1.1.1.1"])[0]; MAX_ADDRESSES]));
    let dns = dns(&[&names]).await;
    assert_eq!(dns.addresses("missing.example").await, Err(ResolveError::NoSuchName));
    assert_eq!(dns.addresses("empty.example").await, Err(ResolveError::Empty));
    assert_eq!(dns.addresses("broken.example").await, Err(ResolveError::Failed));
    assert_eq!(dns.addresses("crowd.example").await, Err(ResolveError::TooMany));
    assert_eq!(dns.addresses("full.example").await.map(|found| found.len()), Ok(MAX_ADDRESSES));
    assert_eq!(dns.addresses("not_a..name").await, Err(ResolveError::NoSuchName));
}

#[tokio::test]
async fn another_server_answers_for_one_that_is_silent() {
    let (silent, names) = (Names::start().await, Names::start().await);
    silent.say("a.example", Say::Nothing);
    names.say("a.example", Say::addresses(&["1.1.1.1"]));
    assert_eq!(dns(&[&silent, &names]).await.addresses("a.example").await, Ok(ips(&["1.1.1.1"])));
}

#[tokio::test]
async fn nothing_is_remembered() {
    let names = Names::start().await;
    names.say_in_turn("a.example", vec![Say::addresses(&["1.1.1.1"]), Say::addresses(&["1.0.0.1"])]);
    let dns = dns(&[&names]).await;
    assert_eq!(dns.addresses("a.example").await, Ok(ips(&["1.1.1.1"])));
    assert_eq!(dns.addresses("a.example").await, Ok(ips(&["1.0.0.1"])));
}

#[tokio::test]
async fn a_lookup_that_is_given_up_makes_room_for_the_next() {
    let names = Names::start().await;
    names.say("silent.example", Say::Nothing);
    names.say("a.example", Say::addresses(&["1.1.1.1"]));
    let dns = Arc::new(Dns::new(vec![names.address()], 1).unwrap());
    let waiting = tokio::spawn({
        let dns = dns.clone();
        async move { dns.addresses("silent.example").await }
    });
    while names.lookups("silent.example").0 == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(dns.turns.available_permits(), 0);
    waiting.abort();
    assert_eq!(dns.addresses("a.example").await, Ok(ips(&["1.1.1.1"])));
}

#[tokio::test]
async fn the_servers_that_were_named_stay_whatever_the_system_says() {
    let names = Names::start().await;
    let dns = dns(&[&names]).await;
    dns.look_again().unwrap();
    assert_eq!(dns.asking.load().servers, [names.address()]);
}

#[test]
fn there_is_always_somebody_to_ask() {
    assert!(!system_servers().is_empty());
}
