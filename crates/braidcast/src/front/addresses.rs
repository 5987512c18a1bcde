//! How many connections each client address has, over all workers.
//!
//! An IPv6 client is its /64: that is what one household or one rented machine gets, and it can use every address in it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Counts connections by address. Holds only addresses that have a connection, so the limit on connections bounds it.
#[derive(Debug, Default)]
pub struct Addresses(HashMap<IpAddr, u32>);

impl Addresses {
    /// Connections from the same address as this one.
    pub fn count(&self, address: IpAddr) -> u32 {
        self.0.get(&client(address)).copied().unwrap_or(0)
    }

    /// One more connection.
    pub fn opened(&mut self, address: IpAddr) {
        *self.0.entry(client(address)).or_default() += 1;
    }

    /// One connection less.
    pub fn closed(&mut self, address: IpAddr) {
        let client = client(address);
        let Some(count) = self.0.get_mut(&client) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.0.remove(&client);
        }
    }
}

/// The address that stands for a client: IPv4 as it is, IPv4 in IPv6 clothes as IPv4, IPv6 as its /64.
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_64_bits_counts_as_one_client() {
        let mut addresses = Addresses::default();
        addresses.opened(address("2001:db8:1:2::1"));
        addresses.opened(address("2001:db8:1:2:ffff::9"));
        addresses.opened(address("2001:db8:1:3::1"));
        addresses.opened(address("192.0.2.1"));
        addresses.opened(address("::ffff:192.0.2.1"));
        assert_eq!(addresses.count(address("2001:db8:1:2:3:4:5:6")), 2);
        assert_eq!(addresses.count(address("2001:db8:1:3::2")), 1);
        assert_eq!(addresses.count(address("192.0.2.1")), 2);
        assert_eq!(addresses.count(address("192.0.2.2")), 0);
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        let mut addresses = Addresses::default();
        addresses.opened(address("192.0.2.1"));
        addresses.closed(address("192.0.2.1"));
        addresses.closed(address("192.0.2.1"));
        assert!(addresses.0.is_empty());
    }
}
