//! A client proves by a bearer token who it is: the method `oauth`.
//!
//! Owns the exchange OAUTHBEARER, and the token in place of a password. What a token is worth says its issuer
//! (`identity`). Nothing but its user comes out: neither the log nor an error has a token in it.

use crate::auth::hba::Facts;
use crate::auth::oauthbearer::{self, OAUTHBEARER, Shown};
use crate::client::authentication::{Applicant, vouched};
use crate::client::connection::Connection;
use crate::client::context::Context;
use crate::client::exchanges::{ask_for_password, initial_response, invalid_mechanism, refusal};
use crate::client::login::Refusal;
use crate::config::Config;
use crate::config::hba::OAuth;
use crate::error::{Error, Kind};
use crate::protocol::backend;
use bytes::BytesMut;
use std::rc::Rc;
use zeroize::Zeroizing;

/// Whether the client has a token that makes it its user.
pub(super) async fn prove(
    context: &Rc<Context>,
    connection: &mut Connection,
    config: &Config,
    applicant: &Applicant<'_>,
    oauth: &OAuth,
    facts: &mut Facts,
) -> Result<(), Refusal> {
    if !applicant.transport.is_private() {
        let text = "bearer tokens are not taken over an unencrypted connection";
        let error = Error::new(Kind::InvalidAuthorization, text);
        return Err(error.hint("Connect over TLS (sslmode=require) or the Unix socket.").into());
    }
    let failed = || format!("OAuth bearer authentication failed for user \"{}\"", applicant.user);
    let refused = || Refusal::Error(Error::new(Kind::InvalidAuthorization, failed()));
    let mut accept = async |token: &str| {
        let user = user(context, applicant, oauth, token).await.ok_or_else(refused)?;
        vouched(context, config, applicant, facts, oauth.map.as_deref(), &user, failed).await
    };
    if oauth.as_password {
        let token = ask_for_password(connection).await?.ok_or_else(refused)?;
        return accept(token.as_str()).await;
    }
    let malformed = |error| refusal(&error, applicant.user);
    let first = first_message(connection).await?;
    let outcome = match oauthbearer::client_first(&first).map_err(malformed)? {
        Shown::Token(token) => accept(token).await,
        Shown::Nonsense => {
            tracing::warn!(user = applicant.user, "what a client showed has not the form of a bearer token");
            Err(refused())
        }
        Shown::Nothing => {
            tracing::debug!(user = applicant.user, "a client asks where it could get a token");
            Err(refused())
        }
    };
    if outcome.is_err() {
        // The client learns where there are tokens, and that must be the end of it.
        send(connection, oauthbearer::failure(&oauth.discovery, &oauth.scope).as_bytes()).await?;
        let last = connection.password_message("SASL").await?;
        oauthbearer::client_last(&last).map_err(malformed)?;
    }
    outcome
}

/// The client's first message, with or behind its choice of the mechanism.
async fn first_message(connection: &mut Connection) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut out = BytesMut::new();
    backend::authentication(&mut out, 10, format!("{OAUTHBEARER}\0\0").as_bytes());
    connection.write(&out).await?;
    let initial = connection.password_message("SASL").await?;
    let (mechanism, first) = initial_response(&initial)?;
    if mechanism != OAUTHBEARER.as_bytes() {
        return Err(invalid_mechanism());
    }
    if let Some(first) = first {
        return Ok(Zeroizing::new(first.to_vec()));
    }
    send(connection, &[]).await?;
    connection.password_message("SASL").await
}

async fn user(
    context: &Rc<Context>,
    applicant: &Applicant<'_>,
    oauth: &OAuth,
    token: &str,
) -> Option<String> {
    match context.process.identities.token_user(token, oauth).await {
        Ok(user) => Some(user),
        Err(reason) => {
            // Escaped: it may quote what stands in the token.
            tracing::warn!(
                user = applicant.user,
                reason = %reason.escape_debug(),
                "a bearer token does not count"
            );
            None
        }
    }
}

/// AuthenticationSASLContinue.
async fn send(connection: &mut Connection, data: &[u8]) -> Result<(), Refusal> {
    let mut out = BytesMut::new();
    backend::authentication(&mut out, 11, data);
    Ok(connection.write(&out).await?)
}
