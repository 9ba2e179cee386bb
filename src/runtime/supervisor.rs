//! From the checked configuration to the exit code: starts everything, listens to signals, ends everything.

use crate::admin::command::Shutdown;
use crate::admin::{Admin, http};
use crate::alarm::{interval, sleep};
use crate::auth::keys::KeyCache;
use crate::client::cancel_keys::CancelKeys;
use crate::client::census::Census;
use crate::client::context::Process;
use crate::client::door::{self, Door};
use crate::client::peers::PeerPools;
use crate::client::surroundings::HostNames;
use crate::config::{self, Change, Config, General};
use crate::directory::Directory;
use crate::exchange::Exchange;
use crate::handover::Link;
use crate::identity::Identities;
use crate::moment::Moment;
use crate::net::tls::current::Current;
use crate::net::tls::files::Unusable;
use crate::pool::{Names, PoolKey, Registry, names};
use crate::routing;
use crate::runtime::daemon::{self, PidFile};
use crate::runtime::doors::Doors;
use crate::runtime::listener::Listener;
use crate::runtime::reach::{Reach, Request};
use crate::runtime::upgrade::taker::Takeover;
use crate::runtime::upgrade::{Heard, Side, Upgrade};
use crate::runtime::worker::{self, Command, Handle, Seed};
use crate::runtime::{ahead, ending, expiry, limits, listener, logging, reload};
use crate::server::open::Means;
use crate::server::turns::Turns;
use sd_notify::NotifyState;
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

/// Derived keys that are kept for later logins.
const KEY_CACHE: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// How often what is not urgent is looked after: files of certificates and keys, pools that nobody uses.
const LEISURE: Duration = Duration::from_secs(1);

/// What the command line says besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Of the log.
    pub log: logging::Asked,
    /// The user to become, in place of the configured one.
    pub user: Option<String>,
}

/// Runs pgvalet until it is told to end; with `takeover` in the place of another process.
pub fn run(path: PathBuf, config: Config, launch: Launch, takeover: Option<Takeover>) -> ExitCode {
    daemon::leave_terminal();
    let limit = limits::raise_open_files(&config);
    let begun = launch
        .user
        .as_ref()
        .or(config.general.user.as_ref())
        .map_or(Ok(()), |name| daemon::become_user(name))
        .and_then(|()| logging::start(&config.general.log, launch.log));
    if let Err(error) = begun {
        // There is no log yet.
        eprintln!("{error}");
        if let Some(takeover) = takeover {
            takeover.fail(&error);
        }
        return ExitCode::FAILURE;
    }
    for warning in config.warnings.iter().map(String::as_str).chain(limit.as_deref()) {
        tracing::warn!("{warning}");
    }
    let begin = match (takeover, listener::activated()) {
        (Some(takeover), _) => Begin::Takeover(takeover),
        (None, Ok(listeners)) if listeners.is_empty() => Begin::Alone,
        (None, Ok(listeners)) => Begin::Activated(listeners),
        (None, Err(reason)) => {
            tracing::error!("{reason}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(supervise(path, Arc::new(config), begin)),
        Err(error) => Err(format!("no runtime: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// What a process begins with.
enum Begin {
    /// Nothing.
    Alone,
    /// Listeners that systemd has opened.
    Activated(Vec<Listener>),
    /// What another process hands over.
    Takeover(Takeover),
}

pub(super) struct Signals {
    pub(super) hangup: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) quit: Signal,
    pub(super) pause: Signal,
    pub(super) resume: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            pause: signal(SignalKind::user_defined1())?,
            resume: signal(SignalKind::user_defined2())?,
        })
    }
}

/// All that the supervisor listens to.
pub(super) struct Ears {
    pub(super) signals: Signals,
    pub(super) requests: UnboundedReceiver<Request>,
    pub(super) heard: UnboundedReceiver<Heard>,
}

/// The process, as its supervisor has it.
pub(super) struct Running {
    path: PathBuf,
    pub(super) config: Arc<Config>,
    pub(super) process: Arc<Process>,
    pub(super) registry: Arc<Registry>,
    pub(super) admin: Arc<Admin>,
    pub(super) workers: Vec<Handle>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) doors: Doors,
    pub(super) upgrade: Upgrade,
    pub(super) pidfile: Option<PidFile>,
}

async fn supervise(path: PathBuf, config: Arc<Config>, begin: Begin) -> Result<(), String> {
    // Before anything can be seen to run: a signal that came earlier would end the process.
    let signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let (requests, requests_heard) = unbounded_channel();
    let (hear, heard) = unbounded_channel();
    let mut ears = Ears { signals, requests: requests_heard, heard };
    let mut running = match begin {
        Begin::Alone => {
            let listeners = listener::open(&config.general, &mut Vec::new())?;
            let doors = Doors::new(listeners, listen_for_metrics(&config, None)?);
            start(path, config, requests, Upgrade::new(hear), doors)?
        }
        Begin::Activated(listeners) => {
            let doors = Doors::new(listeners, listen_for_metrics(&config, None)?);
            start(path, config, requests, Upgrade::new(hear), doors)?
        }
        Begin::Takeover(takeover) => take_over(path, config, requests, hear, takeover)?,
    };
    // In the place of another process its number stands there.
    let write = if running.upgrade.has_predecessor() { PidFile::take_over } else { PidFile::write };
    running.pidfile = running.config.general.pidfile.as_deref().map(write).transpose()?;
    running.open_doors().await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = running.workers.len(), "ready");
    notify(&[NotifyState::Ready]);
    daemon::announce();

    tokio::task::spawn_local(keep_averages(running.admin.clone(), running.registry.clone()));
    let asked = loop {
        match serve(&mut running, &mut ears).await {
            Asked::Replaced => match ending::depart(&mut running, &mut ears).await {
                Some(asked) => break asked,
                // The new process is gone: this one goes on.
                None => continue,
            },
            asked => break asked,
        }
    };
    running.admin.set_draining(true);
    if running.upgrade.replaced {
        tracing::info!("what is left of the replaced process ends");
    } else {
        notify(&[NotifyState::Stopping]);
    }
    running.doors.close().await;
    match asked {
        Asked::Stop | Asked::Replaced => {}
        Asked::Drain => ending::drain(&running, &mut ears).await,
        Asked::Wait(_) => ending::wait_for_clients(&mut running, &mut ears).await,
    }
    ending::stop(running);
    Ok(())
}

/// Starts in the place of another process; that one goes on if this fails.
fn take_over(
    path: PathBuf,
    config: Arc<Config>,
    requests: UnboundedSender<Request>,
    hear: UnboundedSender<Heard>,
    mut takeover: Takeover,
) -> Result<Running, String> {
    let outcome = listener::open(&config.general, &mut takeover.listeners).and_then(|listeners| {
        let metrics = listen_for_metrics(&config, takeover.metrics.take())?;
        let upgrade = Upgrade::new(hear.clone());
        let running = start(path, config, requests, upgrade, Doors::new(listeners, metrics))?;
        running.process.keys.learnt.learn(std::mem::take(&mut takeover.lessons));
        running.registry.take_greetings(std::mem::take(&mut takeover.greetings), routing::route);
        let orders = &takeover.offer;
        running.registry.follow(orders.all_paused, &orders.paused, &orders.disabled);
        Ok(running)
    });
    let mut running = outcome.inspect_err(|reason| takeover.fail(reason))?;
    takeover.ready()?;
    let has_same_shapes = takeover.has_same_shapes();
    let Takeover { stream, mut listeners, .. } = takeover;
    // What this configuration does not listen on any more.
    listeners.iter_mut().for_each(Listener::claim_file);
    drop(listeners);
    let said = move |event| drop(hear.send(Heard::Of(Side::Predecessor, event)));
    let link = Link::start(stream, said).map_err(|error| format!("no thread: {error}"))?;
    running.upgrade.links.set(Side::Predecessor, Some(Arc::new(link)));
    running.upgrade.note_shapes(has_same_shapes);
    Ok(running)
}

/// Listens for metrics, by the listener that another process had if that is the one.
fn listen_for_metrics(
    config: &Config,
    inherited: Option<TcpListener>,
) -> Result<Option<TcpListener>, String> {
    let Some(address) = config.general.metrics_listen else { return Ok(None) };
    let is_same = |listener: &TcpListener| {
        listener
            .local_addr()
            .is_ok_and(|there| there.ip() == address.ip() && [there.port(), 0].contains(&address.port()))
    };
    if let Some(listener) = inherited.filter(is_same) {
        return Ok(Some(listener));
    }
    let listener = http::listen(address).map_err(|error| {
        format!(
            "cannot listen on {address} for metrics: {error}; set metrics_listen to an address that is free"
        )
    })?;
    Ok(Some(listener))
}

fn start(
    path: PathBuf,
    config: Arc<Config>,
    requests: UnboundedSender<Request>,
    upgrade: Upgrade,
    doors: Doors,
) -> Result<Running, String> {
    let count = config.general.workers;
    let registry = Arc::new(Registry::new(count, config.clone()));
    let handles = Arc::new(OnceLock::new());
    let links = upgrade.links.clone();
    let control = Reach { requests: requests.clone(), workers: handles.clone(), links: links.clone() };
    let client_tls = Current::new(config.general.client_tls.clone()).map_err(|error| error.to_string())?;
    let server_tls = Current::new(config.general.server_tls.clone()).map_err(|error| error.to_string())?;
    let keys = Arc::new(KeyCache::new(KEY_CACHE));
    let means = Arc::new(Means { keys: keys.clone(), tls: server_tls, turns: Turns::default() });
    let directory = Directory::start(means.clone())
        .map_err(|error| format!("cannot start the thread for auth_query: {error}"))?;
    let pools = registry.clone();
    // A pool that was replaced goes by the same name.
    let resolve = move |key: &PoolKey| pools.pool(|config| routing::route(config, &key.database, &key.user));
    let exchange = Exchange::start(means.clone(), Box::new(resolve))
        .map_err(|error| format!("cannot start the thread that listens for clients: {error}"))?;
    let exchange = Arc::new(exchange);
    let census = Arc::new(Census::default());
    let names = Arc::new(Names::default());
    tokio::task::spawn_local(names::watch(names.clone(), registry.clone()));
    let peers = Arc::new(PeerPools::default());
    let door = Arc::new(Door::new(door_limits(&config)));
    let control = Box::new(control);
    let (census_too, door_too, names) = (census.clone(), door.clone(), names.clone());
    let admin =
        Admin::new(registry.clone(), census_too, peers.clone(), door_too, exchange.clone(), names, control);
    let admin = Arc::new(admin);
    let process = Arc::new(Process {
        keys,
        means,
        directory,
        exchange,
        mock: ahead::mock_secret(&config),
        identities: Identities::default(),
        host_names: HostNames::default(),
        client_tls,
        census,
        door,
        clients: AtomicU32::new(0),
        cancel_keys: CancelKeys::default(),
        peers,
        cancels: Box::new(Reach { requests, workers: handles.clone(), links }),
        console: admin.clone(),
    });
    let (siblings, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| unbounded_channel()).unzip();
    let (mut workers, mut threads) = (Vec::new(), Vec::new());
    for (number, parcels) in mailboxes.into_iter().enumerate() {
        let (commands, receiver) = worker::channel();
        let load = Arc::new(AtomicU32::new(0));
        workers.push(Handle { commands, load: load.clone() });
        let seed = Seed {
            number,
            config: config.clone(),
            process: process.clone(),
            registry: registry.clone(),
            commands: receiver,
            load,
            parcels,
            siblings: siblings.clone(),
        };
        threads.push(worker::start(seed).map_err(|error| format!("cannot start a worker: {error}"))?);
    }
    ahead::derive(&config, &process);
    let _ = handles.set(workers.clone());
    Ok(Running { path, config, process, registry, admin, workers, threads, doors, upgrade, pidfile: None })
}

/// What the process was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// End when transactions have ended.
    Drain,
    /// End when all clients have left by themselves.
    Wait(Teller),
    /// End now.
    Stop,
    /// Another process has taken its place.
    Replaced,
}

impl Running {
    pub(super) async fn open_doors(&mut self) -> Result<(), String> {
        self.doors.open(&self.workers, &self.process, &self.admin, &self.config.general).await
    }
}

/// Who asked for it. A second signal ends the process at once; a command that is given again says the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Teller {
    Signal,
    Console,
}

/// Serves until it is asked to end.
pub(super) async fn serve(running: &mut Running, ears: &mut Ears) -> Asked {
    let Ears { signals, requests, heard } = ears;
    let mut expiries = expiry::Watch::default();
    let mut look = interval(LEISURE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                log_tls(running.process.client_tls.refresh());
                log_tls(running.process.means.tls.refresh());
                running.registry.forget_unused(Moment::now());
                expiries.look(&running.process, &running.admin);
            }
            // As pgbouncer does, for whoever has its scripts; a supervisor that sends TERM wants the process to end.
            _ = signals.terminate.recv() => {
                return if running.config.is_ini() { Asked::Wait(Teller::Signal) } else { Asked::Drain };
            }
            _ = signals.interrupt.recv() => return Asked::Drain,
            _ = signals.quit.recv() => return Asked::Stop,
            _ = signals.hangup.recv() => {
                if let Err(problems) = reload(running) {
                    tracing::error!("reload failed, the old configuration stays in force:\n{problems}");
                }
            }
            _ = signals.pause.recv() => pause(running, true),
            _ = signals.resume.recv() => pause(running, false),
            Some(request) = requests.recv() => {
                if let Some(asked) = comply(running, request) {
                    return asked;
                }
            }
            Some(heard) = heard.recv() => {
                if running.take_in(heard).await {
                    return Asked::Replaced;
                }
            }
        }
    }
}

/// Says what became of files that were to be read again.
fn log_tls(outcome: Result<bool, Unusable>) {
    match outcome {
        Ok(true) => tracing::info!("certificates and keys were read again"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "TLS stays as it was: a file cannot be used"),
    }
}

/// Does what the console asks for; how to end, if that is it.
fn comply(running: &mut Running, request: Request) -> Option<Asked> {
    match request {
        Request::Reload(answer) => {
            let _ = answer.send(reload(running));
        }
        Request::Set { key, value, answer } => {
            let _ = answer.send(set(running, &key, &value));
        }
        Request::Upgrade(answer) => running.begin_upgrade(answer),
        Request::ShutDown(Shutdown::Now) => return Some(Asked::Stop),
        Request::ShutDown(Shutdown::WaitForServers) => return Some(Asked::Drain),
        Request::ShutDown(Shutdown::WaitForClients) => return Some(Asked::Wait(Teller::Console)),
    }
    None
}

/// Pauses all pools, or lets them go on.
fn pause(running: &Running, paused: bool) {
    let registry = &running.registry;
    let changed = if paused { registry.pause(None) } else { registry.resume(None) };
    if changed {
        tracing::info!(paused, "told by a signal");
        for worker in &running.workers {
            let _ = worker.commands.send(Command::Stir(oneshot::channel().0));
        }
    }
}

/// Changes one setting, until the next reload.
fn set(running: &mut Running, key: &str, value: &str) -> Result<Option<String>, String> {
    match config::set(&running.config, key, value)? {
        Change::Nothing(why) => Ok(why),
        Change::Made(mut config) => {
            // What the file says of them may be newer than what is in force.
            reload::keep_fixed(&running.config.general, &mut config.general);
            put_in_force(running, Arc::new(*config))?;
            tracing::info!(key, value = config::tellable(key, value), "setting changed");
            Ok(None)
        }
    }
}

/// Ends the periods of averages.
async fn keep_averages(admin: Arc<Admin>, registry: Arc<Registry>) {
    loop {
        // Looked at once a second at least, so that a shorter period is seen soon.
        let began = Instant::now();
        while began.elapsed() < registry.config().general.stats_period {
            let left = registry.config().general.stats_period.saturating_sub(began.elapsed());
            sleep(left.min(Duration::from_secs(1))).await;
        }
        admin.tick();
        if registry.config().general.log.stats {
            tracing::info!("{}", admin.stats_line());
        }
    }
}

fn reload(running: &mut Running) -> Result<(), String> {
    let monotonic = NotifyState::monotonic_usec_now();
    if let Ok(monotonic) = monotonic {
        notify(&[NotifyState::Reloading, monotonic]);
    }
    let outcome = reload::read(&running.path, &running.config).and_then(|config| {
        put_in_force(running, config)?;
        tracing::info!(path = %running.path.display(), "configuration reloaded");
        Ok(())
    });
    notify(&[NotifyState::Ready]);
    outcome
}

/// Puts another configuration in force.
///
/// # Errors
/// What is new in it of TLS cannot be used: then all stays as it was.
fn put_in_force(running: &mut Running, config: Arc<Config>) -> Result<(), String> {
    put_tls_in_force(running, &config)?;
    reload::apply(&config, &running.registry);
    logging::renew(&config.general.log);
    running.process.door.set_limits(door_limits(&config));
    running.config = config.clone();
    ahead::derive(&config, &running.process);
    for worker in &running.workers {
        let _ = worker.commands.send(Command::Reload(config.clone()));
    }
    Ok(())
}

/// The TLS of it. Files that have become unusable under unchanged settings leave the old ones in force and hold up nothing
/// else; settings that are new must not be told to hold when they do not.
fn put_tls_in_force(running: &Running, config: &Config) -> Result<(), String> {
    let (old, new) = (&running.config.general, &config.general);
    let (clients, servers) = (&running.process.client_tls, &running.process.means.tls);
    let refused = |error: &Unusable, is_new: bool| {
        is_new.then(|| {
            let _ = clients.set(&old.client_tls);
            let _ = servers.set(&old.server_tls);
            format!("TLS cannot be set up: {error}; nothing was changed")
        })
    };
    let of_clients = clients.set(&new.client_tls);
    if let Err(error) = &of_clients
        && let Some(refusal) = refused(error, old.client_tls != new.client_tls)
    {
        return Err(refusal);
    }
    let of_servers = servers.set(&new.server_tls);
    if let Err(error) = &of_servers
        && let Some(refusal) = refused(error, old.server_tls != new.server_tls)
    {
        return Err(refusal);
    }
    log_tls(of_clients.map(|()| true));
    log_tls(of_servers.map(|()| true));
    Ok(())
}

fn door_limits(config: &Config) -> door::Limits {
    let General { max_client_logins, max_failed_logins, max_client_conn, .. } = config.general;
    door::Limits { logins: max_client_logins, failures: max_failed_logins, clients: max_client_conn }
}

pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
