//! `--reboot`, by which pgbouncer's init scripts restart it: the process that runs is asked to have a new one take its place.
//!
//! Asks as the console's own user, over the Unix socket of the configuration. Who nobody answers starts as if not asked.

use crate::config::General;
use crate::net::unix::{for_system, is_abstract, socket_path};
use crate::protocol::backend::ErrorFields;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, frontend};
use crate::runtime::daemon::become_user;
use bytes::{Buf, BytesMut};
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long the other process may take for an answer: longer than it gives the new one.
const LIMIT: Duration = Duration::from_secs(90);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another process has taken the place of the one that ran.
    Replaced,
    /// None runs.
    NobodyThere,
}

/// Asks the process that listens on the Unix socket of `general` to have a new one take its place.
///
/// # Errors
/// Why it has not, for whoever restarts it.
pub fn ask(general: &General, user: Option<&str>) -> Result<Outcome, String> {
    // The console believes who runs as the same user.
    if let Some(name) = user.or(general.user.as_deref()) {
        become_user(name)?;
    }
    let Some(directory) = &general.unix_socket_dir else {
        return Err("--reboot needs the Unix socket of the process that runs: set unix_socket_dir".into());
    };
    let path = socket_path(directory, general.listen_port);
    let stream = match connect(&path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Outcome::NobodyThere);
        }
        Err(error) => {
            return Err(format!("cannot reach the process that listens on {}: {error}", path.display()));
        }
    };
    converse(stream).map_err(|error| {
        format!("the process that listens on {} was not replaced: {error}", path.display())
    })?;
    Ok(Outcome::Replaced)
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    if is_abstract(path) {
        let name = for_system(path);
        return UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name.as_os_str().as_bytes()[1..])?);
    }
    UnixStream::connect(path)
}

/// Logs in, asks, and waits for the answer.
fn converse(mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut out = BytesMut::new();
    frontend::startup(&mut out, [("user", "pgbouncer"), ("database", "pgbouncer")].into_iter());
    stream.write_all(&out)?;
    let mut input = BytesMut::new();
    let mut asked = false;
    loop {
        let (tag, body) = next(&mut stream, &mut input)?;
        match tag {
            b'E' => return Err(io::Error::other(ErrorFields::new(&body).message())),
            b'R' if body != [0; 4] => {
                let text = "it wants a password: run this as the user that the process runs as";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            b'C' => return Ok(()),
            b'Z' if !asked => {
                asked = true;
                out.clear();
                frontend::query(&mut out, "UPGRADE");
                stream.write_all(&out)?;
            }
            b'Z' => return Err(io::Error::other("it gave no answer")),
            _ => {}
        }
    }
}

/// The next message: its tag and its body.
fn next(stream: &mut UnixStream, input: &mut BytesMut) -> io::Result<(u8, Vec<u8>)> {
    loop {
        let header = Header::parse(input).map_err(io::Error::other)?;
        if let Some(header) = header.filter(|header| input.len() >= header.total()) {
            let body = input[HEADER..header.total()].to_vec();
            input.advance(header.total());
            return Ok((header.tag, body));
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => input.extend_from_slice(&piece[..count]),
        }
    }
}
