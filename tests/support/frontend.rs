//! Builds every message that a client can send, as bytes; well-formed unless made with [`frame`].
//!
//! Source: PostgreSQL documentation, "Message Formats".

/// The protocol versions and request codes of the packets without a tag.
pub const PROTOCOL_3_0: u32 = 196_608;
pub const PROTOCOL_3_2: u32 = 196_610;
pub const CANCEL_REQUEST: u32 = 80_877_102;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// Any tagged message.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(untagged(body));
    bytes
}

/// A packet of a length and a body, as sent before the login.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    let mut bytes = length32(body.len() + 4).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Several messages as one piece of bytes, such as a pipeline.
pub fn all(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.concat()
}

pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_version(PROTOCOL_3_0, parameters)
}

pub fn startup_version(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    untagged(&body)
}

pub fn ssl_request() -> Vec<u8> {
    untagged(&SSL_REQUEST.to_be_bytes())
}

pub fn gssenc_request() -> Vec<u8> {
    untagged(&GSSENC_REQUEST.to_be_bytes())
}

pub fn cancel_request(pid: i32, key: &[u8]) -> Vec<u8> {
    let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
    body.extend(pid.to_be_bytes());
    body.extend_from_slice(key);
    untagged(&body)
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &with_text(sql))
}

pub fn parse(statement: &str, sql: &str) -> Vec<u8> {
    parse_typed(statement, sql, &[])
}

pub fn parse_typed(statement: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = with_text(statement);
    text(&mut body, sql);
    body.extend(length16(types.len()));
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    frame(b'P', &body)
}

/// Text parameters, text results.
pub fn bind(portal: &str, statement: &str, parameters: &[Option<&str>]) -> Vec<u8> {
    let bytes: Vec<_> = parameters.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_formats(portal, statement, &[], &bytes, &[])
}

/// Formats: 0 text, 1 binary; none for all text, one for all alike, or one each.
pub fn bind_formats(
    portal: &str,
    statement: &str,
    parameter_formats: &[i16],
    parameters: &[Option<&[u8]>],
    result_formats: &[i16],
) -> Vec<u8> {
    let mut body = with_text(portal);
    text(&mut body, statement);
    formats(&mut body, parameter_formats);
    body.extend(length16(parameters.len()));
    for parameter in parameters {
        value(&mut body, *parameter);
    }
    formats(&mut body, result_formats);
    frame(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    frame(b'D', &with_kind(b'S', name))
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    frame(b'D', &with_kind(b'P', name))
}

pub fn close_statement(name: &str) -> Vec<u8> {
    frame(b'C', &with_kind(b'S', name))
}

pub fn close_portal(name: &str) -> Vec<u8> {
    frame(b'C', &with_kind(b'P', name))
}

/// `max_rows` of 0: all.
pub fn execute(portal: &str, max_rows: u32) -> Vec<u8> {
    let mut body = with_text(portal);
    body.extend(max_rows.to_be_bytes());
    frame(b'E', &body)
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    frame(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    frame(b'X', &[])
}

/// Parse, Bind, Execute and Sync of the unnamed statement.
pub fn extended(sql: &str, parameters: &[Option<&str>]) -> Vec<u8> {
    all(&[parse("", sql), bind("", "", parameters), execute("", 0), sync()])
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    frame(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    frame(b'c', &[])
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    frame(b'f', &with_text(reason))
}

/// Text arguments, text result.
pub fn function_call(oid: u32, arguments: &[Option<&str>]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    formats(&mut body, &[]);
    body.extend(length16(arguments.len()));
    for argument in arguments {
        value(&mut body, argument.map(str::as_bytes));
    }
    body.extend(0_i16.to_be_bytes());
    frame(b'F', &body)
}

pub fn password(password: &str) -> Vec<u8> {
    frame(b'p', &with_text(password))
}

pub fn sasl_initial(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let mut body = with_text(mechanism);
    value(&mut body, Some(response));
    frame(b'p', &body)
}

pub fn sasl_response(response: &[u8]) -> Vec<u8> {
    frame(b'p', response)
}

/// What a message is for a transcript: its tag's name and the beginning of its text.
pub fn describe(bytes: &[u8]) -> String {
    let mut words = Vec::new();
    let mut rest = bytes;
    while let Some((&tag, after)) = rest.split_first() {
        let Some(length) = after.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize) else {
            words.push(format!("{} bytes of a frame", rest.len()));
            break;
        };
        let Some(body) = after.get(4..length.max(4)) else {
            words.push(format!("part of {}", name(tag)));
            break;
        };
        let printable: String = body
            .iter()
            .take(60)
            .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' })
            .collect();
        words.push(format!("{} {}", name(tag), printable.trim_matches('.')).trim_end().to_string());
        rest = &after[length.max(4)..];
    }
    words.join(" | ")
}

fn name(tag: u8) -> &'static str {
    match tag {
        b'Q' => "Query",
        b'P' => "Parse",
        b'B' => "Bind",
        b'D' => "Describe",
        b'C' => "Close",
        b'E' => "Execute",
        b'S' => "Sync",
        b'H' => "Flush",
        b'X' => "Terminate",
        b'd' => "CopyData",
        b'c' => "CopyDone",
        b'f' => "CopyFail",
        b'F' => "FunctionCall",
        b'p' => "PasswordMessage",
        _ => "unknown message",
    }
}

/// A length or count of 16 bits; PostgreSQL reads counts as unsigned.
fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a count of at most 65,535").to_be_bytes()
}

fn length32(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("a length of at most 4 GB").to_be_bytes()
}

fn with_text(value: &str) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, value);
    body
}

fn with_kind(kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    text(&mut body, name);
    body
}

fn text(body: &mut Vec<u8>, value: &str) {
    body.extend_from_slice(value.as_bytes());
    body.push(0);
}

fn formats(body: &mut Vec<u8>, formats: &[i16]) {
    body.extend(length16(formats.len()));
    for format in formats {
        body.extend(format.to_be_bytes());
    }
}

fn value(body: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            body.extend(length32(bytes.len()));
            body.extend_from_slice(bytes);
        }
        None => body.extend((-1_i32).to_be_bytes()),
    }
}
