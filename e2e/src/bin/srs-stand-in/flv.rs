//! HTTP-FLV: asked of the server inside, and counted as a client.

use crate::Shared;
use crate::clients::{Client, Kind, Traffic};
use crate::http::{Request, answer, read_head};
use crate::rtmp::{close, copy};
use anyhow::Result;
use braidcast_protocols::rtmp::url;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Serves one request.
pub fn serve(shared: &Arc<Shared>, mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    let request = Request::read(&mut client)?;
    let Some(path) = request.path.strip_suffix(".flv") else {
        return answer(&mut client, "404 Not Found", "", "");
    };
    let host = request.field("Host").unwrap_or_default();
    let (app, stream) = path.rsplit_once('/').unwrap_or(("", path));
    let tc_url = format!("http://{host}{app}");
    let key = url::resolve(&tc_url, &format!("{app}?{}", request.query), stream)?.key;
    let mut server = TcpStream::connect(shared.inner.http)?;
    let traffic = Arc::new(Traffic::default());
    // SRS 7 says of those who come by HTTP where the connection comes from, whatever X-Forwarded-For says.
    let ip = client.peer_addr()?.ip();
    let (id, since) = (shared.clients.new_id(), Instant::now());
    let (counted, socket) = (traffic.clone(), client.try_clone()?);
    shared.clients.enter(Client { id: id.clone(), ip, key, tc_url, kind: Kind::Flv, since, traffic: counted, socket });
    server.write_all(&request.head)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn({
        let traffic = traffic.clone();
        move || {
            let _ = copy(&mut from_client, &mut to_server, &traffic.received);
            close(&from_client, &to_server);
        }
    });
    let ended = answer_in_chunks(&mut server, &mut client, &traffic.sent);
    close(&client, &server);
    shared.clients.leave(&id);
    let _ = there.join();
    ended
}

/// Passes on an answer in chunks (RFC 9112 §7.1), as SRS sends it.
fn answer_in_chunks(server: &mut TcpStream, client: &mut TcpStream, counted: &AtomicU64) -> Result<()> {
    let head = String::from_utf8_lossy(&read_head(server)?).into_owned();
    let (status, _) = head.split_once("\r\n").unwrap_or_default();
    let fields = "Connection: Close\r\nContent-Type: video/x-flv\r\nTransfer-Encoding: chunked";
    write!(client, "{status}\r\n{fields}\r\n\r\n")?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = server.read(&mut buffer)?;
        client.write_all(&[format!("{read:x}\r\n").as_bytes(), &buffer[..read], b"\r\n"].concat())?;
        counted.fetch_add(read as u64, Ordering::Relaxed);
        if read == 0 {
            return Ok(());
        }
    }
}
