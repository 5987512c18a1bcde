//! One call of a hook server: a connection of its own, a POST, an answer of bounded size, all of it in bounded time.
//!
//! Follows no redirection, keeps no cookie, takes no proxy.

use super::Place;
use super::answer::{Answer, Fault, MAX_ANSWER_BYTES, judge};
use crate::config::Hook;
use http::Request;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// Tells one event from another, and a repetition from something new.
const EVENT_ID: &str = "Braidcast-Event-Id";
/// How long the addresses of a name are believed.
const ADDRESSES_FOR: Duration = Duration::from_secs(30);
/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// What calls have in common.
pub struct Caller {
    tls: TlsConnector,
    names: Mutex<HashMap<String, Arc<Name>>>,
}

/// A host's name: its addresses, and a permit so that only one look-up is under way, because nothing ends one that hangs.
struct Name {
    permit: Arc<Semaphore>,
    found: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Caller {
    /// Trusts the certificates that the system trusts. The text says what of them could not be read.
    pub fn new() -> (Self, Option<String>) {
        let system = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (trusted, _) = roots.add_parsable_certificates(system.certs);
        let trouble = match (system.errors.first(), trusted) {
            (Some(error), _) => Some(error.to_string()),
            (None, 0) => Some("there are none".to_owned()),
            (None, _) => None,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks the protocol's versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Self { tls: TlsConnector::from(Arc::new(config)), names: Mutex::default() }, trouble)
    }

    /// Sends a body and says what came back.
    pub async fn call(&self, hook: &Hook, body: String, id: &str) -> Result<Answer, Fault> {
        let timeout = Duration::from_millis(hook.timeout.as_ms());
        tokio::time::timeout(timeout, self.exchange(hook, body, id)).await.unwrap_or(Err(Fault::Timeout))
    }

    async fn exchange(&self, hook: &Hook, body: String, id: &str) -> Result<Answer, Fault> {
        let place = hook.url.place();
        let request = request(hook, &place, body, id)?;
        let stream = self.connect(&place).await?;
        // What is asked and answered fits a packet or two.
        let _ = stream.set_nodelay(true);
        if !place.tls {
            return converse(TokioIo::new(stream), request).await;
        }
        let name = ServerName::try_from(place.host.clone()).map_err(|error| Fault::Tls(error.to_string()))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| Fault::Tls(error.to_string()))?;
        converse(TokioIo::new(stream), request).await
    }

    async fn connect(&self, place: &Place) -> Result<TcpStream, Fault> {
        let mut last = Fault::Name("it has no address".into());
        for address in self.addresses(place).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Fault::Connect(error.to_string()),
            }
        }
        Err(last)
    }

    async fn addresses(&self, place: &Place) -> Result<Vec<SocketAddr>, Fault> {
        if let Ok(ip) = place.host.parse() {
            return Ok(vec![SocketAddr::new(ip, place.port)]);
        }
        let name = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Name { permit: Arc::new(Semaphore::new(1)), found: Mutex::default() });
            Arc::clone(names.entry(place.authority.clone()).or_insert_with(new))
        };
        // Who waits here is helped by whoever looks it up.
        let permit = Arc::clone(&name.permit).acquire_owned().await.map_err(|error| Fault::Name(error.to_string()))?;
        if let Some((at, found)) = &*name.found.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < ADDRESSES_FOR
        {
            return Ok(found.clone());
        }
        let (host, port) = (place.host.clone(), place.port);
        let looked_up = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let found: Vec<SocketAddr> = (host.as_str(), port).to_socket_addrs()?.collect();
            *name.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found.clone()));
            Ok::<_, std::io::Error>(found)
        });
        match looked_up.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(Fault::Name(error.to_string())),
            Err(error) => Err(Fault::Name(error.to_string())),
        }
    }
}

fn request(hook: &Hook, place: &Place, body: String, id: &str) -> Result<Request<Full<Bytes>>, Fault> {
    let mut request = Request::post(hook.url.target())
        .header(HOST, &place.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("braidcast/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .header(EVENT_ID, id);
    if hook.secret.is_set() {
        request = request.header(AUTHORIZATION, format!("Bearer {}", hook.secret.expose()));
    }
    // A secret that is no header's value is all that can be wrong with it.
    request.body(Full::new(Bytes::from(body))).map_err(|_| Fault::Broken("its secret cannot be sent in a header".into()))
}

async fn converse<S: Read + Write + Unpin>(io: S, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
    let broken = |error: hyper::Error| Fault::Broken(error.to_string());
    let (mut sender, connection) = http1::Builder::new().max_header_size(MAX_HEAD_BYTES).handshake(io).await.map_err(broken)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(_) => Fault::TooLong,
        })?;
        judge(head.status.as_u16(), &body.to_bytes())
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The server has closed; what it has sent before is still to be read.
        _ = &mut connection => answer.await,
    }
}
