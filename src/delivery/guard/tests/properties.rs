//! Properties of the guard that hold for every text and every address.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn guard() -> Guard {
    Guard::new(true, Vec::new())
}

/// Texts that resemble URLs: pieces that parsers disagree about, in any order.
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

/// Every notation of an IPv4 address in IPv6, written independently of `embedded`. `filler` sets the bits that the
/// notation leaves open.
fn embeddings(v4: Ipv4Addr, filler: u128) -> Vec<(&'static str, Ipv6Addr)> {
    let plain = u128::from(v4.to_bits());
    let [a, b, c, d] = v4.octets().map(u128::from);
    let low = |bits: u32| filler & ((1 << bits) - 1);
    let nat64 = 0x0064_ff9b_u128 << 96;
    let local = nat64 | 1 << 80;
    let isatap = (0x2606_4700_u128 << 96) | (low(32) << 64);
    // NAT64 gets a filler of zeros: RFC 6052 requires them, and other bits would be another address under another
    // prefix length.
    [
        ("mapped", (0xffff << 32) | plain),
        ("compatible", plain),
        ("translated", (0xffff << 48) | plain),
        ("NAT64 of 96 bits", nat64 | plain),
        ("local NAT64 of 96 bits", local | plain),
        ("NAT64 of 32 bits", nat64 | plain << 64),
        ("NAT64 of 40 bits", nat64 | a << 80 | b << 72 | c << 64 | d << 48),
        ("local NAT64 of 48 bits", local | a << 72 | b << 64 | c << 48 | d << 40),
        ("local NAT64 of 56 bits", local | a << 64 | b << 48 | c << 40 | d << 32),
        ("local NAT64 of 64 bits", local | plain << 24),
        ("6to4", (0x2002 << 112) | plain << 80 | low(80)),
        ("Teredo client", (0x2001 << 112) | 0x0101_0101 << 64 | low(32) << 32 | u128::from(!v4.to_bits())),
        ("Teredo server", (0x2001 << 112) | plain << 64 | low(32) << 32 | u128::from(!0x0101_0101_u32)),
        ("ISATAP", isatap | 0x5efe << 32 | plain),
        ("global ISATAP", isatap | 0x0200_5efe << 32 | plain),
    ]
    .map(|(name, bits)| (name, Ipv6Addr::from_bits(bits)))
    .to_vec()
}

/// IPv4 addresses, many of them special.
fn v4s() -> impl Strategy<Value = Ipv4Addr> {
    let special =
        ["10.0.0.1", "127.0.0.1", "169.254.169.254", "169.254.42.42", "168.63.129.16", "192.168.1.1", "0.0.0.1"];
    let special = special.map(|text| text.parse::<Ipv4Addr>().unwrap().to_bits());
    prop_oneof![any::<u32>(), prop::sample::select(special.to_vec())].prop_map(Ipv4Addr::from_bits)
}

/// Asserts that an accepted URL may be stored, shown and called.
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

    /// If the parser drops or replaces a character, the name that is called is not the name that was read.
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

    /// Holds exactly for notations of one address; a notation with several possible addresses is open only if all are
    /// public.
    #[test]
    fn an_ipv4_address_is_judged_the_same_in_every_notation(v4 in v4s(), filler in any::<u128>(), allow in prop::sample::select(vec![
        &[] as &[&str], &["10.0.0.0/8", "127.0.0.0/8"], &["0.0.0.0/0"],
    ])) {
        let plain = Guard::new(true, nets(allow)).check_address(v4.into()).is_ok();
        let wide = Guard::new(true, nets(&[allow, &["::/0"]].concat()));
        prop_assume!(!matches!(v4.octets(), [0, 0, 0, 0 | 1]));
        for (name, ip) in embeddings(v4, filler) {
            let judged = wide.check_address(ip.into()).is_ok();
            // No translator forwards to 0.0.0.0/8, and a longer NAT64 prefix has zeros where a shorter one has the
            // address.
            let is_nowhere = v4.octets()[0] == 0 && name.contains("NAT64");
            prop_assert!(plain || !judged || is_nowhere, "{name} {ip} opens {v4}");
            prop_assert!(!plain || judged || name.contains("NAT64"), "{name} {ip} does not open {v4}");
        }
    }

    #[test]
    fn no_notation_opens_anything_by_itself(v4 in v4s(), filler in any::<u128>()) {
        for (name, ip) in embeddings(v4, filler) {
            let closed = guard().check_address(ip.into());
            prop_assert!(closed.is_err() || name.contains("ISATAP") && guard().check_address(v4.into()).is_ok(), "{name} {ip}");
        }
    }

    #[test]
    fn a_listener_of_ours_is_never_called_in_any_notation(v4 in v4s(), filler in any::<u128>()) {
        let open = Guard::new(true, nets(&["0.0.0.0/0", "::/0"]));
        open.refuse_own(Own { addresses: vec![v4.into()], listeners: vec![SocketAddr::new(v4.into(), 8080)] });
        prop_assume!(!matches!(v4.octets(), [0, ..]));
        for (name, ip) in embeddings(v4, filler) {
            prop_assert!(open.check_connection(SocketAddr::new(ip.into(), 8080)).is_err(), "{name} {ip}");
            let url = format!("http://[{ip}]:8080/");
            prop_assert!(open.check_url(&url).is_err(), "{name} {url}");
        }
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
