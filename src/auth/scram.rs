//! What both sides of SCRAM-SHA-256 share (RFC 5802, RFC 7677; PostgreSQL's documentation: "SASL Authentication").
//!
//! Owns the names of the mechanisms, nonces, the gs2 header of a client, and the reader of attributes. Does not own the
//! order of messages: that is `scram_client` and `scram_server`. Invariant: a message is bounded, not empty and free of
//! NUL before anything else is read from it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::AuthError;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Longest message taken from a client, as in PostgreSQL.
pub const MAX_CLIENT_MESSAGE: usize = 1024;
/// Longest message taken from a server; PostgreSQL's own have about 100 bytes.
pub const MAX_SERVER_MESSAGE: usize = 4096;
/// Highest iteration count taken from a server: about ten seconds of PBKDF2. PostgreSQL's default is 4096 and usual
/// advice is below a million; without a limit, a server could keep a thread busy for an hour per login.
pub const MAX_ITERATIONS: u32 = 10_000_000;

/// One side's contribution to the nonce of an exchange: printable ASCII without comma, not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// Bytes of randomness in a nonce, as in PostgreSQL.
    pub const ENTROPY: usize = 18;

    /// A nonce from fresh random bytes. Never use the same bytes twice.
    pub fn new(entropy: [u8; Nonce::ENTROPY]) -> Nonce {
        Nonce(STANDARD.encode(entropy))
    }

    /// A nonce from text, for test vectors; `None` where the text is not printable.
    pub fn from_text(text: &str) -> Option<Nonce> {
        is_printable(text.as_bytes()).then(|| Nonce(text.to_owned()))
    }

    /// The text in messages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a client says about channel binding, and so which mechanism it selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// No binding (`n`): no TLS, or it is switched off.
    None,
    /// The client could bind, but the server offered only [`SCRAM_SHA_256`] (`y`): a server that did offer
    /// [`SCRAM_SHA_256_PLUS`] then knows that somebody removed it.
    NotOffered,
    /// Binding to the server's certificate (`p=tls-server-end-point`, RFC 5929), with the hash of that certificate.
    TlsServerEndPoint(Vec<u8>),
}

/// The one binding type that PostgreSQL knows.
pub(super) const TLS_SERVER_END_POINT: &str = "tls-server-end-point";

impl ChannelBinding {
    /// The mechanism to select.
    pub fn mechanism(&self) -> &'static str {
        match self {
            ChannelBinding::None | ChannelBinding::NotOffered => SCRAM_SHA_256,
            ChannelBinding::TlsServerEndPoint(_) => SCRAM_SHA_256_PLUS,
        }
    }

    pub(super) fn gs2_header(&self) -> &'static str {
        match self {
            ChannelBinding::None => "n,,",
            ChannelBinding::NotOffered => "y,,",
            ChannelBinding::TlsServerEndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// The value of the attribute `c`: header and binding data in base64.
    pub(super) fn attribute(&self) -> String {
        let mut input = self.gs2_header().as_bytes().to_vec();
        if let ChannelBinding::TlsServerEndPoint(hash) = self {
            input.extend_from_slice(hash);
        }
        STANDARD.encode(input)
    }
}

/// Reads a message attribute by attribute (`name=value`, separated by commas).
///
/// Reading past the end finds NUL, as in a C string: so errors read like PostgreSQL's.
pub(super) struct Attributes<'a> {
    message: &'a [u8],
    /// Where the next attribute starts; one past the message's length once the last was read.
    at: usize,
}

impl<'a> Attributes<'a> {
    /// # Errors
    /// A message that is empty, longer than `limit` or holds a NUL.
    pub(super) fn new(message: &'a [u8], limit: usize) -> Result<Attributes<'a>, AuthError> {
        if message.is_empty() {
            return Err(AuthError::malformed("The message is empty."));
        }
        if message.len() > limit {
            return Err(AuthError::malformed(format!("The message is longer than {limit} bytes.")));
        }
        if message.contains(&0) {
            return Err(AuthError::malformed("Message length does not match input length."));
        }
        Ok(Attributes { message, at: 0 })
    }

    /// The next byte, NUL at the end.
    pub(super) fn peek(&self) -> u8 {
        self.message.get(self.at).copied().unwrap_or(0)
    }

    /// Moves over one byte that was peeked at.
    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    /// How much of the message has been read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Whether everything was read. A comma after the last attribute is not the end.
    pub(super) fn is_end(&self) -> bool {
        self.at > self.message.len()
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn require(&mut self, name: u8) -> Result<&'a [u8], AuthError> {
        let found = self.peek();
        if found != name {
            return Err(AuthError::malformed(format!(
                "Expected attribute \"{}\" but found \"{}\".",
                char::from(name),
                printable(found)
            )));
        }
        self.value(name)
    }

    /// Name and value of the next attribute.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), AuthError> {
        match self.peek() {
            0 => Err(AuthError::malformed("Attribute expected, but found end of string.")),
            name if name.is_ascii_alphabetic() => Ok((name, self.value(name)?)),
            other => Err(AuthError::malformed(format!(
                "Attribute expected, but found invalid character \"{}\".",
                printable(other)
            ))),
        }
    }

    fn value(&mut self, name: u8) -> Result<&'a [u8], AuthError> {
        let Some(rest) = self.message.get(self.at + 1..).and_then(|rest| rest.strip_prefix(b"=")) else {
            return Err(AuthError::malformed(format!(
                "Expected character \"=\" for attribute \"{}\".",
                char::from(name)
            )));
        };
        let length = rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len());
        self.at += 2 + length + 1;
        Ok(&rest[..length])
    }
}

/// A byte of a peer for an error message: itself in quotes if printable, else in hex.
pub(super) fn printable(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("0x{byte:02x}") }
}

/// Some bytes of a peer for an error message: at most 30, with `?` for what is not printable.
pub(super) fn printable_text(bytes: &[u8]) -> String {
    bytes.iter().take(30).map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '?' }).collect()
}

/// `printable` of RFC 5802: what a nonce may consist of.
pub(super) fn is_printable(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| byte.is_ascii_graphic() && byte != b',')
}

/// A key, proof or signature from base64; `None` unless it is canonical and of 32 bytes.
pub(super) fn decode_key(base64: &[u8]) -> Option<[u8; 32]> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(message: &[u8]) -> Attributes<'_> {
        Attributes::new(message, 100).unwrap()
    }

    #[test]
    fn attributes_are_read_in_order() {
        let mut attributes = attributes(b"r=a=b,s=,x=\xff");
        assert_eq!(attributes.require(b'r'), Ok(&b"a=b"[..]));
        assert_eq!(attributes.next(), Ok((b's', &b""[..])));
        assert!(!attributes.is_end());
        assert_eq!(attributes.next(), Ok((b'x', &b"\xff"[..])));
        assert!(attributes.is_end());
    }

    #[test]
    fn malformed_attributes_are_described_as_postgresql_does() {
        let detail = |error: AuthError| error.detail().unwrap().to_owned();
        assert_eq!(
            detail(attributes(b"s=1").require(b'r').unwrap_err()),
            "Expected attribute \"r\" but found \"'s'\"."
        );
        assert_eq!(
            detail(attributes(b"r").require(b'r').unwrap_err()),
            "Expected character \"=\" for attribute \"r\"."
        );
        assert_eq!(
            detail(attributes(b"\x07=1").next().unwrap_err()),
            "Attribute expected, but found invalid character \"0x07\"."
        );
        let mut trailing_comma = attributes(b"r=1,");
        trailing_comma.next().unwrap();
        assert!(!trailing_comma.is_end());
        assert_eq!(
            detail(trailing_comma.next().unwrap_err()),
            "Attribute expected, but found end of string."
        );
        assert_eq!(
            detail(trailing_comma.require(b's').unwrap_err()),
            "Expected attribute \"s\" but found \"0x00\"."
        );
    }

    #[test]
    fn messages_are_bounded_not_empty_and_without_nul() {
        for message in [&b""[..], b"r=\0", &[b'r'; 101]] {
            assert!(Attributes::new(message, 100).is_err());
        }
        assert!(Attributes::new(&[b'r'; 100], 100).is_ok());
    }

    #[test]
    fn nonces_are_printable() {
        assert_eq!(Nonce::new([0xff; 18]).as_str(), "////////////////////////");
        for text in ["", "a,b", "a b", "a\u{e4}", "a\u{7f}"] {
            assert_eq!(Nonce::from_text(text), None);
        }
    }
}
