//! Messages of a server: read, shown in words, and built (for the scripted server).
//!
//! Source: PostgreSQL documentation, "Message Formats".

use std::fmt;

use super::frontend::frame;

/// A message as it came: tag and body. Equality is of bytes; `Debug` shows what it means.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// The bytes that it came as.
    pub fn encode(&self) -> Vec<u8> {
        frame(self.tag, &self.body)
    }

    /// The transaction status of a ReadyForQuery: `I`, `T` or `E`.
    pub fn ready(&self) -> Option<char> {
        match (self.tag, &self.body[..]) {
            (b'Z', [status]) => Some(char::from(*status)),
            _ => None,
        }
    }

    /// One field of an ErrorResponse or NoticeResponse, such as `b'C'` (SQLSTATE) or `b'M'` (message).
    pub fn field(&self, kind: u8) -> Option<String> {
        if !matches!(self.tag, b'E' | b'N') {
            return None;
        }
        self.fields().into_iter().find(|(field, _)| *field == kind).map(|(_, text)| text)
    }

    /// The SQLSTATE, if this is an error (not a notice).
    pub fn sqlstate(&self) -> Option<String> {
        (self.tag == b'E').then(|| self.field(b'C')).flatten()
    }

    /// The values of a DataRow.
    pub fn values(&self) -> Option<Vec<Option<Vec<u8>>>> {
        let mut reader = Reader(&self.body);
        let count = (self.tag == b'D').then(|| reader.u16()).flatten()?;
        (0..count).map(|_| reader.value()).collect()
    }

    /// Name and value of a ParameterStatus.
    pub fn parameter(&self) -> Option<(String, String)> {
        let mut reader = Reader(&self.body);
        if self.tag == b'S' { Some((reader.text()?, reader.text()?)) } else { None }
    }

    /// The tag of a CommandComplete, such as `INSERT 0 1`.
    pub fn command(&self) -> Option<String> {
        if self.tag == b'C' { Reader(&self.body).text() } else { None }
    }

    /// Process id and key of a BackendKeyData.
    pub fn key(&self) -> Option<(i32, Vec<u8>)> {
        let mut reader = Reader(&self.body);
        if self.tag == b'K' { Some((reader.u32()?.cast_signed(), reader.0.to_vec())) } else { None }
    }

    /// Column names of a RowDescription.
    pub fn columns(&self) -> Option<Vec<String>> {
        Some(self.column_details()?.into_iter().map(|column| column.0).collect())
    }

    fn column_details(&self) -> Option<Vec<(String, String)>> {
        let mut reader = Reader(&self.body);
        let count = (self.tag == b'T').then(|| reader.u16()).flatten()?;
        let column = |reader: &mut Reader<'_>| {
            let name = reader.text()?;
            let (table, attribute, oid) = (reader.u32()?, reader.u16()?, reader.u32()?);
            let (size, modifier, format) =
                (reader.u16()?.cast_signed(), reader.u32()?.cast_signed(), reader.u16()?);
            let from = if table == 0 { String::new() } else { format!(" from {table}.{attribute}") };
            Some((name, format!("type {oid} size {size} modifier {modifier} format {format}{from}")))
        };
        (0..count).map(|_| column(&mut reader)).collect()
    }

    fn fields(&self) -> Vec<(u8, String)> {
        let mut reader = Reader(&self.body);
        let mut fields = Vec::new();
        while let Some(kind) = reader.byte().filter(|kind| *kind != 0) {
            let Some(text) = reader.text() else { break };
            fields.push((kind, text));
        }
        fields
    }

    /// What it says in words; `None` if the body is not what its tag promises.
    fn words(&self) -> Option<String> {
        let mut reader = Reader(&self.body);
        Some(match self.tag {
            b'R' => format!("Authentication {}", authentication(reader.u32()?, reader.0)),
            b'S' => {
                let (name, value) = self.parameter()?;
                format!("ParameterStatus {name}={value}")
            }
            b'K' => {
                let (pid, key) = self.key()?;
                format!("BackendKeyData pid {pid}, key of {} bytes", key.len())
            }
            b'Z' => format!("ReadyForQuery {}", self.ready()?),
            b'E' | b'N' => {
                let kind = if self.tag == b'E' { "ErrorResponse" } else { "NoticeResponse" };
                let fields: Vec<_> = self
                    .fields()
                    .iter()
                    .map(|(kind, text)| format!("{}={text}", char::from(*kind)))
                    .collect();
                format!("{kind} {}", fields.join(" "))
            }
            b'T' => {
                let columns: Vec<_> = self
                    .column_details()?
                    .into_iter()
                    .map(|(name, what)| format!("{name} ({what})"))
                    .collect();
                format!("RowDescription {}", columns.join(", "))
            }
            b'D' => {
                let values = self.values()?;
                let shown: Vec<_> =
                    values.iter().map(|value| value.as_deref().map_or("NULL".into(), show)).collect();
                format!("DataRow {}", shown.join(", "))
            }
            b'C' => format!("CommandComplete {}", self.command()?),
            b't' => {
                let count = reader.u16()?;
                let oids: Vec<_> = (0..count).map(|_| reader.u32()).collect::<Option<_>>()?;
                format!("ParameterDescription {oids:?}")
            }
            b'A' => {
                format!(
                    "NotificationResponse from {} on {} saying {:?}",
                    reader.u32()?,
                    reader.text()?,
                    reader.text()?
                )
            }
            b'd' => format!("CopyData {}", show(&self.body)),
            b'G' | b'H' | b'W' => {
                let kind = match self.tag {
                    b'G' => "CopyInResponse",
                    b'H' => "CopyOutResponse",
                    _ => "CopyBothResponse",
                };
                format!("{kind} format {}, {} columns", reader.byte()?, reader.u16()?)
            }
            b'V' => {
                format!("FunctionCallResponse {}", reader.value()?.as_deref().map_or("NULL".into(), show))
            }
            b'v' => format!(
                "NegotiateProtocolVersion newest 3.{} options {:?}",
                reader.u32()? & 0xffff,
                show(reader.0)
            ),
            b'1' => "ParseComplete".into(),
            b'2' => "BindComplete".into(),
            b'3' => "CloseComplete".into(),
            b'I' => "EmptyQueryResponse".into(),
            b'n' => "NoData".into(),
            b's' => "PortalSuspended".into(),
            b'c' => "CopyDone".into(),
            _ => return None,
        })
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(&words),
            None => write!(f, "strange message {:?} {}", char::from(self.tag), show(&self.body)),
        }
    }
}

/// Rows as text, of all DataRows among some messages.
pub fn rows(messages: &[Message]) -> Vec<Vec<Option<String>>> {
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    messages
        .iter()
        .filter_map(Message::values)
        .map(|row| row.into_iter().map(|v| v.map(text)).collect())
        .collect()
}

/// The SQLSTATE of the first error among some messages.
pub fn first_error(messages: &[Message]) -> Option<String> {
    messages.iter().find_map(Message::sqlstate)
}

/// The tags of some messages as one word, such as `12TDCZ`.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

pub fn auth_ok() -> Vec<u8> {
    auth(0, &[])
}

/// An Authentication message: 0 ok, 3 cleartext, 5 MD5 (4 bytes of salt), 10 SASL, 11 continue, 12 final.
pub fn auth(code: u32, rest: &[u8]) -> Vec<u8> {
    frame(b'R', &[&code.to_be_bytes(), rest].concat())
}

pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    frame(b'S', format!("{name}\0{value}\0").as_bytes())
}

pub fn backend_key_data(pid: i32, key: &[u8]) -> Vec<u8> {
    frame(b'K', &[&pid.to_be_bytes(), key].concat())
}

pub fn ready_for_query(status: char) -> Vec<u8> {
    frame(b'Z', status.to_string().as_bytes())
}

pub fn command_complete(tag: &str) -> Vec<u8> {
    frame(b'C', format!("{tag}\0").as_bytes())
}

/// Text columns.
pub fn row_description(columns: &[&str]) -> Vec<u8> {
    let mut body = count(columns.len());
    for column in columns {
        body.extend(format!("{column}\0").as_bytes());
        body.extend([0, 0, 0, 0, 0, 0]);
        body.extend(25_u32.to_be_bytes());
        body.extend((-1_i16).to_be_bytes());
        body.extend((-1_i32).to_be_bytes());
        body.extend([0, 0]);
    }
    frame(b'T', &body)
}

pub fn data_row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = count(values.len());
    for value in values {
        match value {
            Some(text) => {
                body.extend(i32::try_from(text.len()).expect("a value below 2 GB").to_be_bytes());
                body.extend(text.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    frame(b'D', &body)
}

pub fn error_response(severity: &str, sqlstate: &str, message: &str) -> Vec<u8> {
    frame(b'E', &error_fields(severity, sqlstate, message))
}

pub fn notice_response(severity: &str, sqlstate: &str, message: &str) -> Vec<u8> {
    frame(b'N', &error_fields(severity, sqlstate, message))
}

pub fn notification_response(pid: i32, channel: &str, payload: &str) -> Vec<u8> {
    frame(b'A', &[&pid.to_be_bytes(), format!("{channel}\0{payload}\0").as_bytes()].concat())
}

pub fn parse_complete() -> Vec<u8> {
    frame(b'1', &[])
}

pub fn bind_complete() -> Vec<u8> {
    frame(b'2', &[])
}

pub fn close_complete() -> Vec<u8> {
    frame(b'3', &[])
}

pub fn no_data() -> Vec<u8> {
    frame(b'n', &[])
}

pub fn empty_query_response() -> Vec<u8> {
    frame(b'I', &[])
}

pub fn portal_suspended() -> Vec<u8> {
    frame(b's', &[])
}

pub fn parameter_description(oids: &[u32]) -> Vec<u8> {
    let mut body = count(oids.len());
    body.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b't', &body)
}

fn error_fields(severity: &str, sqlstate: &str, message: &str) -> Vec<u8> {
    format!("S{severity}\0V{severity}\0C{sqlstate}\0M{message}\0\0").into_bytes()
}

fn count(number: usize) -> Vec<u8> {
    u16::try_from(number).expect("at most 65,535").to_be_bytes().to_vec()
}

fn authentication(code: u32, rest: &[u8]) -> String {
    match code {
        0 => "Ok".into(),
        3 => "CleartextPassword".into(),
        5 => "MD5Password".into(),
        10 => format!("SASL {}", show(rest)),
        11 => format!("SASLContinue {}", show(rest)),
        12 => format!("SASLFinal {}", show(rest)),
        other => format!("of type {other}"),
    }
}

/// Bytes for people: quoted, the beginning only if they are many.
fn show(bytes: &[u8]) -> String {
    const LIMIT: usize = 80;
    let head = bytes[..bytes.len().min(LIMIT)].escape_ascii();
    if bytes.len() > LIMIT { format!("\"{head}\"... ({} bytes)", bytes.len()) } else { format!("\"{head}\"") }
}

/// Takes fields off the front of a body; `None` where it is too short.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*first))
    }

    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    /// A length and so many bytes; the inner `None` is NULL.
    #[allow(clippy::option_option, reason = "too short, or NULL, or a value")]
    fn value(&mut self) -> Option<Option<Vec<u8>>> {
        let length = self.u32()?.cast_signed();
        let Ok(length) = usize::try_from(length) else { return (length == -1).then_some(None) };
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(value.to_vec()))
    }
}
