//! Measures the raw limit: the engine's HTTP client posts prepared, signed bytes to the same sink, without an engine.
//! The throughput scenario compares the engine with it.

use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;

use crate::cli::CliError;
use crate::delivery::client::build_client;
use crate::delivery::guard::Guard;
use crate::delivery::resolver::dns::Dns;
use crate::delivery::signature::{SigningSecret, standard_webhooks, x_webhook_signature};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::SignatureFormat;

use super::BenchArgs;
use super::payload::data as data_of;
use super::sink::Sink;

/// Concurrent requests: as many as the default number of publishers.
const CONCURRENCY: usize = 64;

/// Most requests of one measurement.
const REQUESTS: usize = 30_000;

/// Measures requests per second.
pub(super) async fn measure(sink: &Sink, args: &BenchArgs, bar: &ProgressBar) -> Result<f64, CliError> {
    bar.set_message("raw limit");
    let requests = REQUESTS.min(args.deliveries as usize);
    bar.set_length(requests as u64);
    let client = client()?;
    let request = Arc::new(request(&sink.url(), args.payload));
    run(&client, &request, requests / 10).await?;
    let began = Instant::now();
    run(&client, &request, requests).await?;
    bar.set_position(requests as u64);
    Ok(requests as f64 / began.elapsed().as_secs_f64())
}

async fn run(client: &reqwest::Client, request: &Arc<reqwest::Request>, requests: usize) -> Result<(), CliError> {
    let tasks: Vec<_> = (0..CONCURRENCY)
        .map(|_| {
            let (client, request) = (client.clone(), request.clone());
            tokio::spawn(async move {
                for _ in 0..requests.div_ceil(CONCURRENCY) {
                    post(&client, &request).await?;
                }
                Ok::<(), CliError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(CliError::failed)??;
    }
    Ok(())
}

/// Sends one request and reads its whole answer.
pub(super) async fn post(client: &reqwest::Client, request: &reqwest::Request) -> Result<(), CliError> {
    let request = request.try_clone().ok_or_else(|| CliError::failed("the request cannot be repeated"))?;
    let mut answer = client.execute(request).await.map_err(CliError::failed)?;
    while answer.chunk().await.map_err(CliError::failed)?.is_some() {}
    Ok(())
}

/// The client that the engine uses.
pub(super) fn client() -> Result<reqwest::Client, CliError> {
    let loopback = "127.0.0.0/8".parse().map_err(CliError::failed)?;
    let dns = Dns::new(Vec::new(), 1).map_err(CliError::failed)?;
    build_client(Arc::new(Guard::new(true, vec![loopback])), Arc::new(dns)).map_err(CliError::failed)
}

/// A signed request like the engine's for one event. The sink does not count it as an event.
pub(super) fn request(url: &str, payload: u32) -> reqwest::Request {
    let id = "evt_0000000000000000000000000";
    let data = data_of(0, payload);
    let body = format!(r#"{{"id":"{id}","event":"bench.raw","timestamp":"{}","raw":{data}}}"#, UnixMillis::now());
    let secrets = [SigningSecret::generate()];
    let seconds = UnixMillis::now().unix_seconds();
    let signed = [
        ("content-type", "application/json".to_owned()),
        ("user-agent", concat!("Posthaste/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("x-webhook-signature", x_webhook_signature(&secrets, SignatureFormat::Hex, seconds, body.as_bytes())),
        ("x-webhook-event", "bench.raw".to_owned()),
        ("x-webhook-delivery", id.to_owned()),
        ("x-webhook-attempt", "1".to_owned()),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", seconds.to_string()),
        ("webhook-signature", standard_webhooks(&secrets, id, seconds, body.as_bytes())),
    ];
    let headers: http::HeaderMap = signed
        .iter()
        .filter_map(|(name, value)| Some((http::HeaderName::from_static(name), value.parse().ok()?)))
        .collect();
    let url = url.parse().unwrap_or_else(|_| unreachable!("the sink's own address is a URL"));
    let mut request = reqwest::Request::new(http::Method::POST, url);
    *request.headers_mut() = headers;
    *request.body_mut() = Some(body.into());
    request
}
