//! Callers that attack with HTTP/2 (F32): they occupy slots, streams and memory. Other callers keep publishing, and
//! memory does not grow.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::client::{Client, try_send};
use crate::support::fact;
use crate::support::world::World;
use test_support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, connect, head,
};

/// A loopback address; each `number` gives another one.
fn address(number: usize) -> IpAddr {
    Ipv4Addr::from(0x7f00_0100 + number as u32).into()
}

async fn publish(client: &Client) -> Option<()> {
    let publish = client.json(Method::POST, "/events", &json!({"event": "message.sent", "data": {}}));
    try_send(publish).await.ok().filter(|answer| answer.status == 202).map(|_| ())
}

/// Opens connections that request `streams` answers each and read none, but acknowledge SETTINGS and PINGs.
async fn unread(url: &str, addresses: impl Iterator<Item = IpAddr>, streams: u32, window: u32) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for source in addresses {
        let mut frames = Frames::from_address(url, source, window).await;
        for number in 0..streams {
            frames.get(1 + 2 * number, "/openapi.json").await;
        }
        crowd.spawn(frames.stay());
    }
    crowd
}

#[tokio::test]
async fn a_large_answer_comes_whole_to_a_peer_that_reads_slowly() {
    let mut world = World::start().await;
    let url = world.server().url().to_owned();
    let whole = crate::support::client::send(world.anyone().root(Method::GET, "/openapi.json")).await.text.len();

    let mut peer = Frames::open(&url, 5_000).await;
    peer.get(1, "/openapi.json").await;
    let mut heard = 0;
    loop {
        let Frame { kind, flags, stream, payload } = peer.next().await.expect("an answer");
        assert!([HEADERS, DATA].contains(&kind) && stream == 1, "{kind}");
        if kind == DATA {
            heard += payload.len();
            let more = u32::try_from(payload.len()).expect("a size").to_be_bytes();
            if !payload.is_empty() {
                peer.send(WINDOW_UPDATE, 0, 1, &more).await;
                peer.send(WINDOW_UPDATE, 0, 0, &more).await;
            }
            if flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(heard, whole);
}

#[tokio::test]
async fn answers_that_are_not_read_keep_nobody_out() {
    for is_from_many in [false, true] {
        let mut world = World::with(&[("POSTHASTE_MAX_CONNECTIONS", "16")]).await;
        let url = world.server().url().to_owned();
        let sources = (0..32).map(|number| if is_from_many { address(number) } else { address(0) });
        let crowd = unread(&url, sources, 1, 0).await;

        fact::until("others publish", async || publish(world.client()).await).await;

        for _ in 0..20 {
            publish(world.client())
                .await
                .expect("an attacker's connection is evicted before one that has just published");
        }
        drop(crowd);
    }
}

#[tokio::test]
async fn an_address_that_keeps_every_place_busy_gives_half_of_them_back() {
    let mut world = World::with(&[("POSTHASTE_MAX_CONNECTIONS", "16")]).await;
    let (url, key) = (world.server().url().to_owned(), world.tenant.key.clone());
    let begun = crate::listener::head(&key, 100);
    let busy = async |source| {
        let mut stream = connect(&url, source).await;
        stream.write_all(begun.as_bytes()).await.expect("a head");
        stream
    };
    let refused = async |source| {
        let mut heard = String::new();
        let _ = connect(&url, source).await.read_to_string(&mut heard).await;
        heard.starts_with("HTTP/1.1 503 ").then_some(())
    };
    let crowd = fact::until("one address has every slot", async || {
        let crowd = join_all((0..24).map(|_| busy(address(1)))).await;
        refused(address(1)).await.map(|()| crowd)
    })
    .await;

    for number in 2..6 {
        let livez = "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        fact::until("other addresses get slots", async || {
            let mut stream = connect(&url, address(number)).await;
            let mut heard = String::new();
            let _ = stream.write_all(livez.as_bytes()).await;
            let _ = stream.read_to_string(&mut heard).await;
            heard.starts_with("HTTP/1.1 200 ").then_some(())
        })
        .await;
    }
    fact::until("others publish", async || publish(world.client()).await).await;
    drop(crowd);
}

#[tokio::test]
async fn streams_by_the_thousand_are_bounded_over_all_connections() {
    let mut world = World::with(&[("POSTHASTE_MAX_CONNECTIONS", "64")]).await;
    world.publish("message.sent").await;
    let url = world.server().url().to_owned();
    let before = world.server().memory();

    let (refused, mut refusals) = tokio::sync::mpsc::channel(4_096);
    let mut crowd = JoinSet::new();
    for _ in 0..40 {
        let mut frames = Frames::open(&url, 0).await;
        for number in 0..100 {
            frames.get(1 + 2 * number, "/openapi.json").await;
        }
        let refused = refused.clone();
        crowd.spawn(async move {
            while let Some(frame) = frames.next_of(HEADERS).await {
                if frame.flags & END_STREAM != 0 {
                    let _ = refused.send(()).await;
                }
            }
        });
    }

    let a_refusal = tokio::time::timeout(fact::DEADLINE, refusals.recv()).await;
    a_refusal.expect("a request beyond the limit is refused without a body that could be left unread");
    for _ in 0..20 {
        fact::until("others publish", async || publish(world.client()).await).await;
    }
    world.server().has_grown_by_at_most(64 << 20, before);
    drop(crowd);
}

/// CVE-2023-44487, CVE-2024-27316 and similar attacks.
#[tokio::test]
async fn floods_of_frames_end_their_connections_and_take_no_memory() {
    let mut world = World::start().await;
    world.publish("message.sent").await;
    let (url, key) = (world.server().url().to_owned(), world.tenant.key.clone());
    let before = world.server().memory();

    let resets = async {
        let mut peer = Frames::open(&url, 65_535).await;
        let block = head("/api/v1/events", &[("x-api-key", &key)]);
        for number in 0..50_000 {
            let stream = 1 + 2 * number;
            let sent = peer.send(HEADERS, END_STREAM | END_HEADERS, stream, &block).await
                && peer.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await;
            if !sent {
                break;
            }
        }
        peer.next_of(GOAWAY).await;
        peer.next().await.is_none()
    };
    let continuation = async {
        let mut peer = Frames::open(&url, 65_535).await;
        peer.send(HEADERS, END_STREAM, 1, &head("/livez", &[])).await;
        let field = head("", &[("x-a", &"y".repeat(100))]).split_off(15);
        let mut sent = 0;
        while sent < 50_000 && peer.send(CONTINUATION, 0, 1, &field.repeat(100)).await {
            sent += 1;
        }
        sent < 50_000
    };
    let (resets, continuation) = tokio::join!(resets, continuation);
    // The answers to these PINGs are not read.
    let mut pings = Frames::open(&url, 65_535).await;
    let mut settings = Frames::open(&url, 65_535).await;
    let unread = async {
        for _ in 0..200_000 {
            if !(pings.send(PING, 0, 0, b"12345678").await && settings.send(SETTINGS, 0, 0, &[]).await) {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), unread).await;

    assert!(resets, "the server closes a connection that floods it with resets");
    assert!(continuation, "the server closes a connection whose head has no end");
    world.server().has_grown_by_at_most(32 << 20, before);
    world.publish("message.sent").await;
}

#[tokio::test]
async fn two_names_of_a_host_that_differ_are_refused() {
    let mut world = World::start().await;
    let mut peer = Frames::open(world.server().url(), 65_535).await;
    let statuses = [("a.example", 0x88), ("b.example", 0x8c)];
    for (number, (host, status)) in statuses.into_iter().enumerate() {
        let stream = 1 + 2 * number as u32;
        peer.send(HEADERS, END_STREAM | END_HEADERS, stream, &head("/livez", &[("host", host)])).await;
        let answer = peer.next_of(HEADERS).await.expect("an answer");
        // Indices of the static table: `:status: 200` and `:status: 400`.
        assert_eq!((answer.stream, answer.payload.first()), (stream, Some(&status)), "{host}");
    }
}
