//! Logging in to PostgreSQL: connect, authenticate, read what the server says of itself.

use crate::alarm::timeout;
use crate::auth::keys::{ClientKeys, KeyCache};
use crate::auth::learnt::Place;
use crate::auth::scram::{ChannelBinding, Nonce, SCRAM_SHA_256_PLUS};
use crate::auth::{AuthError, md5, scram_client::ClientStart};
use crate::config::secret::Password;
use crate::config::tls::ServerTls;
use crate::config::{Host, LoadBalance, PasswordSource, Secret, Tcp};
use crate::moment::Moment;
use crate::net::Stream;
use crate::protocol::{TxStatus, frontend};
use crate::server::open::{Means, Route, Way, depends_on_tls, open};
use crate::server::password;
use crate::server::{BackendKey, Prepared, Reader, Server, ServerError, ready_status};
use crate::session::{Reported, Settings};
use bytes::{Buf, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroize;

/// Where a pool's servers are, and as whom pgvalet logs in to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Where they are.
    pub hosts: Vec<Host>,
    /// Which of them a connection goes to first.
    pub load_balance: LoadBalance,
    /// Port, also of Unix sockets.
    pub port: u16,
    /// The database on the server.
    pub dbname: String,
    /// The user on the server.
    pub user: String,
    /// What proves the user.
    pub secret: Option<Secret>,
    /// Who vouches for what logins of this user have shown (`routing::witness`).
    pub witness: String,
    /// Where that comes from at each login, in place of `secret`.
    pub password_source: Option<PasswordSource>,
    /// Further startup parameters.
    pub startup: Vec<(String, String)>,
    /// Statements to run after the login.
    pub connect_query: Option<String>,
    /// Socket options.
    pub tcp: Tcp,
    /// TLS as it is configured. What is in force, which may be older if a file cannot be used, is in [`Means`].
    pub tls: ServerTls,
    /// Limit for all of it.
    pub timeout: Option<Duration>,
    /// Statements that each server may hold.
    pub max_prepared: u32,
}

/// Opens a server. The keys of SCRAM come from the cache, or are derived on a thread that may block.
///
/// # Errors
/// Why there is no server; see [`ServerError::is_transient`].
pub async fn login(target: &Target, means: &Means) -> Result<Server, ServerError> {
    let limit = target.timeout.unwrap_or(Duration::MAX);
    match timeout(limit, any_way(target, means)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ServerError::Timeout),
    }
}

/// Why a host gave no server.
enum Failure {
    /// It could not be talked to; another one may.
    Away(ServerError),
    /// It answered, and that is its answer.
    Answered(ServerError),
}

/// Hosts in their order, beginning with the one whose turn it is, and each of them in all ways that are allowed, as libpq does
/// it.
async fn any_way(target: &Target, means: &Means) -> Result<Server, ServerError> {
    let ways = Way::all(means.tls.get());
    let mut last = ServerError::Protocol("no host");
    let first = means.turns.first(target);
    let (before, from) = target.hosts.split_at(first.min(target.hosts.len()));
    for host in from.iter().chain(before) {
        let outcome = match on_host(target, &means.keys, host, &ways).await {
            Ok(server) => Ok(server),
            Err(Failure::Answered(error)) => Err(error),
            Err(Failure::Away(error)) => {
                last = error;
                continue;
            }
        };
        means.turns.answered(target, host);
        return outcome;
    }
    Err(last)
}

async fn on_host(
    target: &Target,
    keys: &Arc<KeyCache>,
    host: &Host,
    ways: &[Way],
) -> Result<Server, Failure> {
    let mut first = None;
    for way in ways {
        let failure = match open(target, host, way).await {
            Ok((stream, address)) => {
                let other = way.other_than(&stream);
                match log_in(target, keys, stream, address).await {
                    Ok(server) => return Ok(server),
                    Err(error) if other && depends_on_tls(&error) => Failure::Answered(error),
                    Err(error) => return Err(Failure::Answered(error)),
                }
            }
            Err(error) if depends_on_tls(&error) => Failure::Away(error),
            Err(error) => return Err(Failure::Away(error)),
        };
        // What is wrong with the way that was wanted more says more.
        first = first.or(Some(failure));
    }
    Err(first.unwrap_or(Failure::Away(ServerError::Protocol("no way"))))
}

async fn log_in(
    target: &Target,
    keys: &Arc<KeyCache>,
    mut stream: Stream,
    address: Route,
) -> Result<Server, ServerError> {
    let mut out = BytesMut::new();
    let fixed = [("user", target.user.as_str()), ("database", target.dbname.as_str())];
    let more = target.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    frontend::startup(&mut out, fixed.into_iter().chain(more));
    stream.write_all(&out).await?;

    let mut reader = Reader::default();
    let authenticated = authenticate(target, keys, &mut stream, &mut reader).await;
    if let Err(ServerError::Refused(_)) = &authenticated {
        password::forget(target);
    }
    authenticated?;
    let now = Moment::now();
    let mut server = Server {
        stream,
        owed: Default::default(),
        status: TxStatus::Idle,
        prepared: Prepared::unbounded(),
        max_prepared: target.max_prepared as usize,
        in_force: Arc::new(Settings::default()),
        reported: Arc::new(Reported::default()),
        key: BackendKey::default(),
        address,
        cancels: Arc::default(),
        connected_at: now,
        expires_at: None,
        idle_since: now,
        checked_at: now,
    };
    loop {
        let (tag, body) = reader.next(&mut server.stream).await?;
        match tag {
            b'S' => server.report(&body)?,
            b'K' if body.len() >= 4 => {
                let mut body = body.freeze();
                server.key = BackendKey { pid: body.get_i32(), secret: body[..].into() };
            }
            b'N' => {}
            b'E' => return Err(ServerError::Refused(body.to_vec().into())),
            b'Z' => {
                server.status = ready_status(&body)?;
                break;
            }
            _ => return Err(ServerError::Protocol("unexpected message after authentication")),
        }
    }
    if !reader.is_empty() || server.status != TxStatus::Idle {
        return Err(ServerError::Protocol("the first ReadyForQuery is not the last word"));
    }
    if let Some(sql) = &target.connect_query {
        server.run(sql).await?;
        // What it set is what every session of the pool starts with.
        server.in_force = Arc::default();
    }
    Ok(server)
}

async fn authenticate(
    target: &Target,
    keys: &Arc<KeyCache>,
    stream: &mut Stream,
    reader: &mut Reader,
) -> Result<(), ServerError> {
    loop {
        let mut request = next_request(stream, reader).await?;
        let malformed = || ServerError::Protocol("malformed authentication request");
        if request.len() < 4 {
            return Err(malformed());
        }
        let mut out = BytesMut::new();
        match request.get_u32() {
            0 => return Ok(()),
            3 => {
                let secret = secret(target, keys).await?;
                frontend::password(&mut out, plain(target, secret.as_ref())?.as_str().as_bytes());
            }
            5 => {
                let salt: [u8; 4] = request[..].try_into().map_err(|_| malformed())?;
                let secret = secret(target, keys).await?.ok_or_else(|| no_secret(target))?;
                let answer = md5::response(&secret, &target.user, salt)
                    .ok_or_else(|| refuse(target, "a SCRAM verifier cannot answer an md5 request"))?;
                frontend::password(&mut out, &answer);
            }
            10 => {
                let offers = |name: &str| {
                    request[..].split(|&byte| byte == 0).any(|offered| offered == name.as_bytes())
                };
                let binding = match stream.server_end_point() {
                    Some(hash) if offers(SCRAM_SHA_256_PLUS) => ChannelBinding::TlsServerEndPoint(hash),
                    Some(_) => ChannelBinding::NotOffered,
                    None => ChannelBinding::None,
                };
                if !offers(binding.mechanism()) {
                    return Err(refuse(target, "the server offers no SASL mechanism that pgvalet knows"));
                }
                scram(target, keys, stream, reader, binding).await?;
                continue;
            }
            code => {
                let name = match code {
                    2 => "Kerberos V5",
                    7 | 8 => "GSSAPI",
                    9 => "SSPI",
                    _ => "an authentication method that pgvalet does not know",
                };
                return Err(refuse(
                    target,
                    &format!("the server asks for {name}; let pg_hba.conf ask for scram-sha-256"),
                ));
            }
        }
        let sent = stream.write_all(&out).await;
        out[..].zeroize();
        sent?;
    }
}

async fn scram(
    target: &Target,
    keys: &Arc<KeyCache>,
    stream: &mut Stream,
    reader: &mut Reader,
    binding: ChannelBinding,
) -> Result<(), ServerError> {
    let failed = |error: AuthError| refuse(target, &error.to_string());
    let secret = secret(target, keys).await?;
    let mut entropy = [0; Nonce::ENTROPY];
    getrandom::fill(&mut entropy).map_err(|error| refuse(target, &format!("no randomness: {error}")))?;
    let mechanism = binding.mechanism();
    let (start, first) = ClientStart::begin(Nonce::new(entropy), binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial(&mut out, mechanism, &first);
    stream.write_all(&out).await?;

    let challenged = start.server_first(&sasl_data(stream, reader, 11).await?).map_err(failed)?;
    let (salt, iterations) = (challenged.salt(), challenged.iterations());
    let derived = match &secret {
        Some(Secret::Plain(password)) => derive(keys, password, salt, iterations).await?,
        other => match keys.learnt.keys(&target.witness, &target.user, salt, iterations) {
            Some(learnt) => learnt,
            None => return Err(unlearnt(target, other.as_ref(), salt, iterations)),
        },
    };
    let (proved, last) = challenged.answer(&derived);
    out.clear();
    frontend::sasl_response(&mut out, &last);
    stream.write_all(&out).await?;
    proved.server_final(&sasl_data(stream, reader, 12).await?).map_err(failed)
}

async fn derive(
    keys: &Arc<KeyCache>,
    password: &Password,
    salt: &[u8],
    iterations: u32,
) -> Result<ClientKeys, ServerError> {
    if let Some(known) = keys.get(password, salt, iterations) {
        return Ok(known);
    }
    let (keys, password, salt) = (keys.clone(), password.clone(), salt.to_vec());
    tokio::task::spawn_blocking(move || keys.get_or_derive(&password, &salt, iterations))
        .await
        .map_err(|_| ServerError::Protocol("the derivation of SCRAM keys was interrupted"))
}

/// The body of the next authentication request.
async fn next_request(stream: &mut Stream, reader: &mut Reader) -> Result<BytesMut, ServerError> {
    loop {
        let (tag, body) = reader.next(stream).await?;
        match tag {
            b'R' => return Ok(body),
            b'E' => return Err(ServerError::Refused(body.to_vec().into())),
            // Sent by a server that speaks another minor version; we asked for 3.0, which all do.
            b'v' | b'N' => {}
            _ => return Err(ServerError::Protocol("unexpected message during authentication")),
        }
    }
}

async fn sasl_data(stream: &mut Stream, reader: &mut Reader, expected: u32) -> Result<BytesMut, ServerError> {
    let mut body = next_request(stream, reader).await?;
    if body.len() < 4 || body.get_u32() != expected {
        return Err(ServerError::Protocol("unexpected authentication request during SCRAM"));
    }
    Ok(body)
}

/// What is configured for the server's user, or was learnt from a login of it.
async fn secret(target: &Target, keys: &KeyCache) -> Result<Option<Secret>, ServerError> {
    if let Some(source) = &target.password_source {
        return password::fetch(target, source).await.map(Some);
    }
    let place = || Place {
        witness: target.witness.clone(),
        hosts: target.hosts.clone(),
        port: target.port,
        user: target.user.clone(),
    };
    Ok(target.secret.clone().or_else(|| keys.learnt.secret(&place())))
}

/// Why there are no keys for what the server asks for, and what would help.
fn unlearnt(target: &Target, secret: Option<&Secret>, salt: &[u8], iterations: u32) -> ServerError {
    let reason = match secret {
        Some(Secret::Scram(verifier)) if verifier.salt != salt || verifier.iterations != iterations => {
            "the server has another SCRAM verifier of this user than pgvalet; was its password changed? \
             Store the new verifier, or the password itself"
        }
        Some(Secret::Md5(_)) => "the server wants the password, but only a hash of it is configured",
        Some(_) => {
            "only a SCRAM verifier of this user is known, and nobody has logged in to pgvalet with its password \
             (by SCRAM) since it started; let a client do so, or store the password itself"
        }
        None => {
            "the server wants a password; set `password` of the database, or of the user. (Of users that auth_query \
             finds, pgvalet learns it when they log in by SCRAM; after a change of it they have to log in again)"
        }
    };
    refuse(target, reason)
}

fn plain<'a>(target: &Target, secret: Option<&'a Secret>) -> Result<&'a Password, ServerError> {
    match secret {
        Some(Secret::Plain(password)) => Ok(password),
        None => Err(no_secret(target)),
        Some(_) => Err(refuse(target, "the server wants the password, but only a hash of it is configured")),
    }
}

fn no_secret(target: &Target) -> ServerError {
    refuse(target, "the server wants a password; set `password` of the database, or of the user")
}

fn refuse(target: &Target, reason: &str) -> ServerError {
    ServerError::Authentication { user: target.user.clone(), reason: reason.to_owned() }
}
