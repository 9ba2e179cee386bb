//! A fake PostgreSQL that does what a real one cannot be made to do, exactly as told.
//!
//! It listens on a port of its own and plays one list of acts per connection, in the order in which connections come. What
//! went wrong (bytes that were not expected, a connection that ended early) is reported by [`ScriptedServer::finish`].
//! Cancel requests may come at any time and are kept apart; they use up no list.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::stream::Stream;
use super::{DEADLINE, Endpoint, backend, eventually, frontend};

/// One thing that the server does on a connection.
#[derive(Debug)]
pub enum Act {
    /// Takes the startup packet (refusing encryption) and logs the client in without a password.
    Login,
    /// Takes the startup packet (refusing encryption) and sends nothing.
    Startup,
    /// Exactly these bytes must come.
    Expect(Vec<u8>),
    /// A message with this tag must come.
    ExpectTag(u8),
    /// Messages are thrown away until one with this tag has come.
    SkipTo(u8),
    /// Sends bytes at once.
    Send(Vec<u8>),
    /// Sends bytes in pieces of this size.
    SendSplit(Vec<u8>, usize),
    /// Answers every simple query with this command tag, until the client leaves.
    Serve(&'static str),
    /// Waits until the test opens the gate.
    Wait(Gate),
    /// The client must end the connection (with or without Terminate).
    ExpectEnd,
    /// Ends the connection with a reset instead of an orderly end.
    Reset,
}

/// Holds a scripted connection until the test lets it go on.
#[derive(Debug)]
pub struct Gate(Receiver<()>);

/// Opens a [`Gate`]; so does dropping it.
#[derive(Debug)]
pub struct GateKey(Sender<()>);

impl Gate {
    pub fn new() -> (Self, GateKey) {
        let (key, gate) = channel();
        (Self(gate), GateKey(key))
    }
}

impl GateKey {
    pub fn open(self) {
        let _ = self.0.send(());
    }
}

/// The fake server.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<Vec<Option<Vec<Act>>>>,
    startups: Mutex<Vec<Vec<u8>>>,
    cancels: Mutex<Vec<(i32, Vec<u8>)>>,
    results: Mutex<Vec<(usize, Result<(), String>)>>,
}

impl ScriptedServer {
    /// One list per connection that will come. A connection beyond them is closed at once, and reported.
    pub fn start(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("the port is known");
        let shared = Arc::new(Shared {
            scripts: Mutex::new(scripts.into_iter().map(Some).collect()),
            ..Shared::default()
        });
        let acceptor = Arc::clone(&shared);
        // The thread ends with the test process: nothing but a connection could wake it.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = Arc::clone(&acceptor);
                std::thread::spawn(move || connection.serve(Stream::tcp(stream).expect("a socket")));
            }
        });
        Self { address, shared }
    }

    pub fn tcp(&self) -> Endpoint {
        Endpoint::Tcp(self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id and key of the cancel requests that have come.
    pub fn cancels(&self) -> Vec<(i32, Vec<u8>)> {
        lock(&self.shared.cancels).clone()
    }

    /// Bodies of the startup packets that have come.
    pub fn startups(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.startups).clone()
    }

    /// Waits until every list has been played to its end; panics if one was not.
    #[track_caller]
    pub fn finish(self) {
        let expected = lock(&self.shared.scripts).len();
        eventually(&format!("{expected} scripted connections to end"), || {
            (lock(&self.shared.results).len() >= expected).then_some(())
        });
        for (index, result) in lock(&self.shared.results).iter() {
            if let Err(what) = result {
                panic!("scripted server, connection {index}: {what}");
            }
        }
    }
}

impl Shared {
    fn serve(&self, stream: Stream) {
        let mut connection = Connection { stream, buffer: Vec::new() };
        let startup = match connection.startup() {
            Ok(startup) => startup,
            // Someone looked whether the port is open.
            Err(_) => return,
        };
        if let Some(request) = startup.strip_prefix(&frontend::CANCEL_REQUEST.to_be_bytes()[..]) {
            if let Some((pid, key)) = request.split_first_chunk() {
                lock(&self.cancels).push((i32::from_be_bytes(*pid), key.to_vec()));
            }
            return;
        }
        lock(&self.startups).push(startup);
        let (index, script) = {
            let mut scripts = lock(&self.scripts);
            match scripts.iter().position(Option::is_some) {
                Some(index) => (index, scripts[index].take()),
                None => (scripts.len(), None),
            }
        };
        let result = match script {
            Some(acts) => connection.play(acts),
            None => Err("a connection that no list was left for".into()),
        };
        lock(&self.results).push((index, result));
    }
}

struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Connection {
    fn play(&mut self, acts: Vec<Act>) -> Result<(), String> {
        for (index, act) in acts.into_iter().enumerate() {
            let name = format!("{act:?}");
            self.act(act, index).map_err(|error| format!("act {index}, {name}: {error}"))?;
        }
        Ok(())
    }

    fn act(&mut self, act: Act, index: usize) -> Result<(), String> {
        match act {
            Act::Startup if index == 0 => Ok(()),
            Act::Login if index == 0 => self.send(&greeting(), None),
            Act::Startup | Act::Login => Err("only the first act can be the login".into()),
            Act::Expect(bytes) => {
                let came = self.take(bytes.len())?;
                let shown = (frontend::describe(&came), frontend::describe(&bytes));
                if came == bytes {
                    Ok(())
                } else {
                    Err(format!("{came:?} came ({}), not ({})", shown.0, shown.1))
                }
            }
            Act::ExpectTag(tag) => match self.message()? {
                (came, _) if came == tag => Ok(()),
                (came, body) => Err(format!("{} came", frontend::describe(&frontend::frame(came, &body)))),
            },
            Act::SkipTo(tag) => {
                while self.message()?.0 != tag {}
                Ok(())
            }
            Act::Send(bytes) => self.send(&bytes, None),
            Act::SendSplit(bytes, size) => self.send(&bytes, Some(size)),
            Act::Serve(tag) => {
                let answer = [backend::command_complete(tag), backend::ready_for_query('I')].concat();
                while let Ok((came, _)) = self.message() {
                    match came {
                        b'Q' | b'S' => self.send(&answer, None)?,
                        b'X' => break,
                        _ => {}
                    }
                }
                Ok(())
            }
            Act::Wait(gate) => {
                // An error means that the test has dropped the key, which opens the gate too.
                match gate.0.recv_timeout(DEADLINE) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err("the gate stayed shut".into()),
                    _ => Ok(()),
                }
            }
            Act::ExpectEnd => match self.message() {
                Ok((b'X', _)) => Ok(()),
                Ok((tag, body)) => Err(format!("{} came", frontend::describe(&frontend::frame(tag, &body)))),
                Err(_) if self.buffer.is_empty() => Ok(()),
                Err(error) => Err(error),
            },
            Act::Reset => {
                let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                Ok(())
            }
        }
    }

    /// The body of the packet that opens the connection. Encryption is refused, as often as it is asked for.
    fn startup(&mut self) -> Result<Vec<u8>, String> {
        loop {
            let header = self.take(4)?;
            let length = u32::from_be_bytes(header.try_into().expect("four bytes")) as usize;
            let body = self.take(length.saturating_sub(4).min(100_000))?;
            let encryption = [frontend::SSL_REQUEST.to_be_bytes(), frontend::GSSENC_REQUEST.to_be_bytes()];
            if !encryption.iter().any(|code| body == code) {
                return Ok(body);
            }
            self.send(b"N", None)?;
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), String> {
        let header = self.take(5)?;
        let length = u32::from_be_bytes(header[1..].try_into().expect("four bytes")) as usize;
        Ok((header[0], self.take(length.saturating_sub(4))?))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut chunk = [0; 4096];
        while self.buffer.len() < count {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(format!("the client left after {:?}", frontend::describe(&self.buffer))),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(format!("{error} after {:?}", frontend::describe(&self.buffer))),
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn send(&mut self, bytes: &[u8], split: Option<usize>) -> Result<(), String> {
        self.stream.send(bytes, split).and_then(|()| self.stream.flush()).map_err(|error| error.to_string())
    }
}

/// What PostgreSQL says after a login, in short.
pub fn greeting() -> Vec<u8> {
    [
        backend::auth_ok(),
        backend::parameter_status("server_version", "17.0"),
        backend::parameter_status("server_encoding", "UTF8"),
        backend::parameter_status("client_encoding", "UTF8"),
        backend::parameter_status("DateStyle", "ISO, MDY"),
        backend::parameter_status("IntervalStyle", "postgres"),
        backend::parameter_status("TimeZone", "UTC"),
        backend::parameter_status("application_name", ""),
        backend::parameter_status("is_superuser", "off"),
        backend::parameter_status("session_authorization", "app_trust"),
        backend::parameter_status("default_transaction_read_only", "off"),
        backend::parameter_status("in_hot_standby", "off"),
        backend::parameter_status("integer_datetimes", "on"),
        backend::parameter_status("standard_conforming_strings", "on"),
        backend::backend_key_data(4242, &[1, 2, 3, 4]),
        backend::ready_for_query('I'),
    ]
    .concat()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
