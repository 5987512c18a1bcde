//! The prefix by which SRS's proxy tells the client's address: 0xF3, a length n (16 bits, big-endian), n bytes. The first four of them
//! are the address, IPv4; what follows is to be ignored. RTMP itself begins with 3 or 6.

use super::{Parsed, PrefixError, Sender};
use std::net::{IpAddr, Ipv4Addr};

/// The first byte.
pub(super) const MARK: u8 = 0xf3;
/// The most bytes that may follow the length; SRS refuses more too.
pub(super) const MAX_BODY_BYTES: usize = 1024;
const HEAD_BYTES: usize = 3;

/// The prefix that says whose connection it is, for a server that reads it (SRS always does). It has no form for an address that is
/// of IPv6 only: then it is empty, and the server takes the sender for the client.
pub fn real_ip_prefix(client: IpAddr) -> Vec<u8> {
    match client.to_canonical() {
        IpAddr::V4(ip) => [&[MARK, 0, 4][..], &ip.octets()].concat(),
        IpAddr::V6(_) => Vec::new(),
    }
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match *bytes {
        [] | [MARK] | [MARK, _] => Ok(None),
        [MARK, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > MAX_BODY_BYTES {
                return Err(PrefixError::TooLong);
            }
            let Some(body) = bytes.get(HEAD_BYTES..HEAD_BYTES + length) else { return Ok(None) };
            let sender = body.first_chunk::<4>().map_or(Sender::Unsaid, |ip| Sender::Is((Ipv4Addr::from(*ip), 0).into()));
            Ok(Some((HEAD_BYTES + length, sender)))
        }
        _ => Ok(Some((0, Sender::Unsaid))),
    }
}
