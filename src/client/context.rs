//! What the clients of one worker share.

use crate::auth::keys::KeyCache;
use crate::auth::mock::MockSecret;
use crate::client::cancel_keys::{CancelKey, CancelKeys};
use crate::client::cell::{Activity, ClientCell, ClientInfo, Verdict};
use crate::client::census::Census;
use crate::client::door::Door;
use crate::client::mailbox::Mailroom;
use crate::client::moving::Arrival;
use crate::client::peers::PeerPools;
use crate::client::relay::Leaving;
use crate::client::surroundings::HostNames;
use crate::client::turns::Turns;
use crate::config::Config;
use crate::config::tls::ClientTls;
use crate::directory::Directory;
use crate::error::{Error, Kind};
use crate::exchange::Exchange;
use crate::handover::{Link, Migrant};
use crate::identity::Identities;
use crate::moment::Moment;
use crate::net::Buffers;
use crate::net::tls::current::Current;
use crate::pool::Shards;
use crate::pool::registry::StatementInfo;
use crate::routing::{self, ADMIN_DATABASES, Limits};
use crate::server::open::Means;
use bytes::BytesMut;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::oneshot;

/// Bits of a process id that number the clients of a worker; the bits above number the worker.
const CLIENT_BITS: u32 = 20;
/// Clients that a worker tells of in one turn: some tens of microseconds.
const TOLD_AT_ONCE: usize = 128;

/// What is shared by all workers.
#[derive(Debug)]
pub struct Process {
    /// Keys derived from passwords.
    pub keys: Arc<KeyCache>,
    /// Makes unknown users look like known ones.
    pub mock: MockSecret,
    /// Users that `auth_query` finds.
    pub directory: Directory,
    /// Others who know users.
    pub identities: Identities,
    /// Who listens for clients.
    pub exchange: Arc<Exchange>,
    /// Addresses of the host names in `auth_hba_file`.
    pub host_names: HostNames,
    /// What logins to servers share: the same keys, and TLS.
    pub means: Arc<Means>,
    /// TLS with clients.
    pub client_tls: Current<ClientTls>,
    /// Who is logged in.
    pub census: Arc<Census>,
    /// Who may come in.
    pub door: Arc<Door>,
    /// Clients of all workers, those logging in included.
    pub clients: AtomicU32,
    /// Where clients are whose process id does not say it.
    pub cancel_keys: CancelKeys,
    /// Cancel requests on their way to other processes.
    pub peers: Arc<PeerPools>,
    /// Who passes cancel requests to other workers.
    pub cancels: Box<dyn CancelRoute>,
    /// The admin console.
    pub console: Arc<dyn Console>,
}

impl Process {
    /// Passes a cancel request, which came by no client's connection, to the worker it concerns.
    pub fn route_cancel(&self, mut request: CancelRequest) {
        let worker = self.find(&mut request);
        self.cancels.pass(worker, request);
    }

    /// The worker that a cancel request concerns; its place is filled in.
    fn find(&self, request: &mut CancelRequest) -> usize {
        if let Some(place) = self.cancel_keys.place(request.pid, &request.secret) {
            request.place = place;
        }
        (request.place as u32 >> CLIENT_BITS) as usize
    }
}

/// Passes cancel requests on to the worker whose client they mean.
pub trait CancelRoute: Send + Sync + std::fmt::Debug {
    /// Sends the request to `worker`; the receiver ends when it has been dealt with.
    fn pass(&self, worker: usize, request: CancelRequest);
    /// Passes on a request whose client is not in this process, in case another one has it.
    fn pass_elsewhere(&self, request: CancelRequest);
}

/// A cancel request from a client's side.
#[derive(Debug)]
pub struct CancelRequest {
    /// Process id it names.
    pub pid: i32,
    /// The place of the client that is meant, as far as is known: as a rule that is what the process id says.
    pub place: i32,
    /// Secret it shows.
    pub secret: Vec<u8>,
    /// Dropped when the request has been dealt with.
    pub done: oneshot::Sender<()>,
    /// Who brought it.
    pub from: Messenger,
}

/// Who brings a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messenger {
    /// A connection to this process.
    Client,
    /// The process that takes this one's place.
    Successor,
    /// The process whose place this one takes.
    Predecessor,
}

/// The admin console, as those who let clients in see it.
pub trait Console: Send + Sync + std::fmt::Debug {
    /// Begins a session; `is_admin`: it may do more than look.
    fn open(self: Arc<Self>, is_admin: bool) -> Box<dyn ConsoleSession>;
}

/// How far an answer of the console is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All was said.
    Done,
    /// What was gathered is to be sent before it goes on.
    More,
}

/// A session of the admin console: messages in, messages out.
pub trait ConsoleSession {
    /// Answers one message, of type `tag`, whose body is `body`, by appending to `out`, or begins to.
    fn take<'a>(
        &'a mut self,
        tag: u8,
        body: &'a [u8],
        out: &'a mut BytesMut,
    ) -> Pin<Box<dyn Future<Output = Progress> + 'a>>;

    /// Goes on with an answer of which there is more, when what was gathered has been sent.
    fn more<'a>(&'a mut self, out: &'a mut BytesMut) -> Pin<Box<dyn Future<Output = Progress> + 'a>>;

    /// The answer under way was given up for a cancel request: undoes what it waited for, and says so.
    fn cancel(&mut self, out: &mut BytesMut);

    /// What was answered has been sent.
    fn sent(&mut self);
}

/// What a worker tells of itself.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Its clients.
    pub clients: Vec<ClientInfo>,
    /// The statements that its clients have prepared, by pool.
    pub statements: Vec<StatementInfo>,
    /// Buffers that it keeps for later.
    pub buffers: usize,
}

/// What is shared by the clients of one worker.
#[derive(Debug)]
pub struct Context {
    /// Number of the worker.
    pub worker: usize,
    /// The configuration in force.
    pub config: RefCell<Arc<Config>>,
    /// Buffers not in use.
    pub buffers: Buffers,
    /// The pools, as this worker has them.
    pub shards: Shards,
    /// What all workers share.
    pub process: Arc<Process>,
    /// Those that log in take turns with everybody else.
    pub turns: Rc<Turns>,
    /// Notifications on their way to clients.
    pub mailroom: Rc<Mailroom>,
    /// Clients that have logged in.
    pub clients: RefCell<Slab<Rc<ClientCell>>>,
    /// Clients of this worker, those logging in included.
    pub load: Arc<AtomicU32>,
    /// Whether the process shuts down.
    pub draining: Cell<bool>,
    /// The limits that were looked up last: most clients have the same.
    pub limits: RefCell<Rc<Limits>>,
    /// Where clients go, while another process takes this one's place.
    pub successor: RefCell<Option<Arc<Link>>>,
}

impl Context {
    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.borrow().clone()
    }

    /// The limits of a user on a database, held once for all clients that have the same.
    #[must_use]
    pub fn limits(&self, database: &str, user: &str) -> Rc<Limits> {
        let limits = routing::limits(&self.config.borrow(), database, user);
        let mut last = self.limits.borrow_mut();
        if **last != limits {
            *last = Rc::new(limits);
        }
        last.clone()
    }

    /// Registers a client who speaks minor version `minor` of the protocol; the cell is made for the key it is given.
    pub fn register(
        &self,
        minor: u16,
        make: impl FnOnce(CancelKey) -> ClientCell,
    ) -> (usize, Rc<ClientCell>) {
        let config = self.config();
        self.register_with(|place| CancelKey::new(&config, minor, place), make)
    }

    /// The same with a key that is made, for the client's place, by `key`.
    pub(super) fn register_with(
        &self,
        key: impl FnOnce(i32) -> CancelKey,
        make: impl FnOnce(CancelKey) -> ClientCell,
    ) -> (usize, Rc<ClientCell>) {
        let mut clients = self.clients.borrow_mut();
        let entry = clients.vacant_entry();
        let slot = entry.key();
        let place = process_id(self.worker, slot);
        let key = key(place);
        if key.pid != place {
            self.process.cancel_keys.enter(key.clone(), place);
        }
        let cell = Rc::new(make(key));
        entry.insert(cell.clone());
        (slot, cell)
    }

    /// Takes a client out of the list.
    pub(super) fn deregister(&self, slot: usize) {
        let Some(cell) = self.clients.borrow_mut().try_remove(slot) else { return };
        if !ADMIN_DATABASES.contains(&&*cell.database) {
            self.process.census.leave(&cell.database, &cell.user);
        }
        if cell.key.pid != process_id(self.worker, slot) {
            self.process.cancel_keys.leave(&cell.key);
        }
    }

    /// Passes a cancel request to the worker it concerns.
    pub fn route_cancel(&self, mut request: CancelRequest) {
        let worker = self.process.find(&mut request);
        if worker == self.worker {
            self.cancel(request);
        } else {
            self.process.cancels.pass(worker, request);
        }
    }

    /// Deals with a cancel request for a client of this worker.
    pub fn cancel(&self, request: CancelRequest) {
        let slot = (request.place as u32 & ((1 << CLIENT_BITS) - 1)) as usize;
        let clients = self.clients.borrow();
        let cell = slot.checked_sub(1).and_then(|slot| clients.get(slot));
        let is_meant = |cell: &&Rc<ClientCell>| {
            bool::from(subtle::ConstantTimeEq::ct_eq(&cell.key.secret[..], &request.secret[..]))
        };
        match cell.filter(is_meant) {
            Some(cell) => cell.request_cancel(request.done),
            None => self.process.cancels.pass_elsewhere(request),
        }
    }

    /// Ends what has taken too long.
    pub fn sweep_clients(&self, now: Moment) {
        let (notify, fast_close) = {
            let general = &self.config.borrow().general;
            (general.query_wait_notify, general.server_fast_close)
        };
        for (_, cell) in self.clients.borrow().iter() {
            if let Some(verdict) = cell.overdue(now) {
                cell.tell(verdict);
            }
            if notify.is_some_and(|limit| cell.has_waited(now, limit)) {
                cell.tell(Verdict::Waits);
            }
        }
        if fast_close {
            self.end_outdated_sessions();
        }
    }

    /// `server_fast_close`: ends session-pooled clients between transactions whose server is to be replaced.
    fn end_outdated_sessions(&self) {
        let outdated = self.shards.registry.clients_of_outdated();
        if outdated.is_empty() {
            return;
        }
        for (_, cell) in self.clients.borrow().iter() {
            // Who pools by transaction has no server now.
            if cell.activity() == Activity::Idle && outdated.contains(&cell.id()) {
                let text = "server_fast_close: the server connection of this session is to be replaced";
                cell.tell(Verdict::End(Error::new(Kind::Shutdown, text).hint("Reconnect.")));
            }
        }
    }

    /// Tells all clients that the process shuts down.
    pub fn drain(&self) {
        self.draining.set(true);
        self.process.door.close();
        self.clients.borrow().iter().for_each(|(_, cell)| cell.tell(Verdict::Drain));
    }

    /// How a client that logs in now leaves.
    pub(super) fn leaving(&self) -> Leaving {
        match (self.draining.get(), self.successor.borrow().is_some()) {
            (true, _) => Leaving::Draining,
            (false, true) => Leaving::Moving,
            (false, false) => Leaving::No,
        }
    }

    /// Has all clients go to another process, or stay.
    pub fn move_clients(&self, successor: Option<Arc<Link>>) {
        let has_one = successor.is_some();
        *self.successor.borrow_mut() = successor;
        let verdict = || if has_one { Verdict::Move } else { Verdict::Stay };
        self.clients.borrow().iter().for_each(|(_, cell)| cell.tell(verdict()));
    }

    /// Sends a client to the other process; if there is none any more, it goes on here.
    pub(super) fn send_off(self: &Rc<Self>, migrant: Migrant) {
        match &*self.successor.borrow() {
            Some(link) => link.send(migrant),
            None => self.take_back(migrant),
        }
    }

    fn take_back(self: &Rc<Self>, migrant: Migrant) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.process.clients.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_local(super::moving::adopt(self.clone(), migrant, Arrival::Back));
    }

    /// Tells all clients of a database, or all clients, that an administrator ends them.
    pub fn kill(&self, database: Option<&str>) {
        for (_, cell) in self.clients.borrow().iter() {
            // Consoles belong to no database: they are not among all.
            let is_meant = match database {
                Some(name) => *cell.database == *name,
                None => !ADMIN_DATABASES.contains(&&*cell.database),
            };
            if is_meant {
                cell.tell(Verdict::End(killed()));
            }
        }
    }

    /// The same for one client; whether it is here.
    pub fn kill_client(&self, id: u32) -> bool {
        let clients = self.clients.borrow();
        let found = clients.iter().find(|(_, cell)| cell.id() == id);
        found.map(|(_, cell)| cell.tell(Verdict::End(killed()))).is_some()
    }

    /// Tells of the worker. Whoever it serves has a turn between any few clients that it tells of; who comes or leaves meanwhile
    /// may be told of or not.
    pub async fn report(&self) -> Report {
        let now = Moment::now();
        let mut told = Vec::with_capacity(self.clients.borrow().len());
        let mut next = 0;
        loop {
            {
                let clients = self.clients.borrow();
                let end = clients.capacity().min(next + TOLD_AT_ONCE);
                told.extend((next..end).filter_map(|slot| Some(clients.get(slot)?.info(now))));
                if end == clients.capacity() {
                    break;
                }
                next = end;
            }
            tokio::task::yield_now().await;
        }
        Report { clients: told, statements: self.shards.statements(), buffers: self.buffers.kept() }
    }

    /// Counts a client out that the acceptor counted in.
    pub fn release_client(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.process.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

fn killed() -> Error {
    Error::new(Kind::Shutdown, "terminating connection due to administrator command")
}

/// The process id of a client: positive, never 0, and telling its worker.
fn process_id(worker: usize, slot: usize) -> i32 {
    let number = (slot as u32 + 1) & ((1 << CLIENT_BITS) - 1);
    ((worker as u32) << CLIENT_BITS | number) as i32
}
