//! What is about to be written to one peer: usually a stretch of the other peer's buffer as it stands, sometimes bytes
//! that pgvalet put together.

use crate::net::{Buffer, Stream};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

/// Memory of an emptied spill that is worth keeping for the next client's turn.
const KEEP: usize = 64 * 1024;
/// How many of them: one client at a time has its turn on a worker, with a spill for each direction.
const SPARES_KEPT: usize = 2;

thread_local! {
    /// Memory of spills that are not in use, of this worker's clients.
    static SPARES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Bytes on their way from one peer's buffer to the other peer.
///
/// Either `direct` bytes at the front of the source buffer go out as they are, or everything goes through `spill`, in
/// which messages can be left out, put in and changed. The order is kept: once something was spilled, all that follows
/// is, until the spill has been written.
#[derive(Debug, Default)]
pub struct Outgoing {
    direct: usize,
    spill: BytesMut,
}

impl Outgoing {
    /// Whether there is nothing to write.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.direct == 0 && self.spill.is_empty()
    }

    /// Where the scan of the source goes on: behind what goes out as it stands.
    #[inline]
    #[must_use]
    pub fn cursor(&self) -> usize {
        self.direct
    }

    /// Bytes that wait in memory of their own.
    #[inline]
    #[must_use]
    pub fn spilled(&self) -> usize {
        self.spill.len()
    }

    /// Passes on the next `count` bytes of the source.
    #[inline]
    pub fn forward(&mut self, source: &mut Buffer, count: usize) {
        if self.spill.is_empty() {
            self.direct += count;
        } else {
            self.spill.extend_from_slice(&source.bytes()[..count]);
            source.advance(count);
        }
    }

    /// Leaves out the next `count` bytes of the source.
    #[inline]
    pub fn skip(&mut self, source: &mut Buffer, count: usize) {
        self.divert(source);
        source.advance(count);
    }

    /// Room for bytes of our own behind all that was passed on so far.
    #[inline]
    pub fn insert(&mut self, source: &mut Buffer) -> &mut BytesMut {
        self.divert(source);
        &mut self.spill
    }

    /// Forgets all that was not written.
    pub fn discard(&mut self, source: &mut Buffer) {
        source.advance(self.direct);
        self.direct = 0;
        self.spill.clear();
    }

    #[inline]
    fn divert(&mut self, source: &mut Buffer) {
        if self.spill.capacity() == 0 {
            self.spill = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        if self.direct > 0 {
            self.spill.extend_from_slice(&source.bytes()[..self.direct]);
            source.advance(self.direct);
            self.direct = 0;
        }
    }

    /// Writes until nothing is left; the count of bytes written is added to `sent`.
    #[inline]
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Buffer,
        stream: &mut Stream,
        sent: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.direct > 0 {
            let written = ready!(stream.poll_write(cx, &source.bytes()[..self.direct]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            source.advance(written);
            self.direct -= written;
            *sent += written as u64;
        }
        while !self.spill.is_empty() {
            let written = ready!(stream.poll_write(cx, &self.spill))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if written == self.spill.len() {
                self.spill.clear()
            } else {
                self.spill.advance(written)
            }
            *sent += written as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives memory back that is not in use; to be called at the end of each turn.
    #[inline]
    pub fn relax(&mut self) {
        if self.spill.capacity() > 0 && self.spill.is_empty() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let spill = std::mem::take(&mut self.spill);
        if spill.capacity() <= KEEP {
            SPARES.with_borrow_mut(|spares| {
                if spares.len() < SPARES_KEPT {
                    spares.push(spill);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Buffers;

    fn source(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        Buffers::default().equip(&mut buffer, bytes.len());
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
        buffer
    }

    #[test]
    fn what_is_only_passed_on_is_not_copied() {
        let mut from = source(b"abcdef");
        let mut out = Outgoing::default();
        out.forward(&mut from, 2);
        out.forward(&mut from, 2);
        assert_eq!((out.cursor(), out.spilled(), from.len()), (4, 0, 6));
    }

    #[test]
    fn order_is_kept_when_bytes_are_left_out_and_put_in() {
        let mut from = source(b"abcdef");
        let mut out = Outgoing::default();
        out.forward(&mut from, 2);
        out.skip(&mut from, 1);
        out.forward(&mut from, 1);
        out.insert(&mut from).extend_from_slice(b"XY");
        out.forward(&mut from, 2);
        assert_eq!(&out.spill[..], b"abdXYef");
        assert!(from.is_empty());
        out.discard(&mut from);
        assert!(out.is_empty());
    }
}
