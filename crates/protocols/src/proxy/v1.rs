//! Version 1: one line of text.

use super::{Parsed, PrefixError, Sender, begins, plain};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest line, its end included (section 2.1).
pub(super) const MAX_BYTES: usize = 107;
const SIGNATURE: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    begins(bytes, SIGNATURE)?;
    let within = &bytes[..bytes.len().min(MAX_BYTES)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if within.len() == MAX_BYTES { Err(PrefixError::TooLong) } else { Ok(None) };
    };
    let line = within[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(SIGNATURE));
    let text = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(PrefixError::Line)?;
    let sender = sender(text).ok_or(PrefixError::Line)?;
    Ok(Some((end + 1, sender)))
}

fn sender(text: &str) -> Option<Sender> {
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    match family {
        "TCP4" => addresses::<Ipv4Addr>(rest),
        "TCP6" => addresses::<Ipv6Addr>(rest),
        // Whatever follows is to be ignored.
        "UNKNOWN" => Some(Sender::Unsaid),
        _ => None,
    }
}

fn addresses<A: FromStr + Into<IpAddr>>(text: &str) -> Option<Sender> {
    let mut fields = text.split(' ');
    let mut field = || fields.next();
    let (source, destination) = (field()?.parse::<A>().ok()?, field()?);
    let (source_port, destination_port) = (port(field()?)?, field()?);
    destination.parse::<A>().ok()?;
    port(destination_port)?;
    let whole = field().is_none();
    whole.then(|| Sender::Is(plain(SocketAddr::new(source.into(), source_port))))
}

/// Digits and nothing else.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
