//! Version 2: a binary header, then addresses, then fields (TLVs) that are skipped.

use super::{MAX_PROXY_BYTES, Parsed, PrefixError, Sender, begins, plain};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
pub(super) const HEAD_BYTES: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    begins(bytes, SIGNATURE)?;
    let Some(&[.., command, family, length_high, length_low]) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let announced = usize::from(u16::from_be_bytes([length_high, length_low]));
    match command {
        // A connection of the proxy's own: nothing that follows is to be looked at.
        LOCAL => {}
        PROXY if announced >= least_bytes(family)? => {}
        PROXY => return Err(PrefixError::TooShort),
        _ => return Err(PrefixError::Unknown),
    }
    if announced > MAX_PROXY_BYTES - HEAD_BYTES {
        return Err(PrefixError::TooLong);
    }
    let length = HEAD_BYTES + announced;
    let Some(body) = bytes.get(HEAD_BYTES..length) else { return Ok(None) };
    let address = if command == PROXY { address(family, body) } else { None };
    Ok(Some((length, address.map_or(Sender::Unsaid, |address| Sender::Is(plain(address))))))
}

/// What addresses of a family take.
fn least_bytes(family: u8) -> Result<usize, PrefixError> {
    match family {
        TCP_OVER_IPV4 => Ok(12),
        TCP_OVER_IPV6 => Ok(36),
        // Unspecified; UDP; sockets of Unix: the address of the connection stays (section 2.2).
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(0),
        _ => Err(PrefixError::Unknown),
    }
}

/// The source, which comes first; the destination is of no use.
fn address(family: u8, body: &[u8]) -> Option<SocketAddr> {
    match family {
        TCP_OVER_IPV4 => {
            let address = Ipv4Addr::from(*body.first_chunk::<4>()?);
            Some((address, u16::from_be_bytes(*body.get(8..)?.first_chunk()?)).into())
        }
        TCP_OVER_IPV6 => {
            let address = Ipv6Addr::from(*body.first_chunk::<16>()?);
            Some((address, u16::from_be_bytes(*body.get(32..)?.first_chunk()?)).into())
        }
        _ => None,
    }
}
