//! The frame of a message: one tag byte, then a length that counts itself and the body.
//!
//! [`Header::parse`] works on partial input: too few bytes is `None`, never an error.

use thiserror::Error;

/// Bytes of a header: the tag and the length.
pub const HEADER: usize = 5;

/// PostgreSQL's limit for a message that can carry data (`PQ_LARGE_MESSAGE_LIMIT`, just below 1 GiB).
pub const LARGE_LIMIT: u32 = 0x3fff_fffe;

/// PostgreSQL's limit for every other message from a client (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_LIMIT: u32 = 10_000;

/// The fixed part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub tag: u8,
    /// Bytes after the header.
    pub body: u32,
}

/// A header that no conforming peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The tag means nothing in this direction.
    #[error("invalid frontend message type {0}")]
    UnknownTag(u8),
    /// The length is below 4 or above the limit of its message.
    #[error("invalid message length")]
    Length,
}

impl Header {
    /// Reads the header at the start of `input`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`FrameError::Length`] for a length below 4 or above 2 GiB.
    #[inline]
    pub fn parse(input: &[u8]) -> Result<Option<Header>, FrameError> {
        let Some(&[tag, a, b, c, d]) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        if !(4..=i32::MAX as u32).contains(&length) {
            return Err(FrameError::Length);
        }
        Ok(Some(Header { tag, body: length - 4 }))
    }

    /// Bytes of the whole message, header included.
    #[inline]
    #[must_use]
    pub fn total(self) -> usize {
        HEADER + self.body as usize
    }

    /// Checks a header that came from a client as PostgreSQL does: known tag, length within the limit of its kind.
    ///
    /// # Errors
    /// [`FrameError`] with the text that PostgreSQL sends before it ends the connection.
    #[inline]
    pub fn check_frontend(self) -> Result<(), FrameError> {
        let limit = match self.tag {
            b'Q' | b'P' | b'B' | b'F' | b'd' => LARGE_LIMIT,
            b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL_LIMIT,
            other => return Err(FrameError::UnknownTag(other)),
        };
        if self.body + 4 > limit { Err(FrameError::Length) } else { Ok(()) }
    }
}

/// Splits a NUL-terminated string off the front of `input`: the string without its NUL, and the rest.
#[inline]
#[must_use]
pub fn cstr(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|&byte| byte == 0)?;
    Some((&input[..end], &input[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_header_is_not_an_error() {
        for length in 0..HEADER {
            assert_eq!(Header::parse(&b"Q\0\0\0\x08"[..length]), Ok(None));
        }
        assert_eq!(Header::parse(b"Q\0\0\0\x08rest"), Ok(Some(Header { tag: b'Q', body: 4 })));
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        assert_eq!(Header::parse(b"Q\0\0\0\x03"), Err(FrameError::Length));
        assert_eq!(Header::parse(b"Q\xff\xff\xff\xff"), Err(FrameError::Length));
        assert_eq!(Header { tag: b'S', body: SMALL_LIMIT }.check_frontend(), Err(FrameError::Length));
        assert_eq!(Header { tag: b'Q', body: LARGE_LIMIT }.check_frontend(), Err(FrameError::Length));
        assert_eq!(Header { tag: b'Q', body: LARGE_LIMIT - 4 }.check_frontend(), Ok(()));
        assert_eq!(Header { tag: b'p', body: 4 }.check_frontend(), Err(FrameError::UnknownTag(b'p')));
    }
}
