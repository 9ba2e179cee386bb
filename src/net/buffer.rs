//! Buffers that are only held while there is something in them.
//!
//! Each worker keeps a small stock ([`Buffers`], last in first out, so that the next one is still in the cache). A
//! buffer that outgrew its usual size is not taken back.

use std::cell::RefCell;
use zeroize::Zeroize;

/// Usual size of a buffer.
pub const SMALL: usize = 16 * 1024;
/// Size for a connection that keeps filling small ones.
pub const LARGE: usize = 64 * 1024;

/// Buffers of each size that a worker keeps for later.
const STOCK: usize = 256;
/// Of these, those that it keeps when they are not needed for a while.
const IDLE_STOCK: usize = 8;

/// Bytes received and not yet passed on: `data[start..end]`.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What it holds.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// How much it holds.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether it holds nothing.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it has memory of its own.
    #[inline]
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        !self.data.is_empty()
    }

    /// How much it can hold.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no free space behind what it holds.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end == self.data.len()
    }

    /// Drops the first `count` bytes.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Drops the first `count` bytes and leaves nothing of them in memory: they were a secret.
    pub fn wipe(&mut self, count: usize) {
        let end = self.start + count.min(self.len());
        self.data[self.start..end].zeroize();
        self.advance(end - self.start);
    }

    /// Free space behind what it holds. Moves the bytes to the front when they stand in the way.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 && self.data.len() - self.end < self.data.len() / 2 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.data[self.end..]
    }

    /// Says that `count` bytes were put into [`Buffer::space`].
    #[inline]
    pub fn filled(&mut self, count: usize) {
        debug_assert!(self.end + count <= self.data.len());
        self.end += count;
    }

    /// Moves what it holds to the front and leaves nothing of it behind.
    fn pull_up(&mut self) {
        if self.start > 0 {
            let (length, end) = (self.len(), self.end);
            self.data.copy_within(self.start..end, 0);
            self.data[length..end].zeroize();
            (self.start, self.end) = (0, length);
        }
    }

    /// Makes room for `size` bytes in all.
    pub fn grow(&mut self, size: usize) {
        if self.data.len() < size {
            let mut data = vec![0; size].into_boxed_slice();
            data[..self.len()].copy_from_slice(self.bytes());
            self.end -= self.start;
            self.start = 0;
            self.data = data;
        }
    }

    /// Gives the memory that is not needed back, for one who may have to wait long.
    pub fn shrink(&mut self, buffers: &Buffers) {
        if self.len() * 4 <= self.data.len() {
            let small = Buffer { data: self.bytes().into(), start: 0, end: self.len() };
            let large = std::mem::replace(self, small);
            buffers.keep(large);
        }
    }
}

/// A worker's stock of buffers.
#[derive(Debug, Default)]
pub struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
}

impl Buffers {
    /// Makes sure that `buffer` can hold at least `size` bytes in all.
    #[inline]
    pub fn equip(&self, buffer: &mut Buffer, size: usize) {
        if buffer.data.len() >= size {
            return;
        }
        if size <= SMALL
            && buffer.data.is_empty()
            && let Some(data) = self.small.borrow_mut().pop()
        {
            buffer.data = data;
            return;
        }
        self.equip_anew(buffer, size);
    }

    /// [`Buffers::equip`] for what may be a secret: nothing of it stays where it was before, and [`Buffer::space`] will not
    /// move it.
    pub fn equip_for_secrets(&self, buffer: &mut Buffer, size: usize) {
        buffer.pull_up();
        if buffer.is_empty() || buffer.data.len() >= size {
            return self.equip(buffer, size);
        }
        let mut before = std::mem::take(buffer);
        self.equip(buffer, size);
        let held = before.len();
        buffer.data[..held].copy_from_slice(before.bytes());
        buffer.end = held;
        before.wipe(held);
        self.keep(before);
    }

    /// The rarer ways to equip a buffer: the stock is empty, or it holds something and needs to be larger.
    #[cold]
    fn equip_anew(&self, buffer: &mut Buffer, size: usize) {
        let (stock, size) = if size <= SMALL { (&self.small, SMALL) } else { (&self.large, size.max(LARGE)) };
        let kept = if size <= LARGE { stock.borrow_mut().pop() } else { None };
        let mut data = kept.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        let held = buffer.len();
        data[..held].copy_from_slice(buffer.bytes());
        self.keep(std::mem::replace(buffer, Buffer { data, start: 0, end: held }));
    }

    /// Takes the memory of `buffer` back if it holds nothing.
    #[inline]
    pub fn reclaim(&self, buffer: &mut Buffer) {
        if buffer.is_empty() && buffer.is_allocated() {
            let mut small = self.small.borrow_mut();
            if buffer.data.len() == SMALL && small.len() < STOCK {
                small.push(std::mem::take(&mut buffer.data));
            } else {
                drop(small);
                self.keep(std::mem::take(buffer));
            }
        }
    }

    /// Lets a part of the stock go; called a few times a second, so that memory comes back after a burst.
    pub fn trim(&self) {
        for stock in [&self.small, &self.large] {
            let mut stock = stock.borrow_mut();
            if stock.len() > IDLE_STOCK {
                let kept = (stock.len() - stock.len().div_ceil(16)).max(IDLE_STOCK);
                // Those at the front have not been used for longest.
                let surplus = stock.len() - kept;
                stock.drain(..surplus);
            }
        }
    }

    /// Buffers in stock.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.small.borrow().len() + self.large.borrow().len()
    }

    fn keep(&self, buffer: Buffer) {
        let stock = match buffer.data.len() {
            SMALL => &self.small,
            LARGE => &self.large,
            _ => return,
        };
        let mut stock = stock.borrow_mut();
        if stock.len() < STOCK {
            stock.push(buffer.data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &mut Buffer, bytes: &[u8]) {
        buffer.space()[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn an_empty_buffer_goes_back_to_the_stock_and_a_full_one_stays() {
        let stock = Buffers::default();
        let mut buffer = Buffer::default();
        stock.equip(&mut buffer, 1);
        assert_eq!(buffer.capacity(), SMALL);
        put(&mut buffer, b"abc");
        stock.reclaim(&mut buffer);
        assert_eq!(buffer.bytes(), b"abc");
        buffer.advance(3);
        stock.reclaim(&mut buffer);
        assert!(!buffer.is_allocated());
        assert_eq!(stock.small.borrow().len(), 1);
    }

    #[test]
    fn growing_and_shrinking_keep_what_is_held() {
        let stock = Buffers::default();
        let mut buffer = Buffer::default();
        stock.equip(&mut buffer, SMALL);
        put(&mut buffer, b"xxhello");
        buffer.advance(2);
        stock.equip(&mut buffer, LARGE);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"hello"[..], LARGE));
        buffer.grow(LARGE * 3);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"hello"[..], LARGE * 3));
        buffer.shrink(&stock);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"hello"[..], 5));
        stock.equip(&mut buffer, 6);
        assert_eq!((buffer.bytes(), buffer.capacity()), (&b"hello"[..], SMALL));
    }

    #[test]
    fn space_is_made_by_moving_a_small_rest_to_the_front() {
        let stock = Buffers::default();
        let mut buffer = Buffer::default();
        stock.equip(&mut buffer, SMALL);
        put(&mut buffer, &[7; SMALL]);
        buffer.advance(SMALL - 2);
        assert_eq!(buffer.space().len(), SMALL - 2);
        assert_eq!(buffer.bytes(), [7, 7]);
    }
}
