//! Finds out who listens on a port, from `/proc` alone. Best effort: another user's process is named only to root.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its program's name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Who listens so that `address` cannot be listened on. `None`: nobody, or a process whose descriptors we may not see.
pub fn who_listens(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<u64> =
        tables.iter().filter_map(|path| fs::read_to_string(path).ok()).flat_map(|table| listening_inodes(&table, address)).collect();
    if inodes.is_empty() { None } else { process_with_socket(&inodes) }
}

/// Inodes of the listening sockets in a table (proc(5)) that stand in the way of `wanted`.
fn listening_inodes(table: &str, wanted: SocketAddr) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let bound = parse_address(local)?;
        let collide = bound.ip() == wanted.ip() || bound.ip().is_unspecified() || wanted.ip().is_unspecified();
        (*state == LISTEN && bound.port() == wanted.port() && collide).then(|| inode.parse().ok())?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// `0100007F:1F90`: 32-bit words in the machine's byte order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| u32::from_str_radix(address.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some((ip, port).into())
}

fn process_with_socket(inodes: &[u64]) -> Option<Holder> {
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = pids.collect();
    // A socket that was inherited is held by several; the oldest is the one to stop.
    pids.sort_unstable();
    let holds = |pid: &u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| links.iter().any(|link| link == target)))
    };
    let pid = pids.into_iter().find(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_else(|_| "?".into());
    Some(Holder { pid, name: name.trim().to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_of_our_own_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let bound = listener.local_addr().unwrap();
            assert_eq!(who_listens(bound).map(|holder| holder.pid), Some(std::process::id()));
            assert_eq!(who_listens((Ipv4Addr::UNSPECIFIED, bound.port()).into()).map(|holder| holder.pid), Some(std::process::id()));
            drop(listener);
            assert_eq!(who_listens(bound), None);
        }
    }

    #[test]
    fn addresses_of_proc_net_are_read() {
        // Captured on a little-endian machine, which all that we run on are.
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0\n   \
                     1: 0100007F:1F90 0100007F:8F2C 01 00000000:00000000 00:00000000 00000000     0        0 777 1 0000000000000000 20 4 30 10 -1\n";
        assert_eq!(listening_inodes(table, "127.0.0.1:8080".parse().unwrap()), [12345]);
        assert_eq!(listening_inodes(table, "0.0.0.0:8080".parse().unwrap()), [12345]);
        assert!(listening_inodes(table, "127.0.0.2:8080".parse().unwrap()).is_empty());
        assert!(listening_inodes(table, "127.0.0.1:8081".parse().unwrap()).is_empty());
        assert_eq!(parse_address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        for bad in ["", ":", "0100007F", "xx00007F:1F90", "0100007F:1F900", "01:1"] {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }
}
