//! Which vhost a client means: the one rule that all protocols share.
//!
//! SRS's convention: a vhost is named by `?vhost=` or `?domain=`, else by the host the client connected to; an IP address,
//! or a host without a dot (`localhost`), names none. Nothing here checks that a name may be part of a key: that is
//! [`crate::StreamKey::new`]'s job.

use crate::StreamKey;
use crate::key::DEFAULT_VHOST;
use std::net::IpAddr;

/// The vhost that a name stands for: what a `vhost=` or `domain=` parameter says, or a URL's authority or a `Host` header, with
/// or without a port. Lower case; the default vhost for an IP address and a name without a dot.
pub fn of_host(host: &str) -> String {
    let host = without_port(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host.contains('.') || host.parse::<IpAddr>().is_ok() { DEFAULT_VHOST.to_owned() } else { host.to_ascii_lowercase() }
}

/// The stream that is meant when only the vhosts of the configuration are `known`: a vhost that is not among them stands for the
/// default one. With no known vhosts any name is good.
pub fn restrict(key: StreamKey, known: &[String]) -> StreamKey {
    if known.is_empty() || known.iter().any(|name| name.eq_ignore_ascii_case(key.vhost())) {
        return key;
    }
    in_default(&key).unwrap_or(key)
}

/// The stream of the same app and name in the default vhost; `None` if `key` is in it already.
pub fn in_default(key: &StreamKey) -> Option<StreamKey> {
    let default = || StreamKey::new(DEFAULT_VHOST, key.app(), key.stream()).expect("app and stream are those of a key");
    (key.vhost() != DEFAULT_VHOST).then(default)
}

/// The host of `host:port`, `[v6]:port`, or of either without a port. A bare IPv6 address stays whole up to its last colon,
/// which is enough here: what is left has no dot, or is an address.
fn without_port(authority: &str) -> &str {
    if let Some(bracketed) = authority.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or_default();
    }
    if authority.parse::<IpAddr>().is_ok() {
        return authority;
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_dotless_hosts_are_the_default_vhost() {
        let addresses = ["127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::ffff:1.2.3.4]", "::ffff:1.2.3.4", "::1"];
        for host in addresses.into_iter().chain(["localhost", "localhost:80", "", ".", DEFAULT_VHOST]) {
            assert_eq!(of_host(host), DEFAULT_VHOST, "{host}");
        }
    }

    #[test]
    fn names_are_hosts_without_port_and_case() {
        for host in ["cdn.example.com", "CDN.example.com:1936", "cdn.example.com."] {
            assert_eq!(of_host(host), "cdn.example.com", "{host}");
        }
    }

    #[test]
    fn unknown_vhosts_are_the_default_one_when_the_known_ones_are_listed() {
        let known = ["A.example".to_owned()];
        let key = |vhost| StreamKey::new(vhost, "a/b", "x").unwrap();
        assert_eq!(restrict(key("a.example"), &known), key("a.example"));
        assert_eq!(restrict(key("b.example"), &known), key(DEFAULT_VHOST));
        assert_eq!(restrict(key("b.example"), &[]), key("b.example"));
    }
}
