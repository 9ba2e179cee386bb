//! The HTTP endpoint: `/metrics`, `/healthz` and `/readyz`.
//!
//! It has a thread and a runtime of its own, so that no scrape, however slow its reader, takes time from a worker. It lives
//! until the process ends, so that a shutdown can be watched.

use crate::admin::Admin;
use crate::alarm::timeout;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Connections served at the same time; one more ends the oldest.
const CONNECTIONS: usize = 32;
/// How long a connection may take for all that it asks.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a request may take to come.
const HEADER_LIMIT: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens on `address`.
///
/// # Errors
/// The system's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves on `listener` until what is returned is dropped.
///
/// # Errors
/// The system's, if it gives no thread.
pub fn start(listener: TcpListener, admin: Arc<Admin>) -> io::Result<Serving> {
    let (serving, mut stopped) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("http".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                outcome = serve(listener, admin) => if let Err(error) = outcome {
                    tracing::error!(%error, "metrics are not served any more");
                },
                _ = &mut stopped => {}
            }
        });
    })?;
    Ok(Serving { _stop: serving })
}

/// Metrics are served for as long as this lasts.
#[derive(Debug)]
pub struct Serving {
    _stop: oneshot::Sender<()>,
}

async fn serve(listener: TcpListener, admin: Arc<Admin>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics; trying again in a moment");
                crate::alarm::sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        // Whoever says nothing, or does not read, keeps no probe waiting.
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let admin = admin.clone();
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&admin, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(LIMIT, connection).await {
                tracing::debug!(%error, "a connection for metrics failed");
            }
        });
        open.push_back(connection.abort_handle());
    }
}

fn respond<B>(admin: &Admin, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n".into());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => plain(StatusCode::OK, admin.prometheus().into()),
        "/healthz" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => match admin.readiness() {
            Ok(()) => plain(StatusCode::OK, "ready\n".into()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n").into()),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

/// A response of plain text, in the version of Prometheus' format that it is where it is that.
fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
