//! Tests the guard with hostile and harmless URLs, as far as the text alone decides.

use super::*;

mod properties;

/// URLs that are refused, with `http` allowed and nothing opened.
const REFUSED: &[&str] = &[
    // Addresses that are not public, in every spelling.
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://100.127.255.255/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.170.23/v1/credentials",
    "http://169.254.0.23/",
    "http://168.63.129.16/",
    "http://192.0.0.170/",
    "http://198.51.100.1/",
    "http://198.18.0.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://2130706433/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0/",
    "http://0xA9.0xFE.0xA9.0xFE/",
    "http://1.2.3/",
    "http://1.1.1.1./",
    "http://%31.1.1.1/",
    "http://ex%61mple.com/",
    "http://example.com%2f@1.1.1.1/",
    "http://127.0.0.1../",
    "http://0x41414141A9FEA9FE/",
    "http://425.510.425.510/",
    "http://256.256.256.256/",
    "http://①②⑦.⓪.⓪.①/",
    "http://１２７.0.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]:443/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[0:0:0:0:0:ffff:10.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[::5efe:7f00:1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::1]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    "http://[2001:db8::1]/",
    "http://[3fff:0:1::1]/",
    "http://[5f00::1]/",
    "http://[::ffff:1.1.1.1]/",
    "http://[::ffff:0:1.1.1.1]/",
    "http://[2606:4700::5efe:10.0.0.1]/",
    "http://[2606:4700::200:5efe:a9fe:a9fe]/",
    "http://[100::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::23]/",
    "http://[fe80::1]/",
    "http://[febf::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[1::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[127.0.0.1]/",
    // Names of private networks.
    "http://LOCALHOST/",
    "http://foo.localhost/",
    "http://ip6-localhost/",
    "http://ⓛocalhost/",
    "http://local\u{200b}host/",
    "http://l\u{200c}ocalhost/",
    "http://lоcalhost/",
    "http://metadata/computeMetadata/v1/",
    "http://metadata.google.internal/",
    "http://instance-data/latest/",
    "http://api.default.svc.cluster.local/",
    "http://api.default.svc/",
    "http://kubernetes.default/",
    "http://localhost.localdomain/",
    "http://ip6-loopback/",
    "http://host.docker.internal/",
    "http://gateway.docker.internal/",
    "http://router.home.arpa/",
    "http://intranet/",
    "http://a.test./",
    // Malformed names.
    "http://./",
    "http:///",
    "http:///example.com/",
    "http://a..example.com/",
    "http://.example.com/",
    "http://example.com../",
    "http://example.1/",
    "http://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.com/",
    "http://ex!ample.com/",
    // Texts that parsers read differently.
    "http://127.0.0.1@example.com/",
    "http://@example.com/",
    "http://user:pass@example.com/",
    "http://1.1.1.1 &@2.2.2.2# @3.3.3.3/",
    "http://example.com\\@127.0.0.1/",
    "http://127.1.1.1:80:\\@@127.2.2.2:80/",
    "http:\\\\127.0.0.1\\",
    "http:/example.com/",
    "http:example.com",
    "//127.0.0.1/",
    "ht\ttp://127.0.0.1/",
    "http://127.\t0.0.1/",
    "\nhttp://example.com/",
    "http://example.com/ ",
    "http://example.com/\r\nX-Injected: 1",
    "http://example.com/\0",
    "http://example.com/\u{202e}moc",
    "http://example.com/\u{feff}",
    "",
    "example.com",
    // Ports.
    "http://good.example.com:0/",
    "http://good.example.com:22/",
    "http://good.example.com:025/",
    "http://good.example.com:6379/",
    "http://good.example.com:99999/",
    "http://1.1.1.1:25/",
    // Schemes.
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "jar:http://127.0.0.1!/",
    "blob:http://127.0.0.1/x",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/containers/json",
    "file:///etc/passwd",
    "wss://example.com/",
];

/// URLs that are accepted, with their normalised form.
const ACCEPTED: &[(&str, &str)] = &[
    ("https://good.example.com/hook", "https://good.example.com/hook"),
    ("https://good.example.com", "https://good.example.com/"),
    ("HTTPS://Good.Example.COM:443/Hook?A=b#part", "https://good.example.com/Hook?A=b"),
    ("https://trail.example.com./x", "https://trail.example.com/x"),
    ("http://example.com/%0d%0aX-Injected:%201", "http://example.com/%0d%0aX-Injected:%201"),
    ("http://example.com/#@127.0.0.1/", "http://example.com/"),
    ("http://example.com/@127.0.0.1?u=a@b", "http://example.com/@127.0.0.1?u=a@b"),
    ("https://bücher.example/", "https://xn--bcher-kva.example/"),
    ("https://mytest.example.com:8443/", "https://mytest.example.com:8443/"),
    ("https://notlocalhost.example.com:1024/", "https://notlocalhost.example.com:1024/"),
    ("http://172.32.0.1/", "http://172.32.0.1/"),
    ("http://100.128.0.1/", "http://100.128.0.1/"),
    ("http://168.63.129.17/", "http://168.63.129.17/"),
    ("https://[2001:4860:4860::8888]/", "https://[2001:4860:4860::8888]/"),
];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn hostile_urls_are_refused() {
    let guard = Guard::new(true, Vec::new());
    for raw in REFUSED {
        assert!(guard.check_url(raw).is_err(), "{raw:?}");
    }
}

#[test]
fn harmless_urls_are_accepted_and_normalised() {
    let guard = Guard::new(true, Vec::new());
    for (raw, normalised) in ACCEPTED {
        assert_eq!(guard.check_url(raw).unwrap().as_str(), *normalised, "{raw:?}");
        assert_eq!(guard.check_url(normalised).unwrap().as_str(), *normalised, "read again: {raw:?}");
    }
}

#[test]
fn plain_http_is_refused_unless_switched_on() {
    let refusal = Guard::new(false, Vec::new()).check_url("http://good.example.com/").unwrap_err();
    assert_eq!(refusal.to_string(), "the scheme `http` is not accepted, only `https`");
    assert!(Guard::new(true, Vec::new()).check_url("http://good.example.com/").is_ok());
}

#[test]
fn a_url_that_is_too_long_is_refused() {
    let guard = Guard::new(false, Vec::new());
    let opening = "https://a.example/";
    let of_length = |bytes: usize| format!("{opening}{}", "x".repeat(bytes - opening.len()));
    assert!(guard.check_url(&of_length(MAX_URL_BYTES)).is_ok());
    assert_eq!(guard.check_url(&of_length(MAX_URL_BYTES + 1)), Err(GuardError::TooLong { bytes: MAX_URL_BYTES + 1 }));
}

#[test]
fn an_opened_network_may_be_called_on_any_port() {
    let guard = Guard::new(true, nets(&["127.0.0.0/8", "fd12::/16"]));
    for raw in ["http://127.0.0.1:6379/", "http://127.9.9.9:22/", "http://[fd12::1]:5432/"] {
        assert!(guard.check_url(raw).is_ok(), "{raw:?}");
    }
}

#[test]
fn an_opened_network_opens_nothing_else() {
    let guard = Guard::new(true, nets(&["127.0.0.0/8"]));
    for raw in [
        "http://localhost/",
        "http://receiver/",
        "http://a.localhost/",
        "http://10.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://good.example.com:6379/",
    ] {
        assert!(guard.check_url(raw).is_err(), "{raw:?}");
    }
}

#[test]
fn metadata_stays_refused_whatever_the_operator_opens() {
    let guard = Guard::new(true, nets(&["0.0.0.0/0", "::/0"]));
    for metadata in [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "fd00:a9fe:a9fe::1",
        "fd00:100::100:200",
        "169.254.42.42",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::ffff:0:169.254.169.254",
        "64:ff9b:a9fe:a9fe::",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1::a9:fea9:fe00:0",
        "2001:0:a9fe:a9fe::",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "2001:db8::5efe:169.254.42.42",
        "2001:db8::200:5efe:169.254.169.254",
        "::ffff:168.63.129.16",
        "::ffff:100.100.100.200",
    ] {
        assert!(guard.check_address(ip(metadata)).is_err(), "{metadata}");
    }
    assert_eq!(guard.check_address(ip("10.0.0.1")), Ok(()));
    assert_eq!(guard.check_address(ip("fd12::1")), Ok(()));
}

/// Only an opened IPv4 network opens an IPv4 address, in whatever notation, however much of IPv6 was opened.
#[test]
fn opening_all_of_ipv6_opens_no_ipv4_address_and_not_our_own_api() {
    let guard = Guard::new(true, nets(&["::/0"]));
    guard.refuse_own(own(&["127.0.0.1", "10.0.0.5", "2606:4700::1"], "0.0.0.0:8080"));
    for private in [
        "http://[::ffff:10.0.0.1]/",
        "http://[::ffff:0:10.0.0.1]/",
        "http://[::10.0.0.1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[64:ff9b:1:a00:0:100::]/",
        "http://[2002:a00:1::1]/",
        "http://[2001:0:101:101::f5ff:fffe]/",
        "http://[2606:4700::5efe:10.0.0.1]/",
        "http://[::ffff:127.0.0.1]:8080/",
        "http://[::ffff:7f00:1]:8080/",
        "http://[64:ff9b::7f00:1]:8080/",
        "http://[::1]:8080/",
        "http://[::]:8080/",
        "http://[2606:4700::1]:8080/",
        "http://10.0.0.1/",
    ] {
        assert!(guard.check_url(private).is_err(), "{private}");
    }
    for opened in ["http://[fd12::1]:5432/", "http://[::1]:9/", "http://[64:ff9b::1.1.1.1]/", "http://1.1.1.1/"] {
        assert!(guard.check_url(opened).is_ok(), "{opened}");
    }
    assert!(guard.check_url("http://[64:ff9b::1.1.1.1]:6379/").is_err(), "nor is any port of 1.1.1.1 opened");
    assert_eq!(guard.check_connection("[::ffff:10.0.0.5]:8080".parse().unwrap()), Err(GuardError::Connection));
}

#[test]
fn a_translated_address_is_called_where_both_notations_are_opened() {
    let guard = Guard::new(true, nets(&["64:ff9b::/96", "10.0.0.0/8"]));
    assert!(guard.check_url("http://[64:ff9b::10.0.0.1]:5432/").is_ok());
    assert!(guard.check_url("http://[64:ff9b::192.168.0.1]/").is_err());
    let refusal = guard.check_address(ip("64:ff9b::c0a8:1")).unwrap_err().to_string();
    assert!(refusal.starts_with("64:ff9b::c0a8:1 leads to 192.168.0.1, which is a private address"), "{refusal}");
}

#[test]
fn the_unspecified_address_is_this_machine() {
    let guard = Guard::new(true, nets(&["0.0.0.0/0", "::/0"]));
    guard.refuse_own(own(&["127.0.0.1"], "127.0.0.1:8080"));
    for ours in ["http://0.0.0.0:8080/", "http://[::]:8080/", "http://[::ffff:0.0.0.0]:8080/"] {
        assert_eq!(guard.check_url(ours), Err(GuardError::OwnListener), "{ours}");
    }
}

#[test]
fn a_listener_is_known_however_its_address_was_given() {
    let guard = Guard::new(true, nets(&["0.0.0.0/0", "::/0"]));
    guard.refuse_own(own(&["127.0.0.1"], "[::ffff:127.0.0.1]:8080"));
    for ours in ["http://127.0.0.1:8080/", "http://[::ffff:127.0.0.1]:8080/", "http://[::127.0.0.1]:8080/"] {
        assert_eq!(guard.check_url(ours), Err(GuardError::OwnListener), "{ours}");
    }
}

#[test]
fn the_edges_of_the_refused_networks_are_exact() {
    let guard = Guard::new(false, Vec::new());
    for (refused, public) in [
        ("0.255.255.255", "1.0.0.0"),
        ("10.255.255.255", "11.0.0.0"),
        ("100.64.0.0", "100.63.255.255"),
        ("127.255.255.255", "128.0.0.0"),
        ("169.254.255.255", "169.255.0.0"),
        ("172.31.255.255", "172.32.0.0"),
        ("192.0.0.255", "192.0.1.0"),
        ("192.0.2.255", "192.0.3.0"),
        ("192.88.99.255", "192.88.100.0"),
        ("192.168.255.255", "192.169.0.0"),
        ("198.19.255.255", "198.20.0.0"),
        ("198.51.100.255", "198.51.101.0"),
        ("203.0.113.255", "203.0.114.0"),
        ("224.0.0.0", "223.255.255.255"),
        ("2001:1ff:ffff::1", "2001:200::"),
        ("2001:db8::", "2001:db9::"),
        ("2002:ffff::", "2003::"),
        ("3fff:fff::", "3fff:1000::"),
        ("4000::", "3ffe::1"),
        ("1fff::1", "2000::1"),
    ] {
        assert!(guard.check_address(ip(refused)).is_err(), "{refused}");
        assert_eq!(guard.check_address(ip(public)), Ok(()), "{public}");
    }
}

fn own(addresses: &[&str], listener: &str) -> Own {
    Own {
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        listeners: listener.parse().into_iter().collect(),
    }
}

#[test]
fn our_own_addresses_are_refused_even_if_public() {
    let guard = Guard::new(true, Vec::new());
    assert!(guard.check_url("http://1.1.1.1/").is_ok());
    guard.refuse_own(own(&["1.1.1.1", "2606:4700::1"], ""));
    assert!(guard.check_url("http://1.1.1.1/").is_err());
    assert!(guard.check_url("http://[2606:4700::1]/").is_err());
    assert!(guard.check_url("http://1.1.1.2/").is_ok());
    guard.refuse_own(own(&["1.1.1.2"], ""));
    assert!(guard.check_url("http://1.1.1.1/").is_ok(), "it is somebody else's now");
}

#[test]
fn nobody_is_told_which_private_address_is_ours() {
    let guard = Guard::new(true, Vec::new());
    guard.refuse_own(own(&["10.0.0.5"], "10.0.0.5:8080"));
    let told = |raw| guard.check_url(raw).unwrap_err().to_string();
    assert_eq!(told("http://10.0.0.5:8080/"), told("http://10.0.0.6:8080/").replace(".6", ".5"));
}

#[test]
fn our_own_api_is_refused_even_where_its_address_was_opened() {
    let guard = Guard::new(true, nets(&["127.0.0.0/8", "10.0.0.0/8", "::1/128"]));
    guard.refuse_own(own(&["127.0.0.1", "10.0.0.5"], "10.0.0.5:8080"));
    assert_eq!(guard.check_url("http://10.0.0.5:8080/"), Err(GuardError::OwnListener));
    for other in ["http://10.0.0.5:8081/", "http://10.0.0.6:8080/", "http://127.0.0.1:8080/"] {
        assert!(guard.check_url(other).is_ok(), "{other}");
    }
    guard.refuse_own(own(&["127.0.0.1", "10.0.0.5"], "0.0.0.0:8080"));
    for ours in ["http://10.0.0.5:8080/", "http://127.0.0.1:8080/", "http://127.9.9.9:8080/", "http://[::1]:8080/"] {
        assert_eq!(guard.check_url(ours), Err(GuardError::OwnListener), "{ours}");
    }
    assert!(guard.check_url("http://10.0.0.6:8080/").is_ok());
    assert_eq!(guard.check_connection("10.0.0.5:8080".parse().unwrap()), Err(GuardError::Connection));
    assert_eq!(guard.check_connection("10.0.0.6:8080".parse().unwrap()), Ok(()));
}

#[test]
fn a_connection_to_what_may_not_be_called_is_refused_without_saying_where_it_went() {
    let refusal = Guard::new(true, Vec::new()).check_connection("10.1.2.3:80".parse().unwrap()).unwrap_err();
    assert!(!refusal.to_string().contains("10."), "{refusal}");
}

#[test]
fn port_zero_is_no_port_in_an_opened_network_either() {
    let guard = Guard::new(true, nets(&["127.0.0.0/8"]));
    assert_eq!(guard.check_url("http://127.0.0.1:0/"), Err(GuardError::Port(0)));
}

#[test]
fn a_refusal_says_what_was_found_and_what_is_accepted() {
    let refusal = |raw| Guard::new(true, Vec::new()).check_url(raw).unwrap_err().to_string();
    assert_eq!(refusal("https://127.0.0.1/"), "127.0.0.1 is a loopback address, only public addresses may be called");
    assert_eq!(refusal("https://2130706433/"), "an IPv4 address is accepted in its plain form only, here `127.0.0.1`");
    assert_eq!(refusal("ftp://a.example/"), "the scheme `ftp` is not accepted, only `https` or `http`");
    assert!(refusal("https://a.example/\u{200b}").contains("\\u{200b}"));
}
