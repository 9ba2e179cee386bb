//! One worker: a thread with a runtime of its own, its clients, and its part of every pool.

use crate::alarm;
use crate::client::context::{CancelRequest, Process, Report};
use crate::client::door::Ticket;
use crate::client::{self, Arrival, Context};
use crate::config::Config;
use crate::handover::{Link, Migrant};
use crate::moment::Moment;
use crate::net::stream::{Address, Detached};
use crate::net::{Buffers, Socket, Stream};
use crate::pool::registry::{Parcel, Registry, jobs};
use crate::pool::{Shards, keeper};
use crate::routing::{self, ADMIN_DATABASES};
use crate::runtime::listener::Porter;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

/// How often a worker looks at the clock for its clients and servers.
const SWEEP: Duration = Duration::from_millis(100);

/// What the supervisor and other workers say to a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept clients.
    Accept(Box<Porter>),
    /// A new client.
    Client(Detached, Address, Box<Ticket>),
    /// A client that was with another process.
    Adopt(Migrant, Arrival),
    /// Clients go to another process, or stay.
    Move(Option<Arc<Link>>),
    /// A cancel request for one of its clients.
    Cancel(CancelRequest),
    /// A new configuration.
    Reload(Arc<Config>),
    /// Tell of yourself.
    Report(oneshot::Sender<Report>),
    /// Look after all pools now, because an order was given; dropped when it is done.
    Stir(oneshot::Sender<()>),
    /// End the clients of a database, or all; dropped when they have been told.
    Kill(Option<Arc<str>>, oneshot::Sender<()>),
    /// End the client of this number; whether it is here.
    KillClient(u32, oneshot::Sender<bool>),
    /// End clients at the end of their transactions.
    Drain,
    /// End now.
    Stop,
}

/// A worker as others see it.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Where it takes commands.
    pub commands: UnboundedSender<Command>,
    /// Clients it has.
    pub load: Arc<AtomicU32>,
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Seed {
    /// Its number.
    pub number: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// What all workers share.
    pub process: Arc<Process>,
    /// All pools.
    pub registry: Arc<Registry>,
    /// Commands to it.
    pub commands: UnboundedReceiver<Command>,
    /// Clients it has.
    pub load: Arc<AtomicU32>,
    /// Servers handed to it.
    pub parcels: UnboundedReceiver<Parcel>,
    /// Mailboxes of all workers.
    pub siblings: Vec<UnboundedSender<Parcel>>,
}

/// A pair of ends for commands.
#[must_use]
pub fn channel() -> (UnboundedSender<Command>, UnboundedReceiver<Command>) {
    unbounded_channel()
}

/// Starts a worker's thread.
///
/// # Errors
/// The system's, if it gives no thread or no runtime.
pub fn start(seed: Seed) -> io::Result<JoinHandle<()>> {
    alarm::start()?;
    let runtime = || {
        Builder::new_current_thread()
            .enable_io()
            .on_thread_unpark(Moment::has_waited)
            .thread_name("blocking")
            .max_blocking_threads(4)
            .build_local(LocalOptions::default())
    };
    thread::Builder::new().name(format!("worker-{}", seed.number)).spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(run(seed)),
        Err(error) => tracing::error!(%error, "a worker got no runtime"),
    })
}

/// A worker, in the calling thread and its runtime, until it is told to stop.
pub async fn run(seed: Seed) {
    let Seed { number, config, process, registry, mut commands, load, mut parcels, siblings } = seed;
    let (jobs, jobs_receiver) = jobs();
    tokio::task::spawn_local(keeper::run(jobs_receiver, process.means.clone()));
    let context = Rc::new(Context {
        worker: number,
        config: RefCell::new(config),
        buffers: Buffers::default(),
        shards: Shards::new(registry, number, jobs, siblings),
        process,
        turns: Rc::default(),
        mailroom: Rc::default(),
        clients: RefCell::default(),
        load,
        draining: Cell::new(false),
        successor: RefCell::default(),
        limits: RefCell::default(),
    });
    open_standing_pools(&context);
    let (mailroom, mut post) = (context.mailroom.clone(), context.process.exchange.attach(number));
    tokio::task::spawn_local(async move {
        while let Some(post) = post.recv().await {
            mailroom.sort(post);
        }
    });
    let mut sweep = alarm::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Accept(porter)) => {
                    tokio::task::spawn_local(porter.work(context.clone()));
                }
                Some(Command::Client(stream, peer, ticket)) => welcome(&context, stream, peer, ticket),
                Some(Command::Adopt(migrant, arrival)) => {
                    tokio::task::spawn_local(client::adopt(context.clone(), migrant, arrival));
                }
                Some(Command::Move(successor)) => context.move_clients(successor),
                Some(Command::Cancel(request)) => context.cancel(request),
                Some(Command::Reload(config)) => reload(&context, config),
                Some(Command::Report(answer)) => {
                    let context = context.clone();
                    tokio::task::spawn_local(async move { drop(answer.send(context.report().await)) });
                }
                Some(Command::Stir(_done)) => context.shards.stir(Moment::now()),
                Some(Command::Kill(database, _done)) => context.kill(database.as_deref()),
                Some(Command::KillClient(id, answer)) => drop(answer.send(context.kill_client(id))),
                Some(Command::Drain) => {
                    context.drain();
                    context.shards.dismiss_waiters();
                }
                Some(Command::Stop) | None => break,
            },
            Some(parcel) = parcels.recv() => context.shards.receive(parcel, Moment::now()),
            _ = sweep.tick() => {
                let now = Moment::now();
                context.shards.sweep(now);
                context.sweep_clients(now);
                context.buffers.trim();
            }
        }
    }
    context.shards.close_idle();
}

/// Takes a client on that was counted in.
pub(super) fn welcome(context: &Rc<Context>, stream: Detached, peer: Address, ticket: Box<Ticket>) {
    let mut stream = Stream::Plain(Socket::from(stream));
    match stream.attach() {
        Ok(()) => {
            tokio::task::spawn_local(client::serve(context.clone(), stream, peer, ticket));
        }
        Err(error) => {
            tracing::warn!(%peer, %error, "a connection could not be taken on");
            context.release_client();
        }
    }
}

fn reload(context: &Rc<Context>, config: Arc<Config>) {
    *context.config.borrow_mut() = config.clone();
    context.shards.refresh();
    for (_, cell) in context.clients.borrow().iter() {
        if !ADMIN_DATABASES.contains(&&*cell.database) {
            cell.limit(context.limits(&cell.database, &cell.user));
        }
    }
    open_standing_pools(context);
}

/// Makes the pools that are kept at a minimum size before any client asks for them.
fn open_standing_pools(context: &Rc<Context>) {
    for blueprint in routing::standing(&context.config()) {
        let key = blueprint.key;
        context.shards.shard(|config| routing::route(config, &key.database, &key.user));
    }
}
