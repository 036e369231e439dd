//! What must hold of every text and every address.

use proptest::prelude::*;

use super::*;

fn guard() -> Guard {
    Guard::new(true, Vec::new())
}

/// Texts that come close to URLs: pieces that parsers disagree about, in any order.
fn near_urls() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("http://".to_owned()),
        Just("https://".to_owned()),
        Just("hooks.example.com".to_owned()),
        prop::sample::select(vec![
            "/", "//", ":", "@", "#", "?", "\\", "%", "[", "]", ".", "..", "-", "_", "0x7f", "::"
        ])
        .prop_map(str::to_owned),
        prop::sample::select(vec![
            "127.0.0.1",
            "[::1]",
            "2130706433",
            "1.1.1.1",
            "localhost",
            "xn--",
            "①",
            "％",
            "。",
            "ß"
        ])
        .prop_map(str::to_owned),
        (0..70_000_u32).prop_map(|port| format!(":{port}")),
        any::<char>().prop_map(String::from),
        "[a-z0-9.-]{0,20}",
    ];
    (prop::sample::select(vec!["http://", "https://", ""]), prop::collection::vec(pieces, 0..8))
        .prop_map(|(scheme, pieces)| scheme.to_owned() + &pieces.concat())
}

/// What may be stored, shown and called.
fn assert_is_sound(raw: &str, url: &Url) {
    assert!(matches!(url.scheme(), "http" | "https"), "{raw:?}");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{raw:?}");
    let port = url.port_or_known_default().unwrap();
    assert!(port == 80 || port == 443 || port >= 1024, "{raw:?}");
    match url.host().unwrap() {
        Host::Ipv4(ip) => assert_eq!(addresses::not_public(ip.into()), None, "{raw:?}"),
        Host::Ipv6(ip) => assert_eq!(addresses::not_public(ip.into()), None, "{raw:?}"),
        Host::Domain(name) => {
            assert!(name.split('.').count() >= 2 && name.split('.').all(|label| !label.is_empty()), "{raw:?}");
            assert!(name.parse::<IpAddr>().is_err(), "{raw:?}: a client would dial it without asking");
        }
    }
    assert!(url.as_str().is_ascii() && !url.as_str().contains([' ', '\t', '\r', '\n', '\\', '\0']), "{raw:?}");
    assert_eq!(guard().check_url(url.as_str()).as_ref(), Ok(url), "{raw:?} read again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_is_refused_or_normalised_for_good(raw in any::<String>()) {
        if let Ok(url) = guard().check_url(&raw) {
            assert_is_sound(&raw, &url);
        }
    }

    #[test]
    fn whatever_looks_like_a_url_is_refused_or_normalised_for_good(raw in near_urls()) {
        if let Ok(url) = guard().check_url(&raw) {
            assert_is_sound(&raw, &url);
        }
    }

    #[test]
    fn any_path_and_query_after_a_good_host_are_normalised_for_good(rest in "[/?#]\\PC{0,30}") {
        let raw = format!("https://hooks.example.com{rest}");
        if let Ok(url) = guard().check_url(&raw) {
            prop_assert_eq!(url.host_str(), Some("hooks.example.com"));
            assert_is_sound(&raw, &url);
        }
    }

    /// A character that the parser drops or takes for another would make a name of one that was not read.
    #[test]
    fn no_character_vanishes_from_a_host(odd in any::<char>().prop_filter("it is part of names", |c| !c.is_alphanumeric())) {
        if let Ok(url) = guard().check_url(&format!("https://hooks.exam{odd}ple.com/")) {
            prop_assert_ne!(url.host_str(), Some("hooks.example.com"));
        }
    }

    #[test]
    fn an_address_is_judged_the_same_as_text_and_as_bytes(bits in any::<u32>()) {
        let ip = std::net::Ipv4Addr::from_bits(bits);
        prop_assert_eq!(guard().check_url(&format!("http://{ip}/")).is_ok(), guard().check_address(ip.into()).is_ok());
    }

    #[test]
    fn of_ipv6_only_global_space_is_called(bits in any::<u128>()) {
        let ip = std::net::Ipv6Addr::from_bits(bits);
        let accepted = guard().check_url(&format!("http://[{ip}]/")).is_ok();
        prop_assert_eq!(accepted, guard().check_address(ip.into()).is_ok());
        prop_assert!(!accepted || bits >> 125 == 1);
    }

    #[test]
    fn metadata_is_never_open(bits in any::<u128>(), low in any::<u8>()) {
        let open = Guard::new(true, nets(&["0.0.0.0/0", "::/0"]));
        let v4 = std::net::Ipv4Addr::new(169, 254, 169, low);
        prop_assert!(open.check_address(v4.into()).is_err());
        prop_assert!(open.check_address(v4.to_ipv6_mapped().into()).is_err());
        let translated = (0x2002_u128 << 112) | (u128::from(v4.to_bits()) << 80) | (bits >> 48);
        prop_assert!(open.check_address(std::net::Ipv6Addr::from_bits(translated).into()).is_err());
    }
}
