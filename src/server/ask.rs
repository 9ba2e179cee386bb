//! Questions of pgvalet's own that carry a value from a client, so the value is a parameter and never a part of the SQL.

use crate::protocol::{ErrorFields, backend, frontend};
use crate::server::{Reader, Server, ServerError, ready_status};
use bytes::{BufMut, BytesMut};
use zeroize::{Zeroize, Zeroizing};

/// Longest reply; questions are about one thing.
const MAX_REPLY: usize = 1 << 20;

/// A row of text values; `None` is NULL. They may be secrets.
pub type Row = Vec<Option<Zeroizing<String>>>;

impl Server {
    /// Runs `sql`, which has the one parameter `$1`, on a server that no client has.
    ///
    /// # Errors
    /// [`ServerError::Refused`] for an ErrorResponse, after which the server can still be used; any other error means
    /// that it must be closed.
    pub async fn ask(&mut self, sql: &str, parameter: &str) -> Result<Vec<Row>, ServerError> {
        let mut out = BytesMut::new();
        frontend::parse(&mut out, b"", &[sql.as_bytes(), &[0, 0, 0]].concat());
        let value = parameter.as_bytes();
        let length =
            i32::try_from(value.len()).map_err(|_| ServerError::Protocol("the value is too long"))?;
        frontend::bind_prefix(&mut out, b"", b"", value.len() + 10);
        out.put_slice(&[0, 0, 0, 1]);
        out.put_i32(length);
        out.put_slice(value);
        out.put_slice(&[0, 0]);
        frontend::execute(&mut out, b"");
        frontend::sync(&mut out);
        self.stream.write_all(&out).await?;

        let (mut reader, mut rows, mut refused) = (Reader::default(), Vec::new(), None);
        let mut received = 0;
        loop {
            let (tag, mut body) = reader.next(&mut self.stream).await?;
            received += body.len();
            if received > MAX_REPLY {
                return Err(ServerError::Protocol("the reply is too long"));
            }
            match tag {
                b'D' => {
                    let row = backend::read_nullable_row(&body)
                        .ok_or(ServerError::Protocol("malformed DataRow"))?;
                    let text = |value: &[u8]| Zeroizing::new(String::from_utf8_lossy(value).into_owned());
                    rows.push(row.into_iter().map(|value| value.map(text)).collect());
                    body[..].zeroize();
                }
                b'E' => {
                    let error = ServerError::Refused(body.to_vec().into());
                    if ErrorFields::new(&body).is_fatal() {
                        return Err(ServerError::Lost(Some(Box::new(error))));
                    }
                    refused = Some(error);
                }
                b'Z' => {
                    self.status = ready_status(&body)?;
                    return refused.map_or(Ok(rows), Err);
                }
                b'S' | b'N' | b'A' | b'1' | b'2' | b'C' | b'I' => {}
                _ => return Err(ServerError::Protocol("unexpected reply to a question")),
            }
        }
    }
}
