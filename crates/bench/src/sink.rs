//! The bare loop of the other direction: what this kernel needs to take in streams, with no server around it.
//!
//! Single-threaded; it accepts whoever comes, reads, and forgets what it read without looking at it.

use crate::socket::{self, Poller, Readiness};
use anyhow::Context;
use slab::Slab;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const LISTENER: u64 = 0;
const STANDARD_INPUT: u64 = 1;
const FIRST_PUBLISHER: u64 = 2;
const SCRATCH_BYTES: usize = 256 << 10;

/// Takes in until standard input ends, or for ever if that is no pipe; rests for `pause` after each round of reads. Tells its address
/// on standard output in one JSON line.
pub fn run(listen: SocketAddr, pause: Duration) -> anyhow::Result<()> {
    socket::raise_descriptor_limit(256)?;
    let listener = socket::listen(listen)?;
    let mut poller = Poller::new()?;
    poller.add(&listener, LISTENER)?;
    // Fails for what cannot be polled (a file, /dev/null); then nobody means to stop us that way.
    let watches_input = poller.add(io::stdin(), STANDARD_INPUT).is_ok();
    println!("{}", serde_json::json!({ "rtmp": [listener.local_addr()?.to_string()] }));
    io::stdout().flush()?;

    let mut publishers: Slab<TcpStream> = Slab::new();
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut ready: Vec<Readiness> = Vec::new();
    loop {
        poller.wait(Duration::from_secs(3600), &mut ready)?;
        for event in &ready {
            match event.token {
                LISTENER => accept(&listener, &poller, &mut publishers)?,
                STANDARD_INPUT if watches_input => {
                    if io::stdin().read(&mut [0; 64])? == 0 {
                        return Ok(());
                    }
                }
                token => {
                    let key = token.saturating_sub(FIRST_PUBLISHER) as usize;
                    if publishers.get(key).is_some_and(|socket| !drain(socket, &mut scratch)) {
                        publishers.remove(key);
                    }
                }
            }
        }
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

fn accept(listener: &TcpListener, poller: &Poller, publishers: &mut Slab<TcpStream>) -> anyhow::Result<()> {
    while let Some(socket) = socket::accept(listener).context("cannot accept")? {
        let entry = publishers.vacant_entry();
        poller.add(&socket, FIRST_PUBLISHER + entry.key() as u64)?;
        entry.insert(socket);
    }
    Ok(())
}

/// Reads what there is; `false` when nothing more will come.
fn drain(socket: &TcpStream, scratch: &mut [u8]) -> bool {
    loop {
        match socket::receive(socket, scratch) {
            Ok(Some(0)) | Err(_) => return false,
            Ok(Some(bytes)) if bytes == scratch.len() => {}
            Ok(_) => return true,
        }
    }
}
