use super::*;
use test_support::certificates::{Authority, Issued};

fn options(ca: Option<&str>, certificate: Option<&str>, key: Option<&str>) -> TlsOptions {
    TlsOptions {
        ca: ca.map(str::to_owned),
        client_certificate: certificate.map(str::to_owned),
        client_key: key.map(|key| key.to_owned().into()),
    }
}

/// Pointer and message of the one problem.
fn problem_of(options: &TlsOptions) -> (String, String) {
    let problems = tls_material(options).unwrap_err();
    let [PolicyProblem { pointer, message }] = &problems[..] else { panic!("{problems:?}") };
    (pointer.clone(), message.clone())
}

fn problem_with_identity(certificate: &str, key: &str) -> (String, String) {
    problem_of(&options(None, Some(certificate), Some(key)))
}

#[test]
fn a_bundle_and_an_identity_that_belong_together_are_accepted() {
    let authority = Authority::new();
    let Issued { certificate, key } = authority.issue("engine.example.com");
    let bundle = format!("an old one\n{}\r\nand a new one\n{}", authority.pem(), Authority::new().pem());
    let options = options(Some(&bundle), Some(&(certificate + &authority.pem())), Some(&key));
    let material = tls_material(&options).unwrap();
    assert_eq!((material.roots.len(), material.identity.is_some()), (2, true));
    assert!(!format!("{options:?}").contains(&key), "a key is never shown");
}

#[test]
fn an_identity_needs_both_halves_and_they_must_fit() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("a.example.com"), authority.issue("b.example.com"));
    assert_eq!(problem_of(&options(None, Some(&one.certificate), None)).0, KEY);
    assert_eq!(problem_of(&options(None, None, Some(&one.key))).0, CERTIFICATE);
    let (pointer, message) = problem_with_identity(&one.certificate, &other.key);
    assert_eq!((pointer.as_str(), message.as_str()), (CERTIFICATE, "it belongs to another key than `clientKey`"));
}

#[test]
fn what_is_shown_holds_no_key() {
    let Issued { certificate, key } = Authority::new().issue("a.example.com");
    let both = format!("{certificate}{key}");
    assert_eq!(problem_of(&options(Some(&both), None, None)).0, CA);
    let (pointer, message) = problem_with_identity(&both, &key);
    assert_eq!(pointer, CERTIFICATE);
    assert!(message.starts_with("a private key was given among the certificates"), "{message}");
}

#[test]
fn a_key_with_a_passphrase_is_refused() {
    let certificate = Authority::new().issue("a.example.com").certificate;
    let pkcs8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END RSA PRIVATE KEY-----\n";
    for encrypted in [pkcs8, older] {
        let (pointer, message) = problem_with_identity(&certificate, encrypted);
        assert_eq!(pointer, KEY);
        assert!(message.contains("without a passphrase"), "{message}");
    }
}

#[test]
fn what_is_no_pem_or_no_x509_is_refused() {
    let Issued { certificate, key } = Authority::new().issue("a.example.com");
    let no_der = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let no_base64 = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    let no_end = "-----BEGIN CERTIFICATE-----\nMAA=\n";
    for bad in ["", "hello", no_der, no_base64, no_end] {
        assert_eq!(problem_of(&options(Some(bad), None, None)).0, CA, "{bad}");
        assert_eq!(problem_with_identity(bad, &key).0, CERTIFICATE, "{bad}");
    }
    let no_key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    for bad in ["", "hello", no_key, &certificate, &format!("{key}{key}")] {
        assert_eq!(problem_with_identity(&certificate, bad).0, KEY, "{bad}");
    }
}

#[test]
fn size_is_limited() {
    let Issued { certificate, key } = Authority::new().issue("a.example.com");
    let long = |text: &str, most: usize| format!("{text}{}", " ".repeat(most + 1 - text.len()));
    assert_eq!(problem_of(&options(Some(&long(&certificate, TlsOptions::CA_BYTES)), None, None)).0, CA);
    assert_eq!(problem_with_identity(&long(&certificate, TlsOptions::CERTIFICATE_BYTES), &key).0, CERTIFICATE);
    assert_eq!(problem_with_identity(&certificate, &long(&key, TlsOptions::KEY_BYTES)).0, KEY);
}

#[test]
fn the_end_of_a_client_certificate_is_known() {
    let Issued { certificate, key } = Authority::new().issue_for("a.example.com", 2020..=2031);
    let ends_at = certificate_ends_at(&options(None, Some(&certificate), Some(&key)));
    assert_eq!(ends_at.unwrap().to_string(), "2031-01-01T00:00:00.000Z");
    assert_eq!(certificate_ends_at(&TlsOptions::default()), None);
    assert_eq!(certificate_ends_at(&options(None, Some("junk"), None)), None);
}

fn digest(ca: Option<&str>, identity: Option<&Issued>) -> Digest {
    let certificate = identity.map(|identity| identity.certificate.as_str());
    let options = options(ca, certificate, identity.map(|identity| identity.key.as_str()));
    tls_material(&options).unwrap().digest
}

#[test]
fn options_that_differ_have_other_digests() {
    let (one, other) = (Authority::new(), Authority::new());
    let (first, second) = (one.issue("a.example.com"), one.issue("a.example.com"));
    let (one, other) = (one.pem(), other.pem());
    let all = [
        digest(None, None),
        digest(Some(&one), None),
        digest(Some(&other), None),
        digest(Some(&format!("{one}{other}")), None),
        digest(None, Some(&first)),
        digest(None, Some(&second)),
        digest(Some(&one), Some(&first)),
    ];
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
}

#[test]
fn spaces_comments_order_and_repetition_make_no_other_options() {
    let (one, other) = (Authority::new().pem(), Authority::new().pem());
    let plain = digest(Some(&format!("{one}{other}")), None);
    let dressed = format!("# ours\n{other}\n\n  the old one\n{}\n{other}", one.replace('\n', "\r\n"));
    assert_eq!(digest(Some(&dressed), None), plain);
}
