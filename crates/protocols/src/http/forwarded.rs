//! `X-Forwarded-For`: whom proxies say a request comes from, the nearest said last.
//!
//! Anybody can write the header, so it is worth as much as the one who sent it: it is read from its end, as far as each next address
//! was written by somebody who is trusted.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The most addresses that are read of a request.
const MAX_HOPS: usize = 32;
/// The longest address: `"[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535"`.
const MAX_ADDRESS_BYTES: usize = 55;

/// What a request's headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarded {
    /// The address that the nearest proxy wrote comes first. A port of 0 was not said.
    nearest_first: Vec<SocketAddr>,
    malformed: bool,
}

impl Forwarded {
    /// Reads the values of all such headers, in their order.
    pub(super) fn read<'a>(values: impl DoubleEndedIterator<Item = &'a [u8]>) -> Self {
        let mut forwarded = Self::default();
        let elements = values.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        for element in elements.filter(|element| !element.is_empty()).take(MAX_HOPS) {
            let Some(address) = address(element) else {
                forwarded.malformed = true;
                break;
            };
            forwarded.nearest_first.push(address);
        }
        forwarded
    }

    /// Something else than an address was among them; what was written before it is not known.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Who sent a request that came from `peer`: the nearest one that is not trusted. If all are, the farthest; if nobody is, or
    /// nothing was said, `peer` itself.
    pub fn client(&self, peer: SocketAddr, trusted: impl Fn(IpAddr) -> bool) -> SocketAddr {
        let mut client = peer;
        for said in &self.nearest_first {
            if !trusted(client.ip()) {
                break;
            }
            client = *said;
        }
        client
    }
}

/// An address with or without a port, brackets and quotes. IPv4 in IPv6 clothes is IPv4.
fn address(element: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(element).ok().filter(|text| text.len() <= MAX_ADDRESS_BYTES)?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 0),
        Err(_) => text.parse().ok()?,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str]) -> Forwarded {
        Forwarded::read(values.iter().map(|value| value.as_bytes()))
    }

    /// The proxies are in 10.0.0.0/8.
    fn client(values: &[&str]) -> String {
        let trusted = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 10);
        read(values).client("10.0.0.1:5000".parse().unwrap(), trusted).to_string()
    }

    #[test]
    fn the_nearest_address_that_is_not_a_proxys_is_the_clients() {
        assert_eq!(client(&[]), "10.0.0.1:5000");
        assert_eq!(client(&["192.0.2.1"]), "192.0.2.1:0");
        assert_eq!(client(&["192.0.2.1, 10.0.0.3, 10.0.0.2"]), "192.0.2.1:0");
        // What the client itself wrote stands before what was added.
        assert_eq!(client(&["203.0.113.9, 192.0.2.1"]), "192.0.2.1:0");
        assert_eq!(client(&["203.0.113.9", "192.0.2.1", "10.0.0.2"]), "192.0.2.1:0");
        assert_eq!(client(&["10.0.0.4, 10.0.0.3"]), "10.0.0.4:0");
        let from_a_stranger = read(&["192.0.2.1"]).client("203.0.113.9:1".parse().unwrap(), |_| false);
        assert_eq!(from_a_stranger.to_string(), "203.0.113.9:1");
    }

    #[test]
    fn addresses_are_read_in_all_the_forms_that_proxies_write() {
        for (written, said) in [
            ("192.0.2.1:8080", "192.0.2.1:8080"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]", "[2001:db8::7]:0"),
            ("[2001:db8::7]:443", "[2001:db8::7]:443"),
            ("\"[2001:db8::7]:443\"", "[2001:db8::7]:443"),
            ("::ffff:192.0.2.1", "192.0.2.1:0"),
            (" ,, 192.0.2.1 , ", "192.0.2.1:0"),
        ] {
            assert_eq!(client(&[written]), said, "{written}");
        }
    }

    #[test]
    fn rubbish_ends_the_list_and_is_noticed() {
        for rubbish in ["unknown", "_hidden", "192.0.2", "192.0.2.1:x", "[192.0.2.1", "192.0.2.1;1", "\u{fc}", &"1".repeat(4_000)] {
            let read = read(&["192.0.2.1", rubbish, "10.0.0.2"]);
            assert!(read.is_malformed(), "{rubbish}");
            assert_eq!(read.nearest_first.len(), 1);
            assert_eq!(client(&["192.0.2.1", rubbish, "10.0.0.2"]), "10.0.0.2:0");
        }
        assert!(!read(&["192.0.2.1"]).is_malformed());
    }

    #[test]
    fn no_more_than_so_many_are_read() {
        assert_eq!(read(&[&"10.0.0.2,".repeat(10_000)]).nearest_first.len(), MAX_HOPS);
    }

    proptest! {
        #[test]
        fn no_header_panics(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4)) {
            let read = Forwarded::read(values.iter().map(Vec::as_slice));
            prop_assert!(read.nearest_first.len() <= MAX_HOPS);
        }

        #[test]
        fn what_is_written_is_read(addresses in proptest::collection::vec(any::<(u128, u16)>(), 0..6)) {
            let addresses: Vec<SocketAddr> = addresses.into_iter().map(|(ip, port)| (std::net::Ipv6Addr::from_bits(ip), port).into()).collect();
            let header = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
            let plain = addresses.iter().rev().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
            prop_assert_eq!(read(&[&header]).nearest_first, plain.collect::<Vec<_>>());
        }
    }
}
