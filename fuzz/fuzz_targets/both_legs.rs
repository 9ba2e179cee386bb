//! Two clients and their servers at once, on one worker in this thread: any messages and bytes from the clients, any
//! replies and bytes from the servers, in any order and any pieces.
//!
//! Whatever they say, nothing panics, what the clients get is made of whole messages, no client ever sees a value that
//! only another one has asked for, and a client that comes afterwards is served.
//!
//! Every text that a client sends carries a number of its own. An honest server answers with the numbers of the text that
//! it runs; how honest it is, the input says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::auth::keys::KeyCache;
use pgvalet::auth::mock::MockSecret;
use pgvalet::client::context::{CancelRequest, CancelRoute, Console, ConsoleSession, Process};
use pgvalet::client::door::{Door, Limits};
use pgvalet::exchange::Exchange;
use pgvalet::net::stream::{Address, Detached};
use pgvalet::net::tls::current::Current;
use pgvalet::pool::Registry;
use pgvalet::runtime::worker::{self, Command, Seed};
use pgvalet::server::open::Means;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::yield_now;

/// Turns of the runtime after which everything that can happen without new bytes has happened.
const SETTLED: usize = 24;
/// After which a client that ought to be served has been forgotten. Servers that owe an answer to a statement of pgvalet's own
/// keep their places for 30 seconds.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Longest input; what matters happens within a few messages.
const LONGEST: usize = 300;

struct House {
    runtime: LocalRuntime,
    commands: UnboundedSender<Command>,
    door: Arc<Door>,
    whims: Whims,
    next: u32,
}

/// What the servers do instead of what they should, byte by byte; none left: they are honest.
type Whims = Rc<RefCell<std::vec::IntoIter<u8>>>;

#[derive(Debug)]
struct Nobody;

impl CancelRoute for Nobody {
    fn pass(&self, _worker: usize, _request: CancelRequest) {}
    fn pass_elsewhere(&self, _request: CancelRequest) {}
}

impl Console for Nobody {
    fn open(self: Arc<Self>, _is_admin: bool) -> Box<dyn ConsoleSession> {
        unreachable!("no client asks for the console")
    }
}

impl House {
    fn new() -> House {
        let folder = std::env::temp_dir().join(format!("pgvalet-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("pgvalet.toml");
        let text = format!(
            "listen_addr = \"\"\nunix_socket_dir = \"{dir}\"\nauth_type = \"trust\"\nworkers = 1\ndefault_pool_size = 4\n\
             max_prepared_statements = 3\n[databases.db]\nhost = \"{dir}\"\nport = 1\nuser = \"server\"\n[users.fuzz]\n",
            dir = folder.display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Arc::new(pgvalet::config::load(&file).unwrap());
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let (commands, receiver) = worker::channel();
        let whims = Whims::default();
        let servers = whims.clone();
        let seed = seed(config, receiver);
        let door = seed.process.door.clone();
        runtime.block_on(async {
            tokio::task::spawn_local(serve(folder.join(".s.PGSQL.1"), servers));
            tokio::task::spawn_local(worker::run(seed));
        });
        House { runtime, commands, door, whims, next: 0 }
    }

    fn client(&self) -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let address = Address::Unix(PathBuf::from("/fuzz"));
        let ticket = self.runtime.block_on(self.door.enter(&address)).unwrap();
        self.commands.send(Command::Client(Detached::Unix(far), address, Box::new(ticket))).unwrap();
        let mut client =
            Client { stream: near, input: Vec::new(), values: Vec::new(), ready: 0, ended: false };
        client.send(startup("user\0fuzz\0database\0db\0\0"));
        client
    }

    /// A number that no client has sent yet.
    fn number(&mut self, client: usize) -> u32 {
        self.next = self.next.wrapping_add(1);
        (self.next << 2 | client as u32) & 0x7fff_ffff
    }
}

fn seed(
    config: Arc<pgvalet::config::Config>,
    commands: tokio::sync::mpsc::UnboundedReceiver<Command>,
) -> Seed {
    let registry = Arc::new(Registry::new(1, config.clone()));
    let keys = Arc::new(KeyCache::new(NonZeroUsize::MIN));
    let tls = Current::new(config.general.server_tls.clone()).unwrap();
    let means = Arc::new(Means { keys: keys.clone(), tls, turns: Default::default() });
    let exchange = Exchange::start(means.clone(), Box::new(|_| None)).unwrap();
    let process = Process {
        directory: pgvalet::directory::Directory::start(means.clone()).unwrap(),
        keys,
        means,
        mock: MockSecret::new([7; 32]),
        identities: Default::default(),
        exchange: Arc::new(exchange),
        door: Arc::new(Door::new(Limits { logins: None, failures: None, clients: u32::MAX })),
        cancel_keys: Default::default(),
        peers: Default::default(),
        host_names: Default::default(),
        client_tls: Current::new(config.general.client_tls.clone()).unwrap(),
        console: Arc::new(Nobody),
        census: Default::default(),
        clients: AtomicU32::new(0),
        cancels: Box::new(Nobody),
    };
    let (sibling, parcels) = unbounded_channel();
    let load = Arc::default();
    Seed {
        number: 0,
        config,
        process: Arc::new(process),
        registry,
        commands,
        load,
        parcels,
        siblings: vec![sibling],
    }
}

/// A client as the input plays it.
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    /// The numbers that it was told.
    values: Vec<u32>,
    /// How many ReadyForQuery it has got.
    ready: usize,
    ended: bool,
}

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // One that is not read from any more has lost what it says.
        let _ = self.stream.write(bytes.as_ref());
    }

    /// Takes what has come; it must be whole messages but for the last.
    fn hear(&mut self) {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.input.extend_from_slice(&chunk[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
            break;
        }
        while self.input.len() >= 5 {
            let length = u32::from_be_bytes(self.input[1..5].try_into().unwrap()) as usize;
            assert!((4..1 << 24).contains(&length), "a client got a length of {length}");
            if self.input.len() <= length {
                break;
            }
            let message: Vec<u8> = self.input.drain(..length + 1).collect();
            match message[0] {
                b'Z' => self.ready += 1,
                b'D' => self.values.extend(numbers(&message[5..])),
                tag => assert!(b"RKSTCENAvtn123IGHWdcsV".contains(&tag), "a client got {tag}"),
            }
        }
    }
}

/// The numbers marked as such in some bytes.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    String::from_utf8_lossy(bytes)
        .split('#')
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect::<Vec<u32>>()
        .into_iter()
}

fn startup(parameters: &str) -> Vec<u8> {
    [&(parameters.len() as u32 + 8).to_be_bytes()[..], &[0, 3, 0, 0], parameters.as_bytes()].concat()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// What a client says for two bytes of the input.
fn request(kind: u8, detail: u8, number: u32, rest: &[u8]) -> Vec<u8> {
    let name: &[u8] = [&b""[..], b"a", b"b", b"c"][usize::from(detail & 3)];
    let portal: &[u8] = [&b""[..], b"p"][usize::from(detail >> 2 & 1)];
    let text = match detail >> 3 {
        0 => "BEGIN".to_owned(),
        1 => "COMMIT".to_owned(),
        2 => format!("ROLLBACK; SELECT '#{number}'"),
        3 => format!("PREPARE a AS SELECT '#{number}'"),
        4 => "EXECUTE a".to_owned(),
        5 => "DEALLOCATE ALL".to_owned(),
        6 => "SET work_mem = '1MB'".to_owned(),
        7 => "RESET ALL".to_owned(),
        8 => "DISCARD ALL".to_owned(),
        9 => "COPY t FROM STDIN".to_owned(),
        10 => "COPY t TO STDOUT".to_owned(),
        11 => format!("fail '#{number}'"),
        12 => "SELECT pg_advisory_lock(1)".to_owned(),
        13 => String::new(),
        14 => "LISTEN c".to_owned(),
        _ => format!("SELECT '#{number}'"),
    };
    let text = text.as_bytes();
    match kind % 18 {
        0..=2 => message(b'Q', &[text, b"\0"].concat()),
        3 | 4 => message(b'P', &[name, b"\0", text, b"\0\0\0"].concat()),
        5 | 6 => message(b'B', &[portal, b"\0", name, b"\0\0\0\0\0\0\0"].concat()),
        7 => message(b'D', &[b"S", name, b"\0"].concat()),
        8 => message(b'D', &[b"P", portal, b"\0"].concat()),
        9 | 10 => message(b'E', &[portal, b"\0\0\0\0\0"].concat()),
        11 => message(b'C', &[&[if detail & 8 == 0 { b'S' } else { b'P' }], name, b"\0"].concat()),
        12 | 13 => message(b'S', b""),
        14 => message(b'H', b""),
        15 => {
            message([b'd', b'c', b'f'][usize::from(detail % 3)], if detail % 3 == 1 { b"" } else { b"x\0" })
        }
        16 => message(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        _ => rest[..rest.len().min(usize::from(detail % 16))].to_vec(),
    }
}

async fn serve(path: PathBuf, whims: Whims) {
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(Server::new(whims.clone()).run(stream));
    }
}

/// A server that keeps to the protocol unless it has a whim.
struct Server {
    whims: Whims,
    statements: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, String>,
    status: u8,
    skips: bool,
    copies: bool,
}

impl Server {
    fn new(whims: Whims) -> Server {
        Server {
            whims,
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: b'I',
            skips: false,
            copies: false,
        }
    }

    async fn run(mut self, mut stream: tokio::net::UnixStream) {
        let mut head = [0; 4];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut startup = vec![0; u32::from_be_bytes(head) as usize - 4];
        if stream.read_exact(&mut startup).await.is_err() || startup.starts_with(&[4, 0xd2, 0x16]) {
            return;
        }
        let mut hello = message(b'R', &[0; 4]);
        for (name, value) in [("client_encoding", "UTF8"), ("standard_conforming_strings", "on")] {
            hello.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
        }
        hello.extend(message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]));
        hello.extend(message(b'Z', b"I"));
        let _ = stream.write_all(&hello).await;
        let mut header = [0; 5];
        while stream.read_exact(&mut header).await.is_ok() {
            let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
            assert!((4..1 << 24).contains(&length), "a server got a length of {length}");
            let mut body = vec![0; length - 4];
            if stream.read_exact(&mut body).await.is_err() || header[0] == b'X' {
                return;
            }
            let mut answer = self.answer(header[0], &body);
            let whim = self.whims.borrow_mut().next().unwrap_or(0);
            let detail = self.whims.borrow_mut().next().unwrap_or(0);
            match whim {
                0..=199 => {}
                200..=209 => answer = error(b"ERROR"),
                210..=214 => answer = error(b"FATAL"),
                215..=219 => answer.splice(0..0, message(b'N', b"SNOTICE\0Mm\0\0")).for_each(drop),
                220..=224 => answer.splice(0..0, message(b'S', b"TimeZone\0UTC\0")).for_each(drop),
                225..=229 => answer = message(detail, b"\0\0"),
                230..=234 => answer.truncate(usize::from(detail)),
                235..=239 => answer.push(detail),
                240..=244 => answer = message(b'Z', &[[b'I', b'T', b'E', b'x'][usize::from(detail % 4)]]),
                245..=247 => return,
                248 => answer.clear(),
                249 => answer = message(b'G', b"\0\0\0"),
                250 => answer.extend(message(b'A', b"\0\0\0\x09c\0p\0")),
                251 => answer = message(b'S', &[detail]),
                _ => answer.extend(message(b'C', b"DISCARD ALL\0")),
            }
            let cut = if whim % 7 == 3 { answer.len().min(usize::from(detail)) } else { 0 };
            if stream.write_all(&answer[..cut]).await.is_err() {
                return;
            }
            if cut > 0 {
                yield_now().await;
            }
            if stream.write_all(&answer[cut..]).await.is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, tag: u8, body: &[u8]) -> Vec<u8> {
        if self.copies {
            match tag {
                b'c' => self.copies = false,
                b'f' => {
                    self.copies = false;
                    return [error(b"ERROR"), self.ready()].concat();
                }
                _ => return Vec::new(),
            }
            return [message(b'C', b"COPY 0\0"), self.ready()].concat();
        }
        if self.skips && tag != b'S' {
            return Vec::new();
        }
        let mut fields = body.split(|&byte| byte == 0);
        let first = fields.next().unwrap_or_default().to_vec();
        match tag {
            b'Q' => {
                let out = self.execute(&String::from_utf8_lossy(&first), true);
                // Sent when the data has come.
                if self.copies { out } else { [out, self.ready()].concat() }
            }
            b'P' => {
                let text = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                if self.statements.contains_key(&first) && !first.is_empty() {
                    return self.fail();
                }
                self.statements.insert(first, text);
                message(b'1', b"")
            }
            b'B' => match self.statements.get(fields.next().unwrap_or_default()).cloned() {
                Some(text) => {
                    self.portals.insert(first, text);
                    message(b'2', b"")
                }
                None => self.fail(),
            },
            b'D' if body.first() == Some(&b'S') => match self.statements.contains_key(&first[1..]) {
                true => [message(b't', b"\0\0"), columns()].concat(),
                false => self.fail(),
            },
            b'D' => columns(),
            b'E' => match self.portals.get(&first).cloned() {
                Some(text) => self.execute(&text, false),
                None => self.fail(),
            },
            b'C' => {
                if body.first() == Some(&b'S') {
                    self.statements.remove(&first[1..]);
                }
                message(b'3', b"")
            }
            b'S' => {
                self.skips = false;
                self.ready()
            }
            b'F' => [message(b'V', &[0xff; 4]), self.ready()].concat(),
            _ => Vec::new(),
        }
    }

    fn fail(&mut self) -> Vec<u8> {
        self.skips = true;
        if self.status == b'T' {
            self.status = b'E';
        }
        error(b"ERROR")
    }

    fn ready(&self) -> Vec<u8> {
        message(b'Z', &[self.status])
    }

    fn execute(&mut self, text: &str, simple: bool) -> Vec<u8> {
        let command = |tag: &str| message(b'C', &[tag.as_bytes(), b"\0"].concat());
        match text.split(&[' ', ';'][..]).next().unwrap_or_default() {
            "" => message(b'I', b""),
            "BEGIN" => {
                self.status = b'T';
                command("BEGIN")
            }
            "COMMIT" | "ROLLBACK" => {
                self.status = b'I';
                command("ROLLBACK")
            }
            "fail" => {
                let out = self.fail();
                self.skips = !simple;
                out
            }
            "DISCARD" => {
                self.statements.clear();
                command("DISCARD ALL")
            }
            "DEALLOCATE" => {
                self.statements.clear();
                command("DEALLOCATE ALL")
            }
            "COPY" if text.contains("STDIN") => {
                self.copies = true;
                message(b'G', b"\0\0\0")
            }
            "COPY" => [message(b'H', b"\0\0\0"), message(b'd', b"x"), message(b'c', b""), command("COPY 1")]
                .concat(),
            "SELECT" => {
                let mut out = if simple { columns() } else { Vec::new() };
                for number in numbers(text.as_bytes()) {
                    let value = format!("#{number}");
                    let length = (value.len() as u32).to_be_bytes();
                    out.extend(message(b'D', &[&[0, 1], &length[..], value.as_bytes()].concat()));
                }
                out.extend(command("SELECT 1"));
                out
            }
            other => command(other),
        }
    }
}

fn columns() -> Vec<u8> {
    message(b'T', b"\0\x01v\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")
}

fn error(severity: &[u8]) -> Vec<u8> {
    message(b'E', &[b"S", severity, b"\0V", severity, b"\0C42601\0Mm\0\0"].concat())
}

thread_local! {
    static HOUSE: RefCell<Option<House>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    if input.len() > LONGEST {
        return;
    }
    HOUSE.with_borrow_mut(|house| play(house.get_or_insert_with(House::new), input));
});

fn play(house: &mut House, input: &[u8]) {
    let middle = input.first().map_or(0, |&byte| usize::from(byte)).min(input.len());
    let (moves, whims) = input.split_at(middle);
    let mut clients = [house.client(), house.client()];
    house.runtime.block_on(settle());
    *house.whims.borrow_mut() = Vec::from(whims).into_iter();
    for pair in moves.get(1..).unwrap_or_default().chunks_exact(2) {
        let who = usize::from(pair[0] >> 7);
        let number = house.number(who);
        clients[who].send(request(pair[0] & 31, pair[1], number, whims));
        if pair[0] & 64 == 0 {
            house.runtime.block_on(settle());
        }
        clients.iter_mut().for_each(Client::hear);
    }
    house.runtime.block_on(settle());
    *house.whims.borrow_mut() = Vec::new().into_iter();
    for (who, client) in clients.iter_mut().enumerate() {
        client.hear();
        let foreign = client.values.iter().find(|&&value| value & 3 != who as u32);
        assert_eq!(foreign, None, "client {who} was told what it has not asked for");
    }
    drop(clients);
    afterwards(house);
}

/// How long somebody waits, without the time for which the process was stopped.
#[derive(Default)]
struct Patience {
    waited: Duration,
    last: Option<Instant>,
}

impl Patience {
    fn is_left(&mut self) -> bool {
        let now = Instant::now();
        self.waited +=
            self.last.replace(now).map_or(Duration::ZERO, |last| (now - last).min(Duration::from_secs(1)));
        self.waited < FORGOTTEN
    }
}

/// Somebody else comes, and is served.
fn afterwards(house: &mut House) {
    let mut client = house.client();
    let number = house.number(3);
    let mut patience = Patience::default();
    loop {
        assert!(patience.is_left(), "nobody serves the next client");
        house.runtime.block_on(yield_now());
        client.hear();
        assert!(!client.ended, "the next client is sent away");
        if client.ready == 1 {
            break;
        }
    }
    client.send(message(b'Q', format!("SELECT '#{number}'\0").as_bytes()));
    let mut patience = Patience::default();
    loop {
        assert!(patience.is_left(), "nobody answers the next client");
        house.runtime.block_on(yield_now());
        client.hear();
        if client.ready == 2 || client.ended {
            break;
        }
    }
    assert_eq!(client.values, [number]);
}

async fn settle() {
    for _ in 0..SETTLED {
        yield_now().await;
    }
}
