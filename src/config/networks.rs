//! Reads the networks that may be called although they are private. Called by `config`.

use ipnet::IpNet;

use super::{ConfigError, parse, parts, refused};

/// Bits of an IPv6 address before the IPv4 address that is mapped into it (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u8 = 96;

pub(super) fn read(text: &str) -> Result<Vec<IpNet>, ConfigError> {
    parts(text).map(network).collect()
}

/// Refuses an IPv4 network in IPv6 notation, which would open nothing, and an address inside a network, which is more
/// likely meant for that address alone than for the whole network.
fn network(part: &str) -> Result<IpNet, ConfigError> {
    let net: IpNet = parse("egress_allow", part)?;
    let is_mapped =
        matches!(net, IpNet::V6(net) if net.prefix_len() >= MAPPED_BITS && net.addr().to_ipv4_mapped().is_some());
    if is_mapped {
        return Err(refused("egress_allow", part));
    }
    if net.addr() != net.network() {
        return Err(ConfigError::InsideNetwork { key: "egress_allow", value: part.to_owned(), network: net.trunc() });
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_by_its_first_address() {
        assert_eq!(read("10.0.0.0/8, 192.0.2.7/32,fd00::/8,").unwrap().len(), 3);
        for (inside, network) in [("10.1.2.3/8", "10.0.0.0/8"), ("fd00::1/8", "fd00::/8")] {
            let said = read(inside).unwrap_err().to_string();
            assert_eq!(
                said,
                format!(
                    "POSTHASTE_EGRESS_ALLOW (--egress-allow, egress_allow in the file): `{inside}` is not accepted, it is an \
                     address inside of a network; expected {network} for the whole network"
                )
            );
        }
        assert!(read("::ffff:10.0.0.0/104").is_err());
    }
}
