//! A raw wire client: it sends whatever bytes a test wants, and shows every message that comes back.
//!
//! Blocking, one thread. Every read and write has the deadline of the harness, so a test that waits for a message which
//! never comes fails and says what had come before. Methods with `try_` return errors; the others panic with the story.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use super::backend::{self, Message};
use super::scram::{self, Scram};
use super::stream::Stream;
use super::{Endpoint, frontend};

/// How many of the last messages a panic shows, and how much of each is kept for that.
const REMEMBERED: usize = 30;
const LONGEST_REMEMBERED: usize = 4096;

/// Who logs in where, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub database: String,
    /// Used if the server asks for one.
    pub password: Option<String>,
    /// Further startup parameters, in order.
    pub parameters: Vec<(String, String)>,
    pub version: u32,
    /// Cut everything that is sent into pieces of this size, from the first byte on.
    pub split: Option<usize>,
}

impl Login {
    pub fn new(user: &str, database: &str) -> Self {
        Self {
            user: user.into(),
            database: database.into(),
            password: None,
            parameters: Vec::new(),
            version: frontend::PROTOCOL_3_0,
            split: None,
        }
    }

    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    pub fn database(mut self, database: &str) -> Self {
        self.database = database.into();
        self
    }

    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    pub fn split(mut self, size: Option<usize>) -> Self {
        self.split = size;
        self
    }

    fn startup(&self) -> Vec<u8> {
        let mut parameters = vec![("user", &self.user[..]), ("database", &self.database)];
        parameters.extend(self.parameters.iter().map(|(name, value)| (&name[..], &value[..])));
        frontend::startup_version(self.version, &parameters)
    }
}

/// Why there is no session.
#[derive(Debug)]
pub enum LoginError {
    /// The server said so, in an ErrorResponse.
    Refused(Message),
    /// The connection failed or ended.
    Io(io::Error),
    /// The server did what the protocol does not allow, or asked for what the login does not have.
    Protocol(String),
}

impl LoginError {
    /// The SQLSTATE, if the server gave one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Refused(message) => message.sqlstate(),
            _ => None,
        }
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message) => write!(f, "refused: {message:?}"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection, logged in or not.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    endpoint: Endpoint,
    /// Bytes read but not yet returned as messages.
    buffer: Vec<u8>,
    /// Everything that came before the first ReadyForQuery.
    pub greeting: Vec<Message>,
    /// Cut what is sent into pieces of this size.
    pub split: Option<usize>,
    recent: VecDeque<Message>,
}

/// What cancels a client's query.
#[derive(Debug, Clone)]
pub struct Cancel {
    pub endpoint: Endpoint,
    pub pid: i32,
    pub key: Vec<u8>,
}

impl Cancel {
    /// Sends the request and waits until the server has closed the connection.
    pub fn send(&self) -> io::Result<()> {
        let mut client = Client::connect(&self.endpoint)?;
        client.try_send(&frontend::cancel_request(self.pid, &self.key))?;
        client.try_until_end().map(|_| ())
    }
}

impl Client {
    /// Connects and sends nothing.
    pub fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        Stream::connect(endpoint).map(|stream| Self::over(stream, endpoint))
    }

    /// Speaks through a connection that is there already, such as one with TLS.
    pub fn over(stream: Stream, endpoint: &Endpoint) -> Self {
        Self {
            stream,
            endpoint: endpoint.clone(),
            buffer: Vec::new(),
            greeting: Vec::new(),
            split: None,
            recent: VecDeque::new(),
        }
    }

    /// The connection itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Connects and logs in, with whatever method the server asks for.
    pub fn login(endpoint: &Endpoint, login: &Login) -> Result<Self, LoginError> {
        Self::login_over(Stream::connect(endpoint)?, endpoint, login)
    }

    /// Logs in through a connection that is there already.
    pub fn login_over(stream: Stream, endpoint: &Endpoint, login: &Login) -> Result<Self, LoginError> {
        let mut client = Self::over(stream, endpoint);
        client.split = login.split;
        client.try_send(&login.startup())?;
        client.authenticate(login)?;
        Ok(client)
    }

    /// The rest of a login whose startup packet has been sent: up to ReadyForQuery.
    pub fn authenticate(&mut self, login: &Login) -> Result<(), LoginError> {
        let mut sasl = Sasl::None;
        loop {
            let message = self.try_recv()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            match message.tag {
                b'R' => sasl = self.authentication_step(login, sasl, &message)?,
                b'E' => return Err(LoginError::Refused(message)),
                b'Z' => return Ok(()),
                _ => {}
            }
            self.greeting.push(message);
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The process id and key of BackendKeyData.
    pub fn cancel(&self) -> Cancel {
        let (pid, key) = self.greeting.iter().find_map(Message::key).expect("the server sent BackendKeyData");
        Cancel { endpoint: self.endpoint.clone(), pid, key }
    }

    /// The process id of BackendKeyData; with a pooler between, not that of a server.
    pub fn pid(&self) -> i32 {
        self.cancel().pid
    }

    /// A ParameterStatus of the login.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.greeting
            .iter()
            .filter_map(Message::parameter)
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    /// Sends bytes, cut into pieces if [`Client::split`] says so.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            self.fail(&format!("sending {}: {error}", frontend::describe(bytes)));
        }
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.send(bytes, self.split)
    }

    /// Sends bytes in pieces of `size`, each in a write of its own.
    #[track_caller]
    pub fn send_split(&mut self, bytes: &[u8], size: usize) {
        if let Err(error) = self.stream.send(bytes, Some(size)) {
            self.fail(&format!("sending {} in pieces of {size}: {error}", frontend::describe(bytes)));
        }
    }

    /// The next message.
    #[track_caller]
    pub fn recv(&mut self) -> Message {
        match self.try_recv() {
            Ok(Some(message)) => message,
            Ok(None) => self.fail("the connection ended where a message was due"),
            Err(error) => self.fail(&format!("reading a message: {error}")),
        }
    }

    /// The next message; `None` at the end of the connection. A connection that ends inside a message is an error.
    pub fn try_recv(&mut self) -> io::Result<Option<Message>> {
        while self.buffered_length()?.is_none() {
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let what = "nothing came within the deadline";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                Err(error) => return Err(error),
            }
        }
        let length = self.buffered_length()?.expect("the loop ended because there is one");
        let mut frame: Vec<u8> = self.buffer.drain(..length).collect();
        let body = frame.split_off(5);
        let message = Message { tag: frame[0], body };
        let head = message.body[..message.body.len().min(LONGEST_REMEMBERED)].to_vec();
        self.recent.push_back(Message { tag: message.tag, body: head });
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
        Ok(Some(message))
    }

    /// Tag and length of the next message, of which nothing is kept, however long it is.
    #[track_caller]
    pub fn recv_length(&mut self) -> (u8, usize) {
        while self.buffer.len() < 5 {
            self.read_more();
        }
        let (tag, length) =
            (self.buffer[0], u32::from_be_bytes([1, 2, 3, 4].map(|at| self.buffer[at])) as usize);
        let mut left = length + 1;
        while left > self.buffer.len() {
            left -= self.buffer.len();
            self.buffer.clear();
            self.read_more();
        }
        self.buffer.drain(..left);
        (tag, length - 4)
    }

    /// One byte that is not a message, as after SSLRequest.
    pub fn recv_byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Everything up to and including the next ReadyForQuery.
    #[track_caller]
    pub fn until_ready(&mut self) -> Vec<Message> {
        self.until(b'Z')
    }

    /// Everything up to and including the next message with this tag.
    #[track_caller]
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.recv();
            let last = message.tag == tag;
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    /// Everything up to the end of the connection.
    #[track_caller]
    pub fn until_end(&mut self) -> Vec<Message> {
        match self.try_until_end() {
            Ok(messages) => messages,
            Err(error) => self.fail(&format!("waiting for the end of the connection: {error}")),
        }
    }

    pub fn try_until_end(&mut self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        loop {
            match self.try_recv() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Ok(messages),
                // A peer that closes before it has read everything resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(messages),
                Err(error) => return Err(error),
            }
        }
    }

    /// A simple query and all that it earns.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&frontend::query(sql));
        self.until_ready()
    }

    /// The rows of a simple query; panics if it fails.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.query(sql);
        if backend::first_error(&messages).is_some() {
            self.fail(&format!("{sql}: {messages:?}"));
        }
        backend::rows(&messages)
    }

    /// The one value of a simple query.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql);
        match &rows[..] {
            [row] => match &row[..] {
                [value] => value.clone().unwrap_or_else(|| "NULL".into()),
                _ => self.fail(&format!("{sql}: not one column: {row:?}")),
            },
            _ => self.fail(&format!("{sql}: not one row: {rows:?}")),
        }
    }

    /// A query with text parameters in the extended protocol, and all that it earns.
    #[track_caller]
    pub fn extended(&mut self, sql: &str, parameters: &[Option<&str>]) -> Vec<Message> {
        self.send(&frontend::extended(sql, parameters));
        self.until_ready()
    }

    /// Sends Terminate and waits for the end.
    pub fn terminate(mut self) {
        if self.try_send(&frontend::terminate()).is_ok() {
            let _ = self.try_until_end();
        }
    }

    /// Says that nothing more will be sent; what the server still owes can be read.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown_write();
    }

    /// Ends the connection with a reset instead of an orderly end. (A Unix socket knows no reset and is just closed.)
    pub fn reset(self) {
        if let Stream::Tcp(stream) = &self.stream {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// A second handle that can send while this one reads; for tests that keep both directions busy.
    pub fn writer(&self) -> Writer {
        Writer(self.stream.try_clone().expect("a second handle of the socket"))
    }

    /// Another deadline for each read and write of this client.
    pub fn set_deadline(&self, limit: Duration) {
        let socket = socket2::SockRef::from(&self.stream);
        let _ = socket.set_read_timeout(Some(limit));
        let _ = socket.set_write_timeout(Some(limit));
    }

    /// Small buffers in the kernel, so that a test fills them with little. To be called before much is sent.
    pub fn shrink_buffers(&self, bytes: usize) {
        let socket = socket2::SockRef::from(&self.stream);
        let _ = socket.set_send_buffer_size(bytes);
        let _ = socket.set_recv_buffer_size(bytes);
    }

    fn authentication_step(
        &mut self,
        login: &Login,
        sasl: Sasl,
        message: &Message,
    ) -> Result<Sasl, LoginError> {
        let odd = |what: &str| LoginError::Protocol(format!("{what}: {message:?}"));
        let password = || login.password.as_deref().ok_or_else(|| odd("no password for this"));
        let (code, rest) = message.body.split_first_chunk().ok_or_else(|| odd("no code"))?;
        let text = String::from_utf8_lossy(rest);
        match (u32::from_be_bytes(*code), sasl) {
            (0, Sasl::None | Sasl::Done) => return Ok(Sasl::Done),
            (3, Sasl::None) => self.try_send(&frontend::password(password()?))?,
            (5, Sasl::None) => {
                let response = scram::md5_response(&login.user, password()?, rest);
                self.try_send(&frontend::password(&response))?;
            }
            (10, Sasl::None) => {
                if !text.split('\0').any(|mechanism| mechanism == "SCRAM-SHA-256") {
                    return Err(odd("no SCRAM-SHA-256"));
                }
                let (scram, first) = Scram::start(password()?);
                self.try_send(&frontend::sasl_initial("SCRAM-SHA-256", first.as_bytes()))?;
                return Ok(Sasl::Started(scram));
            }
            (11, Sasl::Started(scram)) => {
                let (answer, expected) = scram.answer(&text).map_err(LoginError::Protocol)?;
                self.try_send(&frontend::sasl_response(answer.as_bytes()))?;
                return Ok(Sasl::Answered(expected));
            }
            (12, Sasl::Answered(expected)) => {
                expected.check(&text).map_err(LoginError::Protocol)?;
                return Ok(Sasl::Done);
            }
            _ => return Err(odd("unexpected at this point")),
        }
        Ok(Sasl::None)
    }

    /// Reads what there is into the buffer.
    #[track_caller]
    fn read_more(&mut self) {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.fail("the connection ended where a message was due"),
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error) => self.fail(&format!("reading a message: {error}")),
        }
    }

    /// Length of the first whole message in the buffer.
    fn buffered_length(&self) -> io::Result<Option<usize>> {
        let Some(header) = self.buffer.get(1..5) else { return Ok(None) };
        let length = u32::from_be_bytes(header.try_into().expect("four bytes")) as usize;
        if length < 4 {
            return Err(io::Error::other(format!("a message of length {length}: {:?}", &self.buffer[..5])));
        }
        Ok((self.buffer.len() > length).then_some(length + 1))
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let story: Vec<_> = self.recent.iter().map(|message| format!("  {message:?}")).collect();
        panic!("{}: {what}\nthe last messages that had come:\n{}", self.endpoint, story.join("\n"));
    }
}

/// The sending half of a [`Client`].
#[derive(Debug)]
pub struct Writer(Stream);

impl Writer {
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.send(bytes, None)
    }

    /// Ends both directions at once; whoever reads from the connection is told so.
    pub fn close(&self) {
        let _ = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }
}

/// How far a SASL exchange is.
enum Sasl {
    None,
    Started(Scram),
    Answered(scram::Expected),
    Done,
}
