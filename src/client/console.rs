//! A client of the admin console: simple queries, answered by pgvalet itself.

use crate::client::context::Context;
use crate::client::login::{Connection, Refusal};
use crate::error::{Error, Kind};
use crate::protocol::{TxStatus, backend, frontend};
use bytes::BytesMut;
use std::rc::Rc;

/// Serves the console until the client leaves. The user has proved who it is.
pub(super) async fn serve(
    context: &Rc<Context>,
    connection: &mut Connection,
    user: &str,
) -> Result<(), Refusal> {
    let config = context.config();
    let is_admin = config.general.admin_users.iter().any(|name| name == user);
    if !is_admin && !config.general.stats_users.iter().any(|name| name == user) {
        let text = format!("user \"{user}\" may not use the admin console");
        return Err(Error::new(Kind::InvalidAuthorization, text)
            .hint("Name the user in admin_users or stats_users.")
            .into());
    }
    let mut out = BytesMut::new();
    backend::authentication(&mut out, 0, &[]);
    let version = concat!(env!("CARGO_PKG_VERSION"), "/pgvalet");
    for (name, value) in
        [("server_version", version), ("client_encoding", "UTF8"), ("server_encoding", "UTF8")]
    {
        backend::parameter_status(&mut out, name, value);
    }
    backend::backend_key_data(&mut out, 0, &[0; 4]);
    loop {
        backend::ready_for_query(&mut out, TxStatus::Idle);
        connection.write(&out).await?;
        out.clear();
        let (tag, message) = connection.console_message().await?;
        match tag {
            b'Q' => {
                let sql = String::from_utf8_lossy(frontend::read_query(&message)).into_owned();
                context.process.console.answer(&sql, is_admin, &mut out);
            }
            b'X' => return Ok(()),
            // Sync alone is answered by ReadyForQuery.
            b'S' => {}
            _ => {
                let error =
                    Error::new(Kind::Unsupported, "the admin console understands simple queries only")
                        .hint("Use psql, or your driver's simple query mode.");
                error.write(&mut out, "ERROR");
                if tag != b'F' {
                    connection.skip_to_sync().await?;
                }
            }
        }
    }
}
