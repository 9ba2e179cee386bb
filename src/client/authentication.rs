//! A client proves who it is.
//!
//! An unknown user goes through the same exchange as a known one with a wrong password, and gets the same answer.

use crate::auth::keys::ClientKeys;
use crate::auth::scram::{Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::auth::scram_server::{Credentials, ServerBinding, ServerStart};
use crate::auth::{AuthError, md5};
use crate::client::context::Context;
use crate::client::login::{Connection, Refusal};
use crate::config::secret::Password;
use crate::config::{AuthType, Secret, User};
use crate::error::{Error, Kind};
use crate::protocol::backend;
use bytes::BytesMut;
use std::rc::Rc;
use std::sync::Arc;

/// Checks the client against what the configuration says of `name`.
pub(super) async fn authenticate(
    context: &Rc<Context>,
    connection: &mut Connection,
    name: &str,
    user: Option<&Arc<User>>,
) -> Result<(), Refusal> {
    let config = context.config();
    let secret = user.and_then(|user| user.secret.as_ref());
    match (config.general.auth_type, secret) {
        (AuthType::Trust, _) if user.is_some() => Ok(()),
        (AuthType::Trust, _) => Err(Refusal::Error(wrong_password(name))),
        (AuthType::Md5, Some(Secret::Scram(_))) | (AuthType::ScramSha256, _) => {
            let iterations = config.general.scram_iterations;
            let credentials = credentials(context, name, secret, iterations).await?;
            scram(connection, name, credentials).await
        }
        (AuthType::Md5, secret) => {
            let mock = Secret::Md5(context.process.mock.md5(name));
            check_md5(connection, name, secret.unwrap_or(&mock)).await
        }
    }
}

/// What SCRAM checks against: the stored verifier, or the one that the plain password gives.
async fn credentials(
    context: &Rc<Context>,
    name: &str,
    secret: Option<&Secret>,
    iterations: u32,
) -> Result<Credentials, Refusal> {
    let salt = context.process.mock.salt(name);
    match secret {
        Some(Secret::Scram(verifier)) => Ok(Credentials::Verifier(verifier.clone())),
        Some(Secret::Plain(password)) => {
            let keys = derive(context, password, salt, iterations).await?;
            Ok(Credentials::Verifier(keys.verifier(&salt, iterations)))
        }
        Some(Secret::Md5(_)) | None => Ok(Credentials::Mock { salt, iterations }),
    }
}

/// Derives the keys of a password: from the cache, or on a thread that may block.
async fn derive(
    context: &Rc<Context>,
    password: &Password,
    salt: [u8; 16],
    iterations: u32,
) -> Result<ClientKeys, Refusal> {
    let keys = context.process.keys.clone();
    if let Some(known) = keys.get(password, &salt, iterations) {
        return Ok(known);
    }
    let password = password.clone();
    tokio::task::spawn_blocking(move || keys.get_or_derive(&password, &salt, iterations)).await.map_err(
        |_| Refusal::Error(Error::new(Kind::Internal, "the derivation of SCRAM keys was interrupted")),
    )
}

async fn scram(connection: &mut Connection, name: &str, credentials: Credentials) -> Result<(), Refusal> {
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
        Some(first) => first.to_vec(),
        None => {
            out.clear();
            backend::authentication(&mut out, 11, &[]);
            connection.write(&out).await?;
            connection.password_message("SASL").await?.to_vec()
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
    Ok(())
}

/// What a client selects.
enum Mechanism {
    /// SCRAM-SHA-256.
    Plain,
    /// SCRAM-SHA-256-PLUS.
    Plus,
}

fn invalid_mechanism() -> Refusal {
    let text = "client selected an invalid SASL authentication mechanism";
    Refusal::Error(Error::new(Kind::ProtocolViolation, text))
}

/// Reads a SASLInitialResponse: the mechanism, and the client's first message, `None` if it sent none along.
fn sasl_initial(body: &[u8]) -> Result<(Mechanism, Option<&[u8]>), Refusal> {
    let malformed = || Refusal::Error(Error::new(Kind::ProtocolViolation, "invalid SASL initial response"));
    let (mechanism, rest) = crate::protocol::frame::cstr(body).ok_or_else(malformed)?;
    let mechanism = if mechanism == SCRAM_SHA_256.as_bytes() {
        Mechanism::Plain
    } else if mechanism == SCRAM_SHA_256_PLUS.as_bytes() {
        Mechanism::Plus
    } else {
        return Err(invalid_mechanism());
    };
    let (&length, data) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    match i32::from_be_bytes(length) {
        -1 if data.is_empty() => Ok((mechanism, None)),
        length if usize::try_from(length) == Ok(data.len()) => Ok((mechanism, Some(data))),
        _ => Err(malformed()),
    }
}

async fn check_md5(connection: &mut Connection, name: &str, secret: &Secret) -> Result<(), Refusal> {
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
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal::Error(Error::new(Kind::Internal, format!("no randomness: {error}"))))?;
    Ok(bytes)
}

fn refusal(error: &AuthError, name: &str) -> Refusal {
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
fn wrong_password(name: &str) -> Error {
    Error::new(Kind::InvalidPassword, format!("password authentication failed for user \"{name}\""))
}
