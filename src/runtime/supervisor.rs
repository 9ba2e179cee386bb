//! From the checked configuration to the exit code: starts everything, listens to signals, ends everything.

use crate::admin::command::Shutdown;
use crate::admin::{Admin, Control, Pending, http};
use crate::auth::keys::KeyCache;
use crate::client::census::Census;
use crate::client::context::{CancelRequest, CancelRoute, Process, Report};
use crate::client::door::{self, Door};
use crate::client::surroundings::HostNames;
use crate::config::{self, Change, Config, General};
use crate::directory::Directory;
use crate::exchange::Exchange;
use crate::identity::Identities;
use crate::net::tls::current::Current;
use crate::net::tls::files::Unusable;
use crate::pool::{Names, PoolKey, Registry, names};
use crate::routing;
use crate::runtime::daemon::{self, PidFile};
use crate::runtime::worker::{self, Command, Handle, Seed};
use crate::runtime::{ahead, expiry, limits, listener, logging, reload};
use crate::server::open::Means;
use crate::server::turns::Turns;
use sd_notify::NotifyState;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

/// Derived keys that are kept for later logins.
const KEY_CACHE: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// How often a shutdown looks whether everybody has left.
const LOOK: Duration = Duration::from_millis(10);
/// How often the files of certificates and keys are looked at.
const FILES: Duration = Duration::from_secs(1);

/// What the command line says besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Of the log.
    pub log: logging::Asked,
    /// The user to become, in place of the configured one.
    pub user: Option<String>,
}

/// Runs pgvalet until it is told to end.
pub fn run(path: PathBuf, config: Config, launch: Launch) -> ExitCode {
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
        return ExitCode::FAILURE;
    }
    for warning in config.warnings.iter().map(String::as_str).chain(limit.as_deref()) {
        tracing::warn!("{warning}");
    }
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(supervise(path, Arc::new(config))),
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

/// What the admin console asks of the supervisor.
#[derive(Debug)]
enum Request {
    Reload(oneshot::Sender<Result<(), String>>),
    Set { key: String, value: String, answer: oneshot::Sender<Result<Option<String>, String>> },
    ShutDown(Shutdown),
}

/// Reaches the supervisor and the workers from anywhere.
#[derive(Debug)]
struct Reach {
    requests: UnboundedSender<Request>,
    workers: Arc<OnceLock<Vec<Handle>>>,
}

impl Reach {
    fn workers(&self) -> &[Handle] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }

    /// Gives each worker a command that it answers, and gathers the answers. One that has ended gives none.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let ask = |worker: &Handle| {
            let (answer, outcome) = oneshot::channel();
            let _ = worker.commands.send(command(answer));
            outcome
        };
        let asked: Vec<_> = self.workers().iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for outcome in asked {
            answers.extend(outcome.await.ok());
        }
        answers
    }

    /// Asks the supervisor.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Request,
    ) -> Result<T, String> {
        let (answer, outcome) = oneshot::channel();
        let gone = || "pgvalet is shutting down".to_owned();
        self.requests.send(request(answer)).map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

impl Control for Reach {
    fn reload(&self) -> Pending<'_, Result<(), String>> {
        Box::pin(async {
            self.ask(Request::Reload).await?;
            // Whoever is told so can count on it: every worker has put it in force.
            self.stir().await;
            Ok(())
        })
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a str) -> Pending<'a, Result<Option<String>, String>> {
        let (key, value) = (key.to_owned(), value.to_owned());
        Box::pin(async {
            let word = self.ask(move |answer| Request::Set { key, value, answer }).await?;
            self.stir().await;
            Ok(word)
        })
    }

    fn shut_down(&self, how: Shutdown) {
        let _ = self.requests.send(Request::ShutDown(how));
    }

    fn worker_loads(&self) -> Vec<u32> {
        self.workers().iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect()
    }

    fn reports(&self) -> Pending<'_, Vec<Report>> {
        Box::pin(self.ask_all(Command::Report))
    }

    fn stir(&self) -> Pending<'_, ()> {
        Box::pin(async { drop(self.ask_all(Command::Stir).await) })
    }

    fn kill<'a>(&'a self, database: Option<&'a str>) -> Pending<'a, ()> {
        let database: Option<Arc<str>> = database.map(Into::into);
        Box::pin(async move { drop(self.ask_all(|done| Command::Kill(database.clone(), done)).await) })
    }

    fn kill_client(&self, id: u32) -> Pending<'_, bool> {
        Box::pin(async move { self.ask_all(|found| Command::KillClient(id, found)).await.contains(&true) })
    }
}

impl CancelRoute for Reach {
    fn pass(&self, worker: usize, request: CancelRequest) {
        if let Some(handle) = self.workers.get().and_then(|workers| workers.get(worker)) {
            let _ = handle.commands.send(Command::Cancel(request));
        }
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    pause: Signal,
    resume: Signal,
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

struct Running {
    path: PathBuf,
    config: Arc<Config>,
    process: Arc<Process>,
    registry: Arc<Registry>,
    admin: Arc<Admin>,
    workers: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
}

async fn supervise(path: PathBuf, config: Arc<Config>) -> Result<(), String> {
    // Before anything can be seen to run: a signal that came earlier would end the process.
    let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let listeners = listener::open(&config.general)?;
    let _pidfile = config.general.pidfile.as_deref().map(PidFile::write).transpose()?;
    let metrics = listen_for_metrics(&config)?;
    let (requests_sender, mut requests) = unbounded_channel();
    let mut running = start(path, config, requests_sender)?;

    let mut accepting = Vec::new();
    for listener in listeners {
        match listener.address() {
            Ok(address) => tracing::info!(target: "pgvalet::runtime::listener", %address, "listening"),
            Err(error) => return Err(format!("a listener has no address: {error}")),
        }
        let (workers, process) = (running.workers.clone(), running.process.clone());
        accepting.push(tokio::task::spawn_local(listener.serve(
            workers,
            process,
            running.config.general.clone(),
        )));
    }
    if let Some(listener) = metrics {
        let address = listener.local_addr().map(|address| address.to_string()).unwrap_or_default();
        http::start(listener, running.admin.clone())
            .map_err(|error| format!("cannot serve metrics: {error}"))?;
        tracing::info!(address, "metrics are served");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = running.workers.len(), "ready");
    notify(&[NotifyState::Ready]);
    daemon::announce();

    tokio::task::spawn_local(keep_averages(running.admin.clone(), running.registry.clone()));
    let asked = serve(&mut running, &mut signals, &mut requests).await;
    running.admin.set_draining();
    notify(&[NotifyState::Stopping]);
    accepting.iter().for_each(|task| task.abort());
    for task in accepting {
        // The listening sockets are closed when the tasks have ended.
        let _ = task.await;
    }
    match asked {
        Asked::Stop => {}
        Asked::Drain => drain(&running, &mut signals).await,
        Asked::Wait => wait_for_clients(&mut running, &mut signals, &mut requests).await,
    }
    stop(running);
    Ok(())
}

fn listen_for_metrics(config: &Config) -> Result<Option<std::net::TcpListener>, String> {
    let Some(address) = config.general.metrics_listen else { return Ok(None) };
    let listener = http::listen(address).map_err(|error| {
        format!(
            "cannot listen on {address} for metrics: {error}; set metrics_listen to an address that is free"
        )
    })?;
    Ok(Some(listener))
}

fn start(path: PathBuf, config: Arc<Config>, requests: UnboundedSender<Request>) -> Result<Running, String> {
    let count = config.general.workers;
    let registry = Arc::new(Registry::new(count, config.clone()));
    let handles = Arc::new(OnceLock::new());
    let control = Reach { requests: requests.clone(), workers: handles.clone() };
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
    let door = Arc::new(Door::new(door_limits(&config)));
    let control = Box::new(control);
    let admin =
        Admin::new(registry.clone(), census.clone(), door.clone(), exchange.clone(), names.clone(), control);
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
        consoles: AtomicU32::new(0),
        cancels: Box::new(Reach { requests, workers: handles.clone() }),
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
    Ok(Running { path, config, process, registry, admin, workers, threads })
}

/// What the process was asked to do.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// End when transactions have ended.
    Drain,
    /// End when all clients have left by themselves.
    Wait,
    /// End now.
    Stop,
}

/// Serves until it is asked to end.
async fn serve(
    running: &mut Running,
    signals: &mut Signals,
    requests: &mut UnboundedReceiver<Request>,
) -> Asked {
    let mut expiries = expiry::Watch::default();
    let mut look = interval(FILES);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                log_tls(running.process.client_tls.refresh());
                log_tls(running.process.means.tls.refresh());
                expiries.look(&running.process, &running.admin);
            }
            // As pgbouncer does, for whoever has its scripts; a supervisor that sends TERM wants the process to end.
            _ = signals.terminate.recv() => {
                return if running.config.is_ini() { Asked::Wait } else { Asked::Drain };
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
        Request::ShutDown(Shutdown::Now) => return Some(Asked::Stop),
        Request::ShutDown(Shutdown::WaitForServers) => return Some(Asked::Drain),
        Request::ShutDown(Shutdown::WaitForClients) => return Some(Asked::Wait),
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
            tracing::info!(key, value, "setting changed");
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

/// Waits until every client has left by itself, or until it is told again to end.
async fn wait_for_clients(
    running: &mut Running,
    signals: &mut Signals,
    requests: &mut UnboundedReceiver<Request>,
) {
    let clients = running.process.clients.load(Ordering::Relaxed);
    tracing::info!(clients, "shutting down: waiting for all clients to leave; told again, it ends");
    let process = running.process.clone();
    let everybody_left = async {
        while process.clients.load(Ordering::Relaxed) > process.consoles.load(Ordering::Relaxed) {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = everybody_left => tracing::info!("all clients have left"),
        asked = serve(running, signals, requests) => {
            if asked == Asked::Drain && !running.config.is_ini() {
                drain(running, signals).await;
            }
        }
    }
}

/// Waits until every client has come to the end of its transaction, or time is up, or a second signal comes.
async fn drain(running: &Running, signals: &mut Signals) {
    let clients = running.process.clients.load(Ordering::Relaxed);
    let limit = running.config.general.shutdown_timeout;
    tracing::info!(clients, "shutting down: transactions may finish; a second signal ends them at once");
    for worker in &running.workers {
        let _ = worker.commands.send(Command::Drain);
    }
    let deadline = limit.map(|limit| Instant::now() + limit);
    let overtime = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    let everybody_left = async {
        let process = &running.process;
        // Who sits at the admin console holds nothing up.
        while process.clients.load(Ordering::Relaxed) > process.consoles.load(Ordering::Relaxed) {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = everybody_left => tracing::info!("all clients have left"),
        () = overtime => tracing::warn!("shutdown_timeout: the transactions that still run are ended"),
        _ = signals.terminate.recv() => tracing::warn!("second signal: the transactions that still run are ended"),
        _ = signals.interrupt.recv() => tracing::warn!("second signal: the transactions that still run are ended"),
        _ = signals.quit.recv() => tracing::warn!("told to end at once"),
    }
}

fn stop(running: Running) {
    for worker in &running.workers {
        let _ = worker.commands.send(Command::Stop);
    }
    for thread in running.threads {
        if thread.join().is_err() {
            tracing::error!("a worker had panicked");
        }
    }
    tracing::info!("ended");
}

fn door_limits(config: &Config) -> door::Limits {
    let General { max_client_logins, max_failed_logins, max_client_conn, .. } = config.general;
    door::Limits { logins: max_client_logins, failures: max_failed_logins, clients: max_client_conn }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be told");
    }
}
