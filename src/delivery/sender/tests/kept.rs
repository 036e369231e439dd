//! Tests receivers that end a kept connection while a request is on its way: the client sends nothing twice on its own.

use std::collections::HashMap;

use super::*;

const ATTEMPTS: u16 = 60;

/// A receiver that answers the first request of each connection and then does as `after` says. Returns its URL and the
/// attempt numbers of the requests that it has read whole.
async fn fickle<F>(after: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<u16>>>)
where
    F: Future<Output = Option<String>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let book = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (after, book) = (after.clone(), Arc::clone(&book));
            tokio::spawn(async move {
                let first = read_request(&mut stream).await;
                book.lock().unwrap().extend(number_of(&first));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let second = after(stream).await;
                book.lock().unwrap().extend(second.as_deref().and_then(number_of));
            });
        }
    });
    (url, seen)
}

fn number_of(request: &str) -> Option<u16> {
    request.lines().find_map(|line| line.strip_prefix("x-webhook-attempt: ")?.parse().ok())
}

/// Makes many attempts, one after the other, and returns how each ended.
async fn attempt_many(url: &str) -> Vec<Outcome> {
    let (sender, target) = (sender(), Target { timeout: GENEROUS, ..target(url) });
    let mut outcomes = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let report = sender.attempt(&target, Message { attempt, ..message() }).await;
        assert!([Outcome::Success, Outcome::ProtocolError].contains(&report.outcome), "{report:?}");
        outcomes.push(report.outcome);
    }
    outcomes
}

fn assert_seen_once_at_most(seen: &Mutex<Vec<u16>>) -> usize {
    let mut times = HashMap::new();
    for number in seen.lock().unwrap().iter() {
        *times.entry(*number).or_insert(0) += 1;
    }
    assert!(times.values().all(|times| *times == 1), "sent twice: {times:?}");
    times.len()
}

#[tokio::test]
async fn a_request_that_was_read_and_not_answered_is_not_sent_again() {
    let (url, seen) = fickle(|mut stream| async move { Some(read_request(&mut stream).await) }).await;

    let outcomes = attempt_many(&url).await;

    let unanswered = outcomes.iter().filter(|outcome| **outcome == Outcome::ProtocolError).count();
    assert!(unanswered >= usize::from(ATTEMPTS) / 3, "every connection ends with one: {outcomes:?}");
    assert_eq!(assert_seen_once_at_most(&seen), usize::from(ATTEMPTS), "each attempt is a request of its own");
}

#[tokio::test]
async fn a_connection_that_closes_just_then_leads_to_no_second_request() {
    let closing = |stream: TcpStream| async move {
        drop(stream);
        None
    };
    let resetting = |stream: TcpStream| async move {
        // A close with unread data or a linger of zero is a reset.
        let _ = stream.set_zero_linger();
        drop(stream);
        None
    };
    for (url, seen) in [fickle(closing).await, fickle(resetting).await] {
        let outcomes = attempt_many(&url).await;

        assert_seen_once_at_most(&seen);
        let successes = outcomes.iter().filter(|outcome| **outcome == Outcome::Success).count();
        assert!(successes > 0, "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    let (url, seen) = fickle(|stream| async move {
        drop(stream);
        None
    })
    .await;
    let (sender, target) = (sender(), Target { timeout: GENEROUS, ..target(&url) });
    for attempt in 1..=5 {
        let report = sender.attempt(&target, Message { attempt, ..message() }).await;
        assert_eq!(report.outcome, Outcome::Success, "{report:?}");
        // Long enough for the client to see the end of the connection.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(assert_seen_once_at_most(&seen), 5);
}
