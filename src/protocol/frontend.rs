//! Messages that pgvalet itself sends to a server, and the parts of a client's messages that it reads.

use crate::protocol::frame::{HEADER, cstr};
use crate::protocol::startup::SSL_REQUEST;
use bytes::{BufMut, BytesMut};

/// A Flush.
pub const FLUSH: [u8; HEADER] = [b'H', 0, 0, 0, 4];

/// Appends one message whose body `fill` writes.
fn message(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a StartupMessage of protocol 3.0.
pub fn startup<'a>(out: &mut BytesMut, parameters: impl Iterator<Item = (&'a str, &'a str)>) {
    let at = out.len();
    out.put_u32(0);
    out.put_u32(3 << 16);
    for (name, value) in parameters {
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_slice(value.as_bytes());
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// An SSLRequest.
#[must_use]
pub fn ssl_request() -> [u8; 8] {
    let [a, b, c, d] = SSL_REQUEST.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
}

/// Appends a CancelRequest.
pub fn cancel(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    out.put_u32((12 + secret.len()) as u32);
    out.put_u32(80_877_102);
    out.put_i32(pid);
    out.put_slice(secret);
}

/// Appends a PasswordMessage.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    // All of it, so that it does not move and leave something behind.
    out.reserve(HEADER + password.len() + 1);
    message(out, b'p', |body| {
        body.put_slice(password);
        body.put_u8(0);
    });
}

/// Appends a SASLInitialResponse.
pub fn sasl_initial(out: &mut BytesMut, mechanism: &str, response: &[u8]) {
    message(out, b'p', |body| {
        body.put_slice(mechanism.as_bytes());
        body.put_u8(0);
        body.put_i32(response.len() as i32);
        body.put_slice(response);
    });
}

/// Appends a SASLResponse.
pub fn sasl_response(out: &mut BytesMut, response: &[u8]) {
    message(out, b'p', |body| body.put_slice(response));
}

/// Appends a Query.
pub fn query(out: &mut BytesMut, sql: &str) {
    message(out, b'Q', |body| {
        body.put_slice(sql.as_bytes());
        body.put_u8(0);
    });
}

/// Appends a Parse of the statement `name` whose `rest` is its text, NUL and parameter types as the client sent them.
pub fn parse(out: &mut BytesMut, name: &[u8], rest: &[u8]) {
    message(out, b'P', |body| {
        body.put_slice(name);
        body.put_u8(0);
        body.put_slice(rest);
    });
}

/// Appends the header and the names of a Bind, whose remaining `rest` bytes follow from elsewhere.
pub fn bind_prefix(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: usize) {
    out.put_u8(b'B');
    out.put_u32((4 + portal.len() + 1 + statement.len() + 1 + rest) as u32);
    out.put_slice(portal);
    out.put_u8(0);
    out.put_slice(statement);
    out.put_u8(0);
}

/// Appends a Describe of a statement.
pub fn describe_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, b'D', |body| {
        body.put_u8(b'S');
        body.put_slice(name);
        body.put_u8(0);
    });
}

/// Appends a Close of a statement.
pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    message(out, b'C', |body| {
        body.put_u8(b'S');
        body.put_slice(name);
        body.put_u8(0);
    });
}

/// Appends a Close of a portal.
pub fn close_portal(out: &mut BytesMut, name: &[u8]) {
    message(out, b'C', |out| {
        out.put_u8(b'P');
        out.put_slice(name);
        out.put_u8(0);
    });
}

/// Appends Bind, without parameters, and Execute, of all rows.
pub fn run(out: &mut BytesMut, portal: &[u8], statement: &[u8]) {
    bind_prefix(out, portal, statement, 6);
    out.put_bytes(0, 6);
    execute(out, portal);
}

/// Appends Execute, of all rows.
pub fn execute(out: &mut BytesMut, portal: &[u8]) {
    message(out, b'E', |out| {
        out.put_slice(portal);
        out.put_u8(0);
        out.put_u32(0);
    });
}

/// Appends a Sync.
pub fn sync(out: &mut BytesMut) {
    message(out, b'S', |_| {});
}

/// Appends a CopyFail.
pub fn copy_fail(out: &mut BytesMut, reason: &str) {
    message(out, b'f', |body| {
        body.put_slice(reason.as_bytes());
        body.put_u8(0);
    });
}

/// Appends a Terminate.
pub fn terminate(out: &mut BytesMut) {
    message(out, b'X', |_| {});
}

/// What a Parse names: the statement, and the rest of its body (text, NUL, parameter types).
#[must_use]
pub fn read_parse(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    cstr(rest)?;
    Some((name, rest))
}

/// What a Bind names: portal and statement, and how long the two are with their NULs. `None` while incomplete.
#[must_use]
pub fn read_bind(body: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (portal, rest) = cstr(body)?;
    let (statement, _) = cstr(rest)?;
    Some((portal, statement, portal.len() + statement.len() + 2))
}

/// What a Describe or Close names: `b'S'` or `b'P'`, and the name.
#[must_use]
pub fn read_target(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&kind, rest) = body.split_first()?;
    match cstr(rest)? {
        (name, []) => Some((kind, name)),
        _ => None,
    }
}

/// The text of a Query, without the NUL at its end.
#[must_use]
pub fn read_query(message: &[u8]) -> &[u8] {
    let body = message.get(HEADER..).unwrap_or(&[]);
    body.strip_suffix(&[0]).unwrap_or(body)
}
