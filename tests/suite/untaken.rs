//! Answers that their callers do not read: the memory counts against the tenant that asked for them (F33).

use axum::body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::client::try_send;
use crate::support::databases::on_both;
use crate::support::fact;
use crate::support::world::{World, text};

/// The memory that one tenant's answers may take, in bytes.
const PART: usize = 64 << 20;

/// Size of each requested answer in bytes.
const ANSWER: usize = 1_000_000;

/// Sends requests on a connection whose window allows no byte of an answer; returns the unread answers.
async fn asked(address: &str, key: &str, path: &str, times: usize) -> Vec<Response<Incoming>> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.initial_stream_window_size(0);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..times {
        let request =
            Request::get(format!("http://{address}/api/v1{path}")).header("authorization", format!("Bearer {key}"));
        let request = request.body(Body::empty()).expect("a request");
        answers.push(sender.send_request(request).await.expect("the head of an answer"));
    }
    answers
}

on_both!(answers_that_nobody_takes_are_bounded_and_cost_no_other_tenant_anything);
async fn answers_that_nobody_takes_are_bounded_and_cost_no_other_tenant_anything() {
    let mut world = World::start().await;
    let other = world.another_tenant().await;
    let event = json!({"event": "message.sent", "data": {"text": "x".repeat(ANSWER)}});
    let mut paths = Vec::new();
    for client in [world.client(), &other.client] {
        paths.push(format!("/events/{}", text(&client.post("/events", &event).await.expect(202), "id")));
    }
    let before = world.server().memory();
    let address = world.server().url().trim_start_matches("http://").to_owned();

    let answers = asked(&address, &world.tenant.key, &paths[0], 90).await;

    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status().as_u16()).collect();
    let given = statuses.iter().filter(|status| **status == 200).count();
    assert!((50..=PART / ANSWER).contains(&given), "{given} were given: {statuses:?}");
    assert!(statuses[given..].iter().all(|status| *status == 503), "{statuses:?}");
    world.server().has_grown_by_at_most(200 << 20, before);
    other.client.get(&paths[1]).await.expect(200);
    other.client.post("/events", &event).await.expect(202);

    drop(answers);
    fact::until("the memory of unread answers is released", async || {
        let answer = try_send(world.client().call(reqwest::Method::GET, &paths[0])).await.expect("an answer");
        (answer.status == 200).then_some(())
    })
    .await;
}
