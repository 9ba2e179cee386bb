//! Opening a connection to a server: hosts one after the other, and TLS as the configuration demands it.
//!
//! What libpq does with `sslmode` is what happens here: `allow` and `prefer` have two ways to a server, and take the second
//! where the first is refused.

use crate::auth::keys::KeyCache;
use crate::config::Host;
use crate::config::tls::{ServerTls, SslMode};
use crate::net::Stream;
use crate::net::connect::{connect, connect_to};
use crate::net::socket::{Address, Socket};
use crate::net::tls::connect::{Demand, Outcome};
use crate::net::tls::current::Current;
use crate::net::unix;
use crate::protocol::ErrorFields;
use crate::server::ServerError;
use crate::server::login::Target;
use crate::server::turns::Turns;
use rustls_pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::Arc;

/// What logins to servers share.
#[derive(Debug)]
pub struct Means {
    /// Keys derived from passwords.
    pub keys: Arc<KeyCache>,
    /// TLS with servers.
    pub tls: Current<ServerTls>,
    /// Which of several hosts comes next.
    pub turns: Turns,
}

/// How to reach one server again: a cancel request goes the way that the connection went.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where it is.
    pub address: Address,
    tls: Option<(Arc<Demand>, ServerName<'static>)>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// One way to a server.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// In the clear.
    Plain,
    /// With TLS; where the mode allows it, in the clear if the server has none.
    Tls(Arc<Demand>),
}

impl Way {
    /// The ways that the configuration allows, the first one first.
    pub(super) fn all(demand: Option<Arc<Demand>>) -> Vec<Way> {
        let Some(demand) = demand else { return vec![Way::Plain] };
        match demand.sslmode {
            SslMode::Disable => vec![Way::Plain],
            SslMode::Allow => vec![Way::Plain, Way::Tls(demand)],
            SslMode::Prefer => vec![Way::Tls(demand), Way::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => vec![Way::Tls(demand)],
        }
    }

    /// Whether another way leads to another kind of stream than this, which this way has led to.
    pub(super) fn other_than(&self, stream: &Stream) -> bool {
        matches!(self, Way::Plain) == matches!(stream, Stream::Plain(_))
    }
}

/// Whether a server that refused a login one way may take it in another: its pg_hba.conf wants, or does not want, TLS.
pub(super) fn depends_on_tls(error: &ServerError) -> bool {
    match error {
        ServerError::Tls(_) => true,
        ServerError::Refused(body) => ErrorFields::new(body).code() == b"28000",
        _ => false,
    }
}

/// Connects to a host. The way that was taken is where it may be tried again.
///
/// # Errors
/// [`ServerError::Connect`], or why this way does not lead there.
pub(super) async fn open(target: &Target, host: &Host, way: &Way) -> Result<(Stream, Route), ServerError> {
    match connect(host, target.port, &target.tcp).await {
        Ok(socket) => enter(socket, host, target.port, way).await,
        Err(error) => Err(ServerError::Connect { target: place(host, target.port), source: Arc::new(error) }),
    }
}

async fn enter(socket: Socket, host: &Host, port: u16, way: &Way) -> Result<(Stream, Route), ServerError> {
    let (name, demand) = match (host, way) {
        (Host::Unix(directory), _) => {
            let address = Address::Unix(unix::socket_path(directory, port));
            return Ok((Stream::Plain(socket), Route { address, tls: None }));
        }
        (Host::Tcp(_), Way::Plain) => {
            let address = socket.peer().ok_or(ServerError::Closed)?;
            return Ok((Stream::Plain(socket), Route { address, tls: None }));
        }
        (Host::Tcp(name), Way::Tls(demand)) => (name, demand),
    };
    let address = socket.peer().ok_or(ServerError::Closed)?;
    let name = demand.name(name)?;
    let outcome = demand.secure(socket, name.clone()).await.map_err(|error| match demand.sslmode {
        // Whatever went wrong, there is the way without.
        SslMode::Allow | SslMode::Prefer => ServerError::Tls(error.to_string().into()),
        _ => error.into(),
    })?;
    match outcome {
        Outcome::Tls(stream) => {
            Ok((Stream::Tls(stream), Route { address, tls: Some((demand.clone(), name)) }))
        }
        Outcome::Declined(socket) if demand.sslmode <= SslMode::Prefer => {
            Ok((Stream::Plain(socket), Route { address, tls: None }))
        }
        Outcome::Declined(_) => {
            let place = place(host, port);
            let text = format!(
                "{place} has no TLS, but server_tls_sslmode demands it; set ssl = on there, or let it be \"prefer\""
            );
            Err(ServerError::Tls(text.into()))
        }
    }
}

/// Opens a second connection to a server, the same way as the first.
///
/// # Errors
/// The socket's or those of TLS.
pub(super) async fn open_again(route: &Route) -> io::Result<Stream> {
    let socket = connect_to(&route.address).await?;
    let Some((demand, name)) = &route.tls else { return Ok(Stream::Plain(socket)) };
    match demand.secure(socket, name.clone()).await? {
        Outcome::Tls(stream) => Ok(Stream::Tls(stream)),
        // The secret of a cancel request is not for everybody's eyes.
        Outcome::Declined(_) => Err(io::Error::other("the server has no TLS any more")),
    }
}

fn place(host: &Host, port: u16) -> String {
    match host {
        Host::Tcp(name) => format!("{name}:{port}"),
        Host::Unix(directory) => unix::socket_path(directory, port).display().to_string(),
    }
}
