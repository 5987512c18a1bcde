//! HTTP-FLV: asked of the server inside, and counted as a client.

use crate::Shared;
use crate::clients::{Kind, Traffic};
use crate::http::{Request, answer};
use crate::rtmp::{close, copy};
use anyhow::Result;
use braidcast_protocols::rtmp::url;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

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
    let id = shared.clients.enter(ip, key, tc_url, Kind::Flv, traffic.clone(), client.try_clone()?);
    server.write_all(&request.head)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::spawn({
        let traffic = traffic.clone();
        move || {
            let _ = copy(&mut from_client, &mut to_server, &traffic.received);
            close(&from_client, &to_server);
        }
    });
    let ended = copy(&mut server, &mut client, &traffic.sent);
    close(&client, &server);
    if let Some(id) = id {
        shared.clients.leave(&id);
    }
    let _ = there.join();
    ended
}
