//! The tables of addresses: IANA's special-purpose registries as the guard reads them. Asked by the guard alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

const METADATA: &str = "a cloud's metadata service";

/// Metadata and credential services of the clouds. They hand out the machine's keys to whoever asks, so that no
/// operator's allow list opens them.
const NEVER_OPEN: [IpNet; 10] = [
    // AWS, Azure, Google, DigitalOcean, Hetzner, OpenStack, Oracle; with AWS's resolver and clock beside them.
    IpNet::V4(v4(169, 254, 169, 0, 24)),
    // AWS containers: ECS task credentials (.2) and EKS pod identity (.23).
    IpNet::V4(v4(169, 254, 170, 0, 24)),
    // Tencent.
    IpNet::V4(v4(169, 254, 0, 23, 32)),
    // Azure's wire server.
    IpNet::V4(v4(168, 63, 129, 16, 32)),
    // Alibaba.
    IpNet::V4(v4(100, 100, 100, 200, 32)),
    // Oracle, first generation.
    IpNet::V4(v4(192, 0, 0, 192, 32)),
    // AWS over IPv6: metadata, EKS pod identity, resolver and clock.
    IpNet::V6(v6(0xfd00, 0x0ec2, 112)),
    // Google over IPv6.
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128)),
    // OpenStack over IPv6.
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128)),
    // Scaleway over IPv6.
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128)),
];

/// IPv4 that is not public (RFC 6890 and its successors), and what it is.
const NOT_PUBLIC_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "an address of \"this network\""),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(100, 64, 0, 0, 10), "an address of a carrier's shared space"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(168, 63, 129, 16, 32), METADATA),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 0, 0, 0, 24), "an address for protocol assignments"),
    (v4(192, 0, 2, 0, 24), "an address for documentation"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(198, 18, 0, 0, 15), "an address for benchmarks"),
    (v4(198, 51, 100, 0, 24), "an address for documentation"),
    (v4(203, 0, 113, 0, 24), "an address for documentation"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

/// The only IPv6 space that is handed out for global use. It leaves out loopback, mapped, NAT64, unique local,
/// link-local, site-local and multicast addresses, and every special block still to come.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// What is special inside the global space.
const NOT_PUBLIC_V6: [(Ipv6Net, &str); 4] = [
    (v6(0x2001, 0, 23), "an address for protocol assignments"),
    (v6(0x2001, 0x0db8, 32), "an address for documentation"),
    (v6(0x2002, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 20), "an address for documentation"),
];

/// What an address is that nobody may open, if it is one; also when written inside an IPv6 address.
pub(super) fn never_open(ip: IpAddr) -> Option<&'static str> {
    let inner = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => embedded_v4(ip),
    };
    let is_listed = |ip: IpAddr| NEVER_OPEN.iter().any(|net| net.contains(&ip));
    (is_listed(ip) || inner.is_some_and(|inner| is_listed(inner.into()))).then_some(METADATA)
}

/// What an address is instead of public, if it is not.
pub(super) fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => NOT_PUBLIC_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
        IpAddr::V6(ip) if !GLOBAL_V6.contains(&ip) => Some("outside of the global IPv6 space"),
        IpAddr::V6(ip) => NOT_PUBLIC_V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
    }
}

/// The IPv4 address that a translator would dial: mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64
/// (`64:ff9b::/96`, `64:ff9b:1::/48`) or 6to4 (`2002::/16`).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let at = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => Some(at(high, low)),
        [0x2002, high, low, ..] => Some(at(high, low)),
        _ => None,
    }
}
