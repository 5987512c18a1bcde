//! HTTP/2: each request becomes one of HTTP/1.1, on a connection to a worker that no other request has meanwhile.
//!
//! Nothing is kept of an answer but what the client's windows let go: a viewer that is slow is slow to the worker too.

use super::Server;
use super::pair::{Pair, arrive};
use crate::control::Origin;
use crate::control::counters::TlsCounter;
use http::header::{CONNECTION, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Requests of one client that may be under way at once. To the front each is a connection of that client's.
const STREAMS: u32 = 100;
/// Connections to workers that wait for the client's next request.
const IDLE_PAIRS: usize = 8;
/// What is read of an answer ahead of the client, in bytes; and of what the client does not take yet.
const ANSWER_BYTES: usize = 64 << 10;
/// What a client may send of a request ahead of the worker, in bytes; of all its requests together four times as much.
const WINDOW_BYTES: u32 = 64 << 10;
/// How often a client that says nothing is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How long the front may take to give a connection to a worker.
const PASSING: Duration = Duration::from_secs(5);

/// Header fields that are about one connection (RFC 9113, section 8.2.2); those that have no constant by their names.
const OF_A_CONNECTION: [HeaderName; 5] =
    [CONNECTION, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

type Answer = Response<Either<Carried, Full<Bytes>>>;

/// A client's connection.
struct Client {
    server: Arc<Server>,
    origin: Origin,
    idle: Mutex<Vec<SendRequest<Incoming>>>,
    began: Instant,
    /// Requests whose answers are not all out.
    under_way: AtomicUsize,
    /// When the last one was, milliseconds since `began`.
    last_ms: AtomicU64,
}

/// Serves a client until it goes, or has asked for nothing for too long, or this process takes no more.
pub async fn serve(server: &Arc<Server>, connection: TlsStream<TcpStream>, origin: Origin) {
    let limits = server.settings().config.limits.clone();
    let client = Arc::new(Client {
        server: server.clone(),
        origin,
        idle: Mutex::default(),
        began: Instant::now(),
        under_way: AtomicUsize::new(0),
        last_ms: AtomicU64::new(0),
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(limits.http_head_bytes)
        .max_send_buf_size(ANSWER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let service = service_fn(|request| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(client.answer(request).await) }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let mut retired = server.retired();
    let idle = Duration::from_millis(limits.idle.as_ms());
    let over = async {
        tokio::select! {
            () = client.idle_for(idle) => {}
            // The sender lives as long as the server.
            _ = retired.wait_for(|retired| *retired) => {}
        }
    };
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = over => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %origin.peer, %error, "a connection by HTTP/2 was cut off");
    }
}

impl Client {
    async fn idle_for(&self, limit: Duration) {
        loop {
            let quiet = self.began.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Relaxed)));
            if self.under_way.load(Relaxed) == 0 && quiet >= limit {
                return;
            }
            tokio::time::sleep(limit.saturating_sub(quiet).max(Duration::from_millis(100))).await;
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        self.server.add(TlsCounter::Http2Requests, 1);
        let under_way = UnderWay::new(&self);
        match self.ask(request).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                head.version = Version::HTTP_2;
                OF_A_CONNECTION.iter().for_each(|name| drop(head.headers.remove(name)));
                Response::from_parts(head, Either::Left(Carried { body, _under_way: under_way }))
            }
            Err((status, why)) => {
                self.server.add(TlsCounter::Http2Failures, 1);
                tracing::debug!(peer = %self.origin.peer, "a request by HTTP/2 was not answered: {why}");
                let mut answer = Response::new(Either::Right(Full::from(format!("{why}\n"))));
                *answer.status_mut() = status;
                answer
            }
        }
    }

    async fn ask(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Incoming>, (StatusCode, String)> {
        let mut request = translated(request)?;
        let unavailable = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        loop {
            let (mut sender, reused) = match self.idle_pair() {
                Some(sender) => (sender, true),
                None => (self.new_pair().await.map_err(|error| unavailable(format!("no worker can be asked: {error}")))?, false),
            };
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    let client = self.clone();
                    tokio::spawn(async move { client.keep(sender).await });
                    return Ok(answer);
                }
                // The worker has ended a connection that nothing was asked on, just now.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(unavailable(format!("the connection to the worker ended ({}): are limits reached?", error.error()))),
                },
            }
        }
    }

    fn idle_pair(&self) -> Option<SendRequest<Incoming>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|pair| !pair.is_closed());
        idle.pop()
    }

    /// Keeps a connection for the next request, when its answer is out and it has not ended with that.
    async fn keep(&self, mut sender: SendRequest<Incoming>) {
        if sender.ready().await.is_ok() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_PAIRS {
                idle.push(sender);
            }
        }
    }

    async fn new_pair(&self) -> io::Result<SendRequest<Incoming>> {
        let pair: Pair = tokio::time::timeout(PASSING, arrive(&self.server, self.origin)).await??;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(ANSWER_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(pair)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told too.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// A request as a worker reads it.
fn translated(request: Request<Incoming>) -> Result<Request<Incoming>, (StatusCode, String)> {
    let (mut head, body) = request.into_parts();
    if head.method == Method::CONNECT {
        return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not served".to_owned()));
    }
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    let path = head.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    head.uri = path;
    head.version = Version::HTTP_11;
    OF_A_CONNECTION.iter().for_each(|name| drop(head.headers.remove(name)));
    head.headers.remove(http::header::TE);
    Ok(Request::from_parts(head, body))
}

/// Counts as a request that is under way.
struct UnderWay(Arc<Client>);

impl UnderWay {
    fn new(client: &Arc<Client>) -> Self {
        client.under_way.fetch_add(1, Relaxed);
        Self(client.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now_ms = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.store(now_ms, Relaxed);
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// A worker's answer on its way to the client.
struct Carried {
    body: Incoming,
    _under_way: UnderWay,
}

impl Body for Carried {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
