//! The exchanges by which a client proves that it knows a password: SCRAM, md5, and the password itself.
//!
//! Owns the messages and what they are checked against. Who has to go through which one is `authentication`'s business.
//! Invariant: somebody unknown goes through the same exchange as somebody known with a wrong password.

use crate::auth::keys::ClientKeys;
use crate::auth::mock::Looks;
use crate::auth::scram::{MAX_ITERATIONS, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::scram_server::{Credentials, ServerBinding, ServerStart};
use crate::auth::{AuthError, md5};
use crate::client::connection::Connection;
use crate::client::context::Context;
use crate::client::login::Refusal;
use crate::config::Secret;
use crate::config::secret::{Password, ScramVerifier};
use crate::entropy;
use crate::error::{Error, Kind};
use crate::protocol::backend;
use crate::routing;
use bytes::BytesMut;
use sha2::{Digest, Sha256};
use std::rc::Rc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// SCRAM-SHA-256.
pub(super) async fn scram(
    context: &Rc<Context>,
    connection: &mut Connection,
    name: &str,
    secret: Option<&Secret>,
) -> Result<(), Refusal> {
    let salt = || context.process.mock.salt(name);
    let credentials = match secret {
        Some(Secret::Scram(verifier)) => Credentials::Verifier(verifier.clone()),
        Some(Secret::Plain(password)) => {
            let (salt, iterations) = (salt(), context.config().general.scram_iterations);
            let keys = derive(context, password, &salt, iterations).await?;
            Credentials::Verifier(keys.verifier(&salt, iterations))
        }
        Some(Secret::Md5(_)) | None => {
            Credentials::Mock { salt: salt(), iterations: mock_iterations(context, connection, name) }
        }
    };
    let keys = sasl(connection, name, credentials).await?;
    if let Some(Secret::Scram(verifier)) = secret {
        learn(context, connection, name, verifier, keys);
    }
    Ok(())
}

/// Keeps what logs in to servers in this client's name.
fn learn(context: &Context, connection: &Connection, name: &str, verifier: &ScramVerifier, keys: ClientKeys) {
    let Some((database, _)) = &connection.asked_for else { return };
    let witness = routing::witness(&context.config(), database, name);
    let learnt = &context.process.keys.learnt;
    if learnt.keep_keys(&witness, name, &verifier.salt, verifier.iterations, keys) {
        context.shards.registry.retry_connects(name);
    }
}

/// An MD5 challenge, or SCRAM where the secret is a verifier.
pub(super) async fn md5_or_scram(
    context: &Rc<Context>,
    connection: &mut Connection,
    name: &str,
    secret: Option<&Secret>,
) -> Result<(), Refusal> {
    match secret {
        Some(Secret::Scram(_)) => scram(context, connection, name, secret).await,
        Some(secret) => md5(connection, name, secret).await,
        None => match looks(context, connection, name, true) {
            Looks::Md5 => md5(connection, name, &Secret::Md5(context.process.mock.md5(name))).await,
            Looks::Scram(iterations) => {
                let salt = context.process.mock.salt(name);
                sasl(connection, name, Credentials::Mock { salt, iterations }).await.map(drop)
            }
        },
    }
}

/// The password in the clear.
pub(super) async fn password(
    context: &Rc<Context>,
    connection: &mut Connection,
    name: &str,
    secret: Option<&Secret>,
) -> Result<(), Refusal> {
    let Some(password) = ask_for_password(connection).await? else { return Err(wrong_password(name).into()) };
    if is_right(context, connection, name, secret, password).await? {
        Ok(())
    } else {
        Err(wrong_password(name).into())
    }
}

/// The password in the clear, which others know; `what` names them in errors.
pub(super) async fn password_of_others(
    connection: &mut Connection,
    name: &str,
    what: &str,
    check: impl AsyncFnOnce(&Password) -> Result<bool, String>,
) -> Result<Password, Refusal> {
    let failed = || {
        let text = format!("{what} authentication failed for user \"{name}\"");
        Refusal::Error(Error::new(Kind::InvalidAuthorization, text))
    };
    let password = ask_for_password(connection).await?.ok_or_else(failed)?;
    match check(&password).await {
        Ok(true) => Ok(password),
        Ok(false) => Err(failed()),
        Err(reason) => {
            // Escaped: it may quote what came over the network.
            let reason = reason.escape_debug();
            tracing::warn!(user = name, %reason, "a password cannot be checked by {what}");
            Err(failed())
        }
    }
}

/// Asks for the password; `None` if no password can be what was sent.
pub(super) async fn ask_for_password(connection: &mut Connection) -> Result<Option<Password>, Refusal> {
    let mut out = BytesMut::new();
    backend::authentication(&mut out, 3, &[]);
    connection.write(&out).await?;
    let answer = connection.password_message("password").await?;
    let answer = answer.strip_suffix(&[0]).unwrap_or(&answer);
    if answer.is_empty() {
        return Err(Error::new(Kind::InvalidPassword, "empty password returned by client").into());
    }
    Ok(std::str::from_utf8(answer).ok().and_then(|text| Password::new(text).ok()))
}

/// Checks a password; somebody unknown takes the time that somebody known does.
async fn is_right(
    context: &Rc<Context>,
    connection: &Connection,
    name: &str,
    secret: Option<&Secret>,
    password: Password,
) -> Result<bool, Refusal> {
    match secret {
        // Hashed, so that the comparison does not tell the length.
        Some(Secret::Plain(known)) => {
            let hash = |password: &Password| Sha256::digest(password.as_str());
            Ok(bool::from(hash(known).ct_eq(&hash(&password))))
        }
        Some(Secret::Md5(known)) => Ok(bool::from(md5::digest(password.as_str(), name).0.ct_eq(&known.0))),
        Some(Secret::Scram(verifier)) if verifier.iterations > MAX_ITERATIONS => {
            tracing::warn!(
                user = name,
                "the verifier's iteration count is too high to check a password against"
            );
            Ok(false)
        }
        Some(Secret::Scram(verifier)) => {
            let keys = derive_once(context, &password, &verifier.salt, verifier.iterations).await?;
            let right = bool::from(keys.stored_key.ct_eq(&verifier.stored_key));
            if right {
                learn(context, connection, name, verifier, keys.clone());
                context.process.keys.insert(&password, &verifier.salt, verifier.iterations, keys);
            }
            Ok(right)
        }
        None => {
            if let Looks::Scram(iterations) = looks(context, connection, name, true) {
                let salt = context.process.mock.salt(name);
                derive_once(context, &password, &salt, iterations.min(MAX_ITERATIONS)).await?;
            }
            Ok(false)
        }
    }
}

/// How somebody unknown looks.
fn looks(context: &Context, connection: &Connection, name: &str, md5_too: bool) -> Looks {
    let config = context.config();
    let database = connection.asked_for.as_ref().map(|(database, _)| database.as_str());
    let is_looked_up = database.is_some_and(|name| routing::user_source(&config, name).is_some());
    let found = is_looked_up.then(|| context.process.directory.kinds());
    let iterations = config.general.scram_iterations;
    context.process.mock.looks(name, &config.kinds, found.as_ref(), iterations, md5_too)
}

fn mock_iterations(context: &Context, connection: &Connection, name: &str) -> u32 {
    match looks(context, connection, name, false) {
        Looks::Scram(iterations) => iterations,
        Looks::Md5 => context.config().general.scram_iterations,
    }
}

/// Derives the keys of a password: from the cache, or on a thread that may block.
async fn derive(
    context: &Rc<Context>,
    password: &Password,
    salt: &[u8],
    iterations: u32,
) -> Result<ClientKeys, Refusal> {
    let keys = context.process.keys.clone();
    if let Some(known) = keys.get(password, salt, iterations) {
        return Ok(known);
    }
    let (password, salt) = (password.clone(), salt.to_owned());
    blocking(move || keys.get_or_derive(&password, &salt, iterations)).await
}

/// The same for a password that may be wrong: it must not take a right one's place in the cache.
async fn derive_once(
    context: &Rc<Context>,
    password: &Password,
    salt: &[u8],
    iterations: u32,
) -> Result<ClientKeys, Refusal> {
    if let Some(known) = context.process.keys.get(password, salt, iterations) {
        return Ok(known);
    }
    let (password, salt) = (password.clone(), salt.to_owned());
    blocking(move || ClientKeys::derive(&password, &salt, iterations)).await
}

async fn blocking(derive: impl FnOnce() -> ClientKeys + Send + 'static) -> Result<ClientKeys, Refusal> {
    tokio::task::spawn_blocking(derive).await.map_err(|_| {
        Refusal::Error(Error::new(Kind::Internal, "the derivation of SCRAM keys was interrupted"))
    })
}

/// Runs the exchange; gives the keys that the client has shown.
async fn sasl(
    connection: &mut Connection,
    name: &str,
    credentials: Credentials,
) -> Result<ClientKeys, Refusal> {
    let mut out = BytesMut::new();
    let end_point = connection.shown.as_ref().and_then(|shown| shown.end_point.clone());
    let offered = match end_point {
        Some(_) => [SCRAM_SHA_256_PLUS, "\0", SCRAM_SHA_256, "\0\0"].concat(),
        None => [SCRAM_SHA_256, "\0\0"].concat(),
    };
    backend::authentication(&mut out, 10, offered.as_bytes());
    connection.write(&out).await?;

    let initial = connection.password_message("SASL").await?;
    let (mechanism, first) = sasl_initial(&initial)?;
    let binding = match (mechanism, end_point) {
        (Mechanism::Plain, None) => ServerBinding::NotOffered,
        (Mechanism::Plain, Some(_)) => ServerBinding::Declined,
        (Mechanism::Plus, Some(hash)) => ServerBinding::Selected(hash),
        (Mechanism::Plus, None) => return Err(invalid_mechanism()),
    };
    let first = match first {
        Some(first) => Zeroizing::new(first.to_vec()),
        None => {
            out.clear();
            backend::authentication(&mut out, 11, &[]);
            connection.write(&out).await?;
            connection.password_message("SASL").await?
        }
    };
    let nonce = Nonce::new(random()?);
    let start = ServerStart::new(credentials, nonce, binding);
    let (challenged, server_first) = start.client_first(&first).map_err(|error| refusal(&error, name))?;
    out.clear();
    backend::authentication(&mut out, 11, &server_first);
    connection.write(&out).await?;

    let last = connection.password_message("SASL").await?;
    let accepted = challenged.client_final(&last).map_err(|error| refusal(&error, name))?;
    out.clear();
    backend::authentication(&mut out, 12, &accepted.server_final);
    // Goes out together with what follows.
    connection.hold(&out);
    Ok(accepted.keys)
}

/// What a client selects.
enum Mechanism {
    /// SCRAM-SHA-256.
    Plain,
    /// SCRAM-SHA-256-PLUS.
    Plus,
}

/// What a client is told that selects what was not offered.
pub(super) fn invalid_mechanism() -> Refusal {
    let text = "client selected an invalid SASL authentication mechanism";
    Refusal::Error(Error::new(Kind::ProtocolViolation, text))
}

/// Reads the beginning of SCRAM: the mechanism, and the client's first message, `None` if it sent none along.
fn sasl_initial(body: &[u8]) -> Result<(Mechanism, Option<&[u8]>), Refusal> {
    let (mechanism, first) = initial_response(body)?;
    let mechanism = if mechanism == SCRAM_SHA_256.as_bytes() {
        Mechanism::Plain
    } else if mechanism == SCRAM_SHA_256_PLUS.as_bytes() {
        Mechanism::Plus
    } else {
        return Err(invalid_mechanism());
    };
    Ok((mechanism, first))
}

/// Reads a SASLInitialResponse: the mechanism's name, and the client's first message, `None` if it sent none along.
pub(super) fn initial_response(body: &[u8]) -> Result<(&[u8], Option<&[u8]>), Refusal> {
    let malformed = || Refusal::Error(Error::new(Kind::ProtocolViolation, "invalid SASL initial response"));
    let (mechanism, rest) = crate::protocol::frame::cstr(body).ok_or_else(malformed)?;
    let (&length, data) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    match i32::from_be_bytes(length) {
        -1 if data.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length) == Ok(data.len()) => Ok((mechanism, Some(data))),
        _ => Err(malformed()),
    }
}

async fn md5(connection: &mut Connection, name: &str, secret: &Secret) -> Result<(), Refusal> {
    let salt: [u8; 4] = random()?;
    let mut out = BytesMut::new();
    backend::authentication(&mut out, 5, &salt);
    connection.write(&out).await?;
    let answer = connection.password_message("password").await?;
    let answer = answer.strip_suffix(&[0]).unwrap_or(&answer);
    md5::verify(secret, name, salt, answer).map_err(|error| refusal(&error, name))
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    entropy::fill(&mut bytes)
        .map_err(|error| Refusal::Error(Error::new(Kind::Internal, format!("no randomness: {error}"))))?;
    Ok(bytes)
}

/// What a client is told whose exchange failed.
pub(super) fn refusal(error: &AuthError, name: &str) -> Refusal {
    Refusal::Error(match error {
        AuthError::Protocol { .. } => with_detail(Kind::ProtocolViolation, error),
        AuthError::Unsupported(text) => Error::new(Kind::Unsupported, *text),
        AuthError::ChannelBinding { .. } => with_detail(Kind::InvalidAuthorization, error),
        _ => wrong_password(name),
    })
}

fn with_detail(kind: Kind, error: &AuthError) -> Error {
    Error { detail: error.detail().map(Box::from), ..Error::new(kind, error.message()) }
}

/// What a wrong password and an unknown user get alike.
pub(super) fn wrong_password(name: &str) -> Error {
    Error::new(Kind::InvalidPassword, format!("password authentication failed for user \"{name}\""))
}
