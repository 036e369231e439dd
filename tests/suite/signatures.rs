//! Signatures as a receiver checks them: three formats and rotation. The verifier itself is tested against published
//! examples, so that it cannot accept everything.

use serde_json::json;

use crate::support::hook::Hook;
use crate::support::receiver::{Receiver, Request};
use crate::support::verify::{self, Format, hex, hmac};
use crate::support::world::World;

#[tokio::test]
async fn each_format_is_written_as_described() {
    let world = World::start().await;
    let mut hooks = Vec::new();
    for format in ["hex", "prefixed", "timestamped"] {
        hooks.push(world.hook(Receiver::ok(), json!({"signature": {"format": format}})).await);
    }

    world.publish("message.sent").await;

    for (hook, written) in hooks.iter().zip([hex_header, prefixed_header, timestamped_header]) {
        let request = &hook.saw(1).await[0];
        assert_eq!(request.header("x-webhook-signature"), written(request, &hook.secrets()[0]));
    }
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_new_one_while_its_grace_lasts() {
    let world = World::start().await;
    let mut hooks = Vec::new();
    for format in ["hex", "prefixed", "timestamped"] {
        hooks.push((world.hook(Receiver::ok(), json!({"signature": {"format": format}})).await, format));
    }

    for (hook, _) in &hooks {
        hook.rotate_secret(world.client(), 3_600).await;
    }
    world.publish("message.sent").await;

    for (hook, format) in &hooks {
        let request = &hook.saw(1).await[0];
        assert_eq!(signers(hook, request, format), [0, 1], "new and old, newest first: {request:?}");
        assert_eq!(request.header("webhook-signature").split(' ').count(), 2, "{request:?}");
    }
    let (hex, _) = &hooks[0];
    let [new, old] = [0, 1].map(|index: usize| hex_header(&hex.requests()[0], &hex.secrets()[index]));
    assert_eq!(hex.requests()[0].header("x-webhook-signature"), format!("{new},{old}"));
}

#[tokio::test]
async fn without_grace_the_old_secret_signs_no_more() {
    let (world, hook) = World::with_webhook(Receiver::ok()).await;

    hook.rotate_secret(world.client(), 0).await;
    world.publish("message.sent").await;

    let request = &hook.saw(1).await[0];
    assert_eq!(signers(&hook, request, "hex"), [0]);
    assert_ne!(hook.secrets()[0], hook.secrets()[1]);
}

#[tokio::test]
async fn a_retry_after_a_rotation_is_signed_with_the_new_secret() {
    let world = World::start().await;
    let hook = world.hook(Receiver::fails(1).then_accepts(), json!({})).await;
    world.publish("message.sent").await;
    hook.saw(1).await;

    hook.rotate_secret(world.client(), 0).await;

    let requests = hook.saw(2).await;
    assert_eq!([0, 1].map(|index: usize| signers(&hook, &requests[index], "hex")), [[1], [0]]);
}

/// The example of Standard Webhooks 1.0.0 and one of a published library's own tests.
#[test]
fn the_verifier_agrees_with_published_examples() {
    let examples = [
        (
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ];
    for (secret, id, time, body, signature) in examples {
        let plain = hex(&hmac(secret.as_bytes(), body.as_bytes()));
        let request = fabricated(
            body,
            &[
                ("webhook-id", id),
                ("webhook-timestamp", time),
                ("webhook-signature", signature),
                ("x-webhook-signature", &plain),
            ],
        );
        assert_eq!(verify::signatures(&request, &[secret.to_owned()], Format::Hex), Ok(()));
    }
}

#[test]
fn the_verifier_notices_every_kind_of_forgery() {
    let (old, new) = ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let secrets = [new.to_owned(), old.to_owned()];
    let standard = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let body = r#"{"test": 2432232314}"#;
    let plain = |secret: &str| hex(&hmac(secret.as_bytes(), body.as_bytes()));
    let judge = |body: &str, time: &str, standard: &str, plain: &str| {
        let request = fabricated(
            body,
            &[
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
                ("webhook-timestamp", time),
                ("webhook-signature", standard),
                ("x-webhook-signature", plain),
            ],
        );
        verify::signatures(&request, &secrets, Format::Hex)
    };
    assert_eq!(judge(body, "1614265330", standard, &plain(new)), Ok(()));

    let spaced = format!("{standard}  {standard}");
    let forgeries = [
        ("another body", judge(r#"{"test": 2432232315}"#, "1614265330", standard, &plain(new))),
        ("another time", judge(body, "1614265331", standard, &plain(new))),
        ("no signature", judge(body, "1614265330", "", "")),
        ("an unknown version", judge(body, "1614265330", &standard.replace("v1", "v2"), &plain(new))),
        ("two spaces", judge(body, "1614265330", &spaced, &plain(new))),
        ("different secrets", judge(body, "1614265330", standard, &plain(old))),
        ("oldest first", judge(body, "1614265330", standard, &format!("{},{}", plain(old), plain(new)))),
        ("upper case", judge(body, "1614265330", standard, &plain(new).to_uppercase())),
    ];
    for (forgery, verdict) in forgeries {
        assert!(verdict.is_err(), "{forgery} went unnoticed");
    }
}

fn signers(hook: &Hook, request: &Request, format: &str) -> Vec<usize> {
    let format = match format {
        "prefixed" => Format::Prefixed,
        "timestamped" => Format::Timestamped,
        _ => Format::Hex,
    };
    let header = request.header("x-webhook-signature");
    verify::plain_signers(header, &request.body, &hook.secrets(), format).expect("a good signature")
}

fn hex_header(request: &Request, secret: &str) -> String {
    hex(&hmac(secret.as_bytes(), &request.body))
}

fn prefixed_header(request: &Request, secret: &str) -> String {
    format!("sha256={}", hex_header(request, secret))
}

/// The header's timestamp must equal the one in the standard headers of the attempt.
fn timestamped_header(request: &Request, secret: &str) -> String {
    let time = request.header("webhook-timestamp");
    let text = [time.as_bytes(), b".", &request.body].concat();
    format!("t={time},v1={}", hex(&hmac(secret.as_bytes(), &text)))
}

fn fabricated(body: &str, headers: &[(&str, &str)]) -> Request {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request {
        arrived: std::time::Instant::now(),
        answered: None,
        status: None,
        cut: None,
        path: "/".to_owned(),
        headers,
        body: body.as_bytes().to_vec(),
    }
}
