//! Finds the IPv4 addresses inside an IPv6 address, to which a translator or the end of a tunnel would forward. Called
//! by the guard alone. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bytes of an IPv4 address at the end.
const AT_END: [usize; 4] = [12, 13, 14, 15];

/// NAT64 (RFC 6052, 2.2): the bytes of the IPv4 address for prefixes of 32, 40, 48, 56, 64 and 96 bits. All of them
/// skip byte 8.
const NAT64: [[usize; 4]; 6] = [[4, 5, 6, 7], [5, 6, 7, 9], [6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], AT_END];

/// The address as written and every address inside it. A connection may end at any of them.
pub(super) fn notations(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match ip {
        IpAddr::V4(_) => [None; NAT64.len() + 1],
        IpAddr::V6(ip) => embedded(ip),
    };
    std::iter::once(ip).chain(inner.into_iter().flatten().map(IpAddr::V4))
}

fn embedded(ip: Ipv6Addr) -> [Option<Ipv4Addr>; NAT64.len() + 1] {
    let mut found = [None; NAT64.len() + 1];
    let at = |[a, b, c, d]: [usize; 4]| {
        let bytes = ip.octets();
        Ipv4Addr::new(bytes[a], bytes[b], bytes[c], bytes[d])
    };
    match ip.segments() {
        // The unspecified address and loopback contain no IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => {}
        // Compatible (RFC 4291, 2.5.5.1), mapped (2.5.5.2) and translated by SIIT (RFC 2765, 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => found[0] = Some(at(AT_END)),
        // The well-known prefix (RFC 6052), the local one (RFC 8215), and the rest of their block.
        [0x64, 0xff9b, ..] => {
            for (slot, places) in found.iter_mut().zip(NAT64) {
                // A longer prefix leaves zeros here, and no translator forwards to 0.0.0.0/8.
                *slot = Some(at(places)).filter(|v4| v4.octets()[0] != 0);
            }
            if found.iter().all(Option::is_none) {
                found[0] = Some(at(AT_END));
            }
        }
        // 6to4 (RFC 3056).
        [0x2002, ..] => found[0] = Some(at([2, 3, 4, 5])),
        // Teredo (RFC 4380, 4): the server, and the client with all bits inverted.
        [0x2001, 0, ..] => {
            found[0] = Some(at([4, 5, 6, 7]));
            found[1] = Some(Ipv4Addr::from_bits(!at(AT_END).to_bits()));
        }
        _ => {}
    }
    // ISATAP (RFC 5214, 6.1), under any prefix; the universal and the group bit may have any value.
    if let [_, _, _, _, high, 0x5efe, ..] = ip.segments()
        && high & !0x0300 == 0
    {
        found[NAT64.len()] = Some(at(AT_END));
    }
    found
}
