//! The API over TLS: with certificate and key files the server speaks HTTPS only, reloads the files when they change,
//! and reports which file is wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair};
use reqwest::{Certificate, Version};

use crate::support::client::Client;
use crate::support::fact;
use crate::support::raw::Raw;
use crate::support::server::{self, Env, Server};
use crate::support::world::{ADMIN_KEY, sober_env};

/// Much longer than the time for a handshake, and shorter than the pause of a client that sends nothing more.
const GIVEN_UP: Duration = Duration::from_secs(45);

/// Writes a new certificate and key; returns the certificate.
fn new_pair(dir: &Path) -> String {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    cert.pem()
}

fn env(dir: &Path) -> Env {
    let mut env = sober_env(dir);
    env.insert("POSTHASTE_LISTEN", "127.0.0.1:0".to_owned());
    env.insert("POSTHASTE_TLS_CERT_FILE", dir.join("cert.pem").display().to_string());
    env.insert("POSTHASTE_TLS_KEY_FILE", dir.join("key.pem").display().to_string());
    env
}

/// A client that trusts this certificate alone.
fn trusting(pem: &str) -> reqwest::Client {
    let _ = Client::open("");
    let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap()
}

async fn asked(client: &reqwest::Client, server: &Server) -> Result<(u16, Version), reqwest::Error> {
    let answer = client.get(format!("{}/api/v1/tenants", server.url())).bearer_auth(ADMIN_KEY).send().await?;
    let (status, version) = (answer.status().as_u16(), answer.version());
    answer.bytes().await?;
    Ok((status, version))
}

#[tokio::test]
async fn with_a_certificate_the_api_speaks_https_and_follows_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let first = new_pair(dir.path());
    let server = Server::start(dir.path(), &[], &env(dir.path())).await;
    assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
    let old = trusting(&first);
    assert_eq!(asked(&old, &server).await.unwrap(), (200, Version::HTTP_2));
    let plain = Raw::saying(server.url(), "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.heard().await;
    assert!(!plain.contains("200"), "the server answered without TLS: {plain}");

    fs::write(dir.path().join("cert.pem"), "nonsense").unwrap();
    fact::until("the invalid certificate is logged", async || {
        server.output().all().contains("the old one stays in use").then_some(())
    })
    .await;
    assert_eq!(asked(&trusting(&first), &server).await.unwrap().0, 200);

    let second = new_pair(dir.path());
    fact::until("new connections get the new certificate", async || asked(&trusting(&second), &server).await.ok())
        .await;
    assert!(asked(&trusting(&first), &server).await.is_err());
    assert_eq!(asked(&old, &server).await.unwrap().0, 200, "an open connection goes on");
}

#[tokio::test]
async fn https_goes_with_http1_as_well_and_a_handshake_that_stalls_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let pem = new_pair(dir.path());
    let server = Server::start(dir.path(), &[], &env(dir.path())).await;
    let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
    let _ = Client::open("");
    let old_fashioned =
        reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([certificate]).build().unwrap();
    assert_eq!(asked(&old_fashioned, &server).await.unwrap(), (200, Version::HTTP_11));

    let stalled = Raw::saying(server.url(), "\u{16}\u{3}\u{1}").await;
    let given_up = tokio::time::timeout(GIVEN_UP, stalled.dribble(Duration::from_secs(60))).await;
    given_up.expect("the server closes a connection whose handshake stalls");
    assert_eq!(asked(&old_fashioned, &server).await.unwrap().0, 200);
}

#[tokio::test]
async fn files_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    new_pair(dir.path());
    fs::write(dir.path().join("other.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    fs::write(dir.path().join("empty.pem"), "").unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let cases = [
        ("POSTHASTE_TLS_CERT_FILE", Some(file("missing.pem")), "tls_cert_file"),
        ("POSTHASTE_TLS_CERT_FILE", Some(file("empty.pem")), "tls_cert_file"),
        ("POSTHASTE_TLS_KEY_FILE", Some(file("empty.pem")), "tls_key_file"),
        ("POSTHASTE_TLS_KEY_FILE", Some(file("other.pem")), "tls_key_file"),
        ("POSTHASTE_TLS_KEY_FILE", None, "tls_key_file"),
        ("POSTHASTE_TLS_CERT_FILE", None, "tls_cert_file"),
        ("POSTHASTE_CORS_ORIGINS", Some("*".to_owned()), "cors_origins"),
        ("POSTHASTE_KEY_REQUESTS_BURST", Some("5".to_owned()), "key_requests_burst"),
    ];

    for (name, value, named) in cases {
        let mut env = env(dir.path());
        match &value {
            Some(value) => _ = env.insert(name, value.clone()),
            None => _ = env.remove(name),
        }
        let (status, output) = server::run(dir.path(), &["serve"], &env).await;
        assert_eq!(status.code(), Some(2), "{name} {value:?}: {}", output.all());
        assert!(output.all().contains(named), "{name} {value:?}: {}", output.all());
    }
}
