//! An RTMP connection: read as far as it says whose it is and what it wants, otherwise passed on as it comes.

use crate::Shared;
use crate::answers::Answers;
use crate::clients::{Client, Kind, Traffic};
use crate::tap::{Found, Tap};
use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The first byte of SRS's real-IP prefix; RTMP begins with 3 or 6.
const REAL_IP: u8 = 0xf3;
/// The most bytes that SRS takes after the prefix's length.
const REAL_IP_BYTES: usize = 1024;

/// What is known of a connection before it wants anything.
struct Connection {
    id: String,
    ip: IpAddr,
    traffic: Arc<Traffic>,
}

/// Serves a connection until it is closed.
pub fn serve(shared: &Arc<Shared>, mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    // What the prefix says SRS 7 logs, and nothing else: for its API and hooks the connection is whose it looks.
    let ip = client.peer_addr()?.ip();
    let mut first = [0];
    client.read_exact(&mut first)?;
    if first[0] == REAL_IP {
        println!("RTMP proxy real client ip={:?}", real_ip(&mut client)?);
        client.read_exact(&mut first)?;
    }
    let mut server = TcpStream::connect(shared.inner.rtmp)?;
    server.set_nodelay(true)?;
    let connection = Connection { id: shared.clients.new_id(), ip, traffic: Arc::new(Traffic::default()) };
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let (mut answers, traffic) = (Answers::new(connection.id.clone()), connection.traffic.clone());
    let back = std::thread::spawn(move || {
        let ended = answers.pass(&mut from_server, &mut to_client).and_then(|()| copy(&mut from_server, &mut to_client, &traffic.sent));
        close(&from_server, &to_client);
        ended
    });
    let ended = pass(shared, &first, &connection, &mut client, &mut server);
    close(&client, &server);
    shared.clients.leave(&connection.id);
    let answered = back.join().expect("no thread panics");
    ended.and(answered)
}

/// The address of the prefix, if it tells one.
fn real_ip(client: &mut TcpStream) -> Result<Option<Ipv4Addr>> {
    let mut length = [0; 2];
    client.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    ensure!(length <= REAL_IP_BYTES, "a real-IP prefix of {length} bytes");
    let mut body = vec![0; length];
    client.read_exact(&mut body)?;
    Ok(body.first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip)))
}

fn pass(shared: &Shared, first: &[u8], connection: &Connection, client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let (mut tap, mut key) = (Some(Tap::default()), None);
    let mut buffer = vec![0; 64 << 10];
    buffer[..first.len()].copy_from_slice(first);
    let mut read = first.len();
    while read > 0 {
        connection.traffic.received.fetch_add(read as u64, Ordering::Relaxed);
        for found in tap.as_mut().map(|tap| tap.read(&buffer[..read])).transpose()?.unwrap_or_default() {
            match found {
                Found::Wish { key: wished, tc_url, kind } => {
                    ensure!(key.is_none(), "a second stream on a connection");
                    let (id, ip, traffic) = (connection.id.clone(), connection.ip, connection.traffic.clone());
                    let (since, socket) = (Instant::now(), client.try_clone()?);
                    let entered = Client { id, ip, key: wished.clone(), tc_url, kind, since, traffic, socket };
                    ensure!(shared.clients.enter(entered), "{wished} is busy");
                    key = Some(wished);
                    if kind == Kind::Play {
                        tap = None;
                        break;
                    }
                }
                Found::Media(change) => {
                    if let Some(key) = &key {
                        shared.clients.describe(key, change);
                    }
                }
                Found::Enough => {
                    tap = None;
                    break;
                }
            }
        }
        server.write_all(&buffer[..read])?;
        read = client.read(&mut buffer)?;
    }
    Ok(())
}

/// Passes on what comes until it ends.
pub fn copy(from: &mut impl Read, to: &mut impl Write, counted: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        counted.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Closes both connections for everybody who has them.
pub fn close(one: &TcpStream, other: &TcpStream) {
    // Either may be closed already.
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
