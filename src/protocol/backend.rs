//! Messages that pgvalet itself sends to a client, and the parts of a server's messages that it reads.

use crate::protocol::frame::{HEADER, cstr};
use bytes::{BufMut, BytesMut};

/// A ParseComplete, whole.
pub const PARSE_COMPLETE: [u8; HEADER] = [b'1', 0, 0, 0, 4];
/// A CloseComplete, whole.
pub const CLOSE_COMPLETE: [u8; HEADER] = [b'3', 0, 0, 0, 4];
/// A BindComplete, whole.
pub const BIND_COMPLETE: [u8; HEADER] = [b'2', 0, 0, 0, 4];
/// A NoData, whole.
pub const NO_DATA: [u8; HEADER] = [b'n', 0, 0, 0, 4];
/// A PortalSuspended, whole.
pub const PORTAL_SUSPENDED: [u8; HEADER] = [b's', 0, 0, 0, 4];
/// An EmptyQueryResponse, whole.
pub const EMPTY_QUERY_RESPONSE: [u8; HEADER] = [b'I', 0, 0, 0, 4];
/// A ParameterDescription without parameters, whole.
pub const NO_PARAMETERS: [u8; 7] = [b't', 0, 0, 0, 6, 0, 0];

/// The status that ReadyForQuery carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// Outside a transaction.
    Idle,
    /// Inside one.
    InTransaction,
    /// Inside one that failed.
    Failed,
}

impl TxStatus {
    /// Reads the byte of a ReadyForQuery.
    #[inline]
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<TxStatus> {
        match byte {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::InTransaction),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        }
    }

    /// The byte that ReadyForQuery carries for it.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            TxStatus::Idle => b'I',
            TxStatus::InTransaction => b'T',
            TxStatus::Failed => b'E',
        }
    }
}

fn message(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// Appends an Authentication message of `code` with its data.
pub fn authentication(out: &mut BytesMut, code: u32, data: &[u8]) {
    message(out, b'R', |body| {
        body.put_u32(code);
        body.put_slice(data);
    });
}

/// Appends a ParameterStatus.
pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    parameter_status_of(out, name.as_bytes(), value.as_bytes());
}

/// The same in an encoding that nobody looks at.
pub fn parameter_status_of(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    message(out, b'S', |body| {
        put_cstr(body, name);
        put_cstr(body, value);
    });
}

/// Appends a BackendKeyData.
pub fn backend_key_data(out: &mut BytesMut, pid: i32, secret: &[u8]) {
    message(out, b'K', |body| {
        body.put_i32(pid);
        body.put_slice(secret);
    });
}

/// Appends a NegotiateProtocolVersion: the newest minor version served, and the options not understood.
pub fn negotiate_protocol_version<'a>(
    out: &mut BytesMut,
    minor: u16,
    unknown: impl Iterator<Item = &'a str>,
) {
    message(out, b'v', |body| {
        body.put_u32((3 << 16) | u32::from(minor));
        let at = body.len();
        body.put_u32(0);
        let mut count = 0u32;
        for option in unknown {
            put_cstr(body, option.as_bytes());
            count += 1;
        }
        body[at..at + 4].copy_from_slice(&count.to_be_bytes());
    });
}

/// Appends a ReadyForQuery.
pub fn ready_for_query(out: &mut BytesMut, status: TxStatus) {
    message(out, b'Z', |body| body.put_u8(status.byte()));
}

/// A column of a RowDescription; no table is behind it.
#[derive(Debug, Clone, Copy)]
pub struct ColumnMeta<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub oid: u32,
    /// Bytes of a value, -1 if they vary.
    pub size: i16,
    /// 0: text, 1: binary.
    pub format: i16,
}

/// Appends a RowDescription.
pub fn row_description<'a>(out: &mut BytesMut, columns: impl ExactSizeIterator<Item = ColumnMeta<'a>>) {
    message(out, b'T', |body| {
        body.put_u16(columns.len() as u16);
        for column in columns {
            put_cstr(body, column.name.as_bytes());
            body.put_u32(0);
            body.put_u16(0);
            body.put_u32(column.oid);
            body.put_i16(column.size);
            body.put_i32(-1);
            body.put_i16(column.format);
        }
    });
}

/// Appends a DataRow of encoded values; `None` is NULL.
pub fn data_row(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<impl AsRef<[u8]>>>) {
    message(out, b'D', |body| {
        body.put_u16(values.len() as u16);
        for value in values {
            match value {
                Some(value) => {
                    body.put_i32(value.as_ref().len() as i32);
                    body.put_slice(value.as_ref());
                }
                None => body.put_i32(-1),
            }
        }
    });
}

/// Appends a CommandComplete.
pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |body| put_cstr(body, tag.as_bytes()));
}

/// An ErrorResponse or NoticeResponse of pgvalet's own.
#[derive(Debug, Clone, Copy)]
pub struct ErrorMessage<'a> {
    /// `ERROR`, `FATAL`, `NOTICE` ...
    pub severity: &'a str,
    /// SQLSTATE.
    pub code: &'a str,
    /// What happened.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What to do about it.
    pub hint: Option<&'a str>,
}

impl ErrorMessage<'_> {
    /// Appends it as an ErrorResponse, or as a NoticeResponse for a severity below ERROR.
    pub fn write(&self, out: &mut BytesMut) {
        let tag = if matches!(self.severity, "ERROR" | "FATAL" | "PANIC") { b'E' } else { b'N' };
        message(out, tag, |body| {
            for (field, text) in
                [(b'S', self.severity), (b'V', self.severity), (b'C', self.code), (b'M', self.message)]
            {
                body.put_u8(field);
                put_cstr(body, text.as_bytes());
            }
            for (field, text) in [(b'D', self.detail), (b'H', self.hint)] {
                if let Some(text) = text {
                    body.put_u8(field);
                    put_cstr(body, text.as_bytes());
                }
            }
            body.put_u8(0);
        });
    }
}

/// The fields of an ErrorResponse or NoticeResponse that a server sent, read in place.
#[derive(Debug, Clone, Copy)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of the message; a body cut short gives the fields that are whole.
    #[must_use]
    pub fn new(body: &'a [u8]) -> ErrorFields<'a> {
        ErrorFields { body }
    }

    /// All (field type, text) pairs.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (&field, after) = rest.split_first().filter(|(field, _)| **field != 0)?;
            let (text, after) = cstr(after)?;
            rest = after;
            Some((field, text))
        })
    }

    /// The text of one field.
    #[must_use]
    pub fn get(&self, wanted: u8) -> Option<&'a [u8]> {
        self.iter().find(|(field, _)| *field == wanted).map(|(_, text)| text)
    }

    /// SQLSTATE; `XX000` if the server sent none.
    #[must_use]
    pub fn code(&self) -> &'a [u8] {
        self.get(b'C').unwrap_or(b"XX000")
    }

    /// Whether the server ends the connection after this.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        // V is never translated; servers before 9.6 and some proxies have S only.
        matches!(self.get(b'V').or_else(|| self.get(b'S')), Some(b"FATAL" | b"PANIC"))
    }

    /// The primary message, for logs.
    #[must_use]
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.get(b'M').unwrap_or(b"(no message)")).into_owned()
    }
}

/// Appends `body`, an ErrorResponse's, with another severity; the rest word for word.
pub fn error_with_severity(out: &mut BytesMut, body: &[u8], severity: &str) {
    message(out, b'E', |to| {
        for (field, text) in ErrorFields::new(body).iter() {
            to.put_u8(field);
            put_cstr(to, if matches!(field, b'S' | b'V') { severity.as_bytes() } else { text });
        }
        to.put_u8(0);
    });
}

/// Reads a ParameterStatus body: name and value.
#[must_use]
pub fn read_parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstr(body)?;
    match cstr(rest)? {
        (value, []) => Some((name, value)),
        _ => None,
    }
}

/// Appends a NotificationResponse.
pub fn notification(out: &mut BytesMut, pid: i32, channel: &[u8], payload: &[u8]) {
    message(out, b'A', |body| {
        body.put_i32(pid);
        put_cstr(body, channel);
        put_cstr(body, payload);
    });
}

/// Reads the body of a NotificationResponse: the process that sent it, the channel, the payload.
#[must_use]
pub fn read_notification(body: &[u8]) -> Option<(i32, &[u8], &[u8])> {
    let (pid, rest) = body.split_first_chunk::<4>()?;
    let (channel, payload) = read_parameter_status(rest)?;
    Some((i32::from_be_bytes(*pid), channel, payload))
}

/// Reads the columns of a DataRow as text; `None` for a malformed one. NULL reads as an empty column.
#[must_use]
pub fn read_data_row(body: &[u8]) -> Option<Vec<&[u8]>> {
    let values = read_nullable_row(body)?.into_iter();
    Some(values.map(Option::unwrap_or_default).collect())
}

/// The values of a DataRow; `None` for NULL.
#[must_use]
pub fn read_nullable_row(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (&count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::with_capacity(usize::from(u16::from_be_bytes(count)).min(64));
    for _ in 0..u16::from_be_bytes(count) {
        let (&length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(length));
        let (value, after) = after.split_at_checked(length.unwrap_or(0))?;
        columns.push(length.is_ok().then_some(value));
        rest = after;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Header;

    #[test]
    fn an_error_written_is_an_error_read() {
        let mut out = BytesMut::new();
        let error = ErrorMessage {
            severity: "FATAL",
            code: "53300",
            message: "no",
            detail: None,
            hint: Some("wait"),
        };
        error.write(&mut out);
        let header = Header::parse(&out).unwrap().unwrap();
        assert_eq!((header.tag, header.total()), (b'E', out.len()));
        let fields = ErrorFields::new(&out[HEADER..]);
        assert_eq!(fields.code(), b"53300");
        assert!(fields.is_fatal());
        assert_eq!(fields.get(b'H'), Some(&b"wait"[..]));
        assert_eq!(fields.get(b'D'), None);
    }

    #[test]
    fn an_error_without_sqlstate_or_cut_short_is_still_an_error() {
        assert_eq!(ErrorFields::new(b"Mhello\0\0").code(), b"XX000");
        assert_eq!(ErrorFields::new(b"Mhel").message(), "(no message)");
        assert!(!ErrorFields::new(b"").is_fatal());
    }

    #[test]
    fn data_rows_are_read_and_malformed_ones_refused() {
        let mut out = BytesMut::new();
        data_row(&mut out, [Some("a"), None, Some("")].into_iter());
        assert_eq!(read_data_row(&out[HEADER..]), Some(vec![&b"a"[..], b"", b""]));
        assert_eq!(read_data_row(&out[HEADER..out.len() - 1]), None);
        assert_eq!(read_data_row(b"\0\x01\x7f\xff\xff\xffx"), None);
    }
}
