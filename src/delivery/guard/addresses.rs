//! The address tables: IANA's special-purpose registries as the guard reads them. Called by the guard alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

const fn host([a, b, c, d, e, f, g, h]: [u16; 8]) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), 128)
}

const METADATA: &str = "a cloud's metadata service";

/// Metadata and credential services of the clouds, as the providers document them. They hand out the machine's keys to
/// any caller, so no operator's allow list opens them. Providers without an entry (DigitalOcean, Hetzner, Vultr, IBM,
/// Yandex, Exoscale, Huawei, OVHcloud) use 169.254.169.254 or fe80::a9fe:a9fe.
const NEVER_OPEN: [IpNet; 14] = [
    // AWS EC2, Azure, Google, Oracle, Linode, OpenStack; also AWS's resolver and clock, and GKE's proxy.
    IpNet::V4(v4(169, 254, 169, 0, 24)),
    // AWS containers: ECS task credentials (.2) and EKS pod identity (.23).
    IpNet::V4(v4(169, 254, 170, 0, 24)),
    // Tencent.
    IpNet::V4(v4(169, 254, 0, 23, 32)),
    // Scaleway.
    IpNet::V4(v4(169, 254, 42, 42, 32)),
    // Azure's wire server.
    IpNet::V4(v4(168, 63, 129, 16, 32)),
    // Alibaba.
    IpNet::V4(v4(100, 100, 100, 200, 32)),
    // Oracle, first generation.
    IpNet::V4(v4(192, 0, 0, 192, 32)),
    // AWS over IPv6: metadata (fd00:ec2::254), EKS pod identity (::23), resolver and clock.
    IpNet::V6(v6(0xfd00, 0x0ec2, 32)),
    // Google over IPv6.
    IpNet::V6(host([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254])),
    // Oracle over IPv6.
    IpNet::V6(host([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe])),
    // Scaleway over IPv6.
    IpNet::V6(host([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42])),
    // Akamai's Linode over IPv6.
    IpNet::V6(host([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1])),
    // Alibaba over IPv6.
    IpNet::V6(host([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200])),
    // OpenStack over IPv6.
    IpNet::V6(host([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe])),
];

/// IPv4 networks that are not public (RFC 6890 and its successors), and what they are.
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

/// The only IPv6 space that is allocated for global use. It excludes loopback, mapped, NAT64, unique local, link-local,
/// site-local and multicast addresses, and every future special block.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Special-purpose networks inside the global space.
const NOT_PUBLIC_V6: [(Ipv6Net, &str); 4] = [
    (v6(0x2001, 0, 23), "an address for protocol assignments"),
    (v6(0x2001, 0x0db8, 32), "an address for documentation"),
    (v6(0x2002, 0, 16), "a 6to4 address"),
    (v6(0x3fff, 0, 20), "an address for documentation"),
];

/// What an address is, if nobody may open it.
pub(super) fn never_open(ip: IpAddr) -> Option<&'static str> {
    NEVER_OPEN.iter().any(|net| net.contains(&ip)).then_some(METADATA)
}

/// What an address is, if it is not public.
pub(super) fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => NOT_PUBLIC_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
        IpAddr::V6(ip) if !GLOBAL_V6.contains(&ip) => Some("outside of the global IPv6 space"),
        IpAddr::V6(ip) => NOT_PUBLIC_V6.iter().find(|(net, _)| net.contains(&ip)).map(|(_, what)| *what),
    }
}
