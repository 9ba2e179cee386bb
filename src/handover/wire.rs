//! Messages over a Unix socket, with descriptors.
//!
//! A frame is the length of its message (4 bytes, big-endian), the number of descriptors (1 byte), and the message. The
//! descriptors travel with the first bytes. Calls block; each end is used by one thread for reading and one for writing.
//! Invariant: what the other side says is bounded before it is read, and descriptors that nobody asked for are closed.

use crate::handover::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use zeroize::Zeroizing;

/// Longest message. A client whose session is larger stays where it is.
pub const LONGEST: usize = 64 << 20;
/// Most descriptors in one frame.
pub const MOST_DESCRIPTORS: usize = 128;
/// Length and number of descriptors.
const HEADER: usize = 5;

/// Whether the process at the other end is one of our own user.
#[must_use]
pub fn is_of_same_user(stream: &UnixStream) -> bool {
    sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// A message as it is written.
///
/// # Errors
/// It is longer than [`LONGEST`].
pub fn encode(message: &Message) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut length = Length(0);
    rmp_serde::encode::write_named(&mut length, message).map_err(io::Error::other)?;
    if length.0 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    // With room for all of it: it does not move while it grows, and so leaves no secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    rmp_serde::encode::write_named(&mut *bytes, message).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Takes bytes and keeps only how many there were.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a message.
///
/// # Errors
/// The socket's, and those of [`encode`].
pub fn send(mut stream: &UnixStream, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(message)?;
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let [a, b, c, d] = (bytes.len() as u32).to_be_bytes();
    let header = [a, b, c, d, descriptors.len() as u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    // The descriptors have gone with the first byte.
    stream.write_all(&header[sent..])?;
    stream.write_all(&bytes)
}

/// Receives a message; `None` at the end of the stream.
///
/// # Errors
/// The socket's, and what is no message.
pub fn receive(mut stream: &UnixStream) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let mut descriptors = Vec::new();
    let mut filled = 0;
    while filled < HEADER {
        match receive_part(stream, &mut header[filled..], &mut descriptors)? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    let [a, b, c, d, expected] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > LONGEST || descriptors.len() != usize::from(expected) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is malformed"));
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut bytes)?;
    let message = rmp_serde::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(Some((message, descriptors)))
}

fn receive_part(stream: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(into)];
        match recvmsg(stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => break outcome?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::message::ClientState;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(is_of_same_user(&one));
        let (mut near, far) = UnixStream::pair().unwrap();
        let state =
            ClientState { user: "u".into(), input: vec![7; 300_000].into(), ..ClientState::default() };
        let sender = std::thread::spawn(move || {
            send(&one, &Message::Client(Box::new(state)), &[far.as_fd()]).unwrap();
            send(&one, &Message::Go, &[]).unwrap();
        });
        let (message, descriptors) = receive(&other).unwrap().unwrap();
        let Message::Client(state) = message else { panic!("{message:?}") };
        assert_eq!((state.user.as_str(), state.input.len(), descriptors.len()), ("u", 300_000, 1));
        assert!(matches!(receive(&other).unwrap(), Some((Message::Go, none)) if none.is_empty()));
        sender.join().unwrap();
        assert!(receive(&other).unwrap().is_none());
        // The one that came is the only one left of that end.
        drop(descriptors);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_a_newer_version_adds_is_passed_over_and_what_is_missing_has_its_default() {
        #[derive(serde::Serialize)]
        struct Newer {
            listeners: Vec<bool>,
            metrics: bool,
            shapes: u64,
            invented: String,
        }
        #[derive(serde::Serialize)]
        enum Said {
            Offer(Newer),
        }
        let said = Newer { listeners: vec![true], metrics: false, shapes: 3, invented: "x".into() };
        let bytes = rmp_serde::to_vec_named(&Said::Offer(said)).unwrap();
        let Message::Offer(offer) = rmp_serde::from_slice(&bytes).unwrap() else { panic!() };
        assert_eq!((offer.listeners, offer.shapes, offer.paused.len()), (vec![true], 3, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_wait_for_what_is_too_long(
            bytes in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(&bytes).unwrap();
            drop(one);
            while let Ok(Some(_)) = receive(&other) {}
        }
    }
}
