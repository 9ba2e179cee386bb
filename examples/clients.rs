//! Many clients doing real work at the same time: the load of `examples/quickstart.sh`.
//!
//! Owns the workload, the check that the work was really done, and the report. It is an ordinary user of PostgreSQL
//! that knows nothing of pgvalet's insides: what only the pooler can tell is asked of its admin console, and how many
//! server connections there are is asked of PostgreSQL itself.
//!
//! Each client reads single accounts by a prepared statement and now and then moves money from one account to another
//! in a transaction of five statements. At the end every account has to agree with the transfers that clients saw
//! committed: a transaction that was lost, torn or run on somebody else's connection would show.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};

const ACCOUNTS: i32 = 10_000;
const OPENING_BALANCE: i64 = 1_000;
/// One transaction in this many is a transfer, the others are reads.
const TRANSFER_EVERY: u64 = 5;
/// How long clients may go on after the end of the show; whoever is not done by then has hung.
const GRACE: Duration = Duration::from_secs(30);

/// Drives many concurrent clients through a connection pooler and checks that their work was done.
#[derive(Parser)]
struct Args {
    /// Concurrent clients.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Seconds of work.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Logins at the same time.
    #[arg(long, default_value_t = 32)]
    logins: usize,
    /// Where the clients connect to, as a libpq connection string.
    #[arg(long, default_value = "host=127.0.0.1 port=6432 user=app password=app dbname=app")]
    connect: String,
    /// Schema for the tables; the user has to be allowed to create tables in it.
    #[arg(long, default_value = "public")]
    schema: String,
    /// A superuser's connection straight to PostgreSQL, to count the server connections.
    #[arg(long)]
    observe: Option<String>,
    /// The pooler's admin console, to ask for its leases and resets.
    #[arg(long)]
    console: Option<String>,
    /// Process id of the pooler, to tell its memory.
    #[arg(long)]
    pid: Option<u32>,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("clients: {}", explain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs the show; false when anything went wrong.
async fn run(args: Args) -> Result<bool, Failure> {
    let config: Config = args.connect.parse()?;
    let tables = Tables { schema: args.schema.clone() };
    tables.create(&connect(&config).await?).await?;
    let servers = match &args.observe {
        Some(observe) => Some(Servers::new(&observe.parse()?, config.get_user().unwrap_or_default()).await?),
        None => None,
    };
    let console = match &args.console {
        Some(console) => Console::new(&console.parse()?).await,
        None => None,
    };
    let shared = Arc::new(Shared::default());

    let began = Instant::now();
    let clients = log_in(&args, &config, &shared).await?;
    let login_time = began.elapsed();

    let before = match &console {
        Some(console) => console.counters().await,
        None => Counters::new(),
    };
    let began = Instant::now();
    let mut work = JoinSet::new();
    let count = clients.len();
    for (number, client) in clients.into_iter().enumerate() {
        work.spawn(work_until_stopped(client, tables.clone(), shared.clone(), number as u64));
    }
    let servers = watch(&args, &shared, servers, began).await;
    shared.stop.store(true, Ordering::Relaxed);
    let ended = async {
        while let Some(end) = work.join_next().await {
            if let Err(panic) = end {
                shared.error(&format!("a client failed: {panic}"));
            }
        }
    };
    let hung = tokio::time::timeout(GRACE, ended).await.is_err();
    let worked = began.elapsed();
    if hung {
        shared.error(&format!("{} clients got no answer for {} s", work.len(), GRACE.as_secs()));
        work.abort_all();
    }

    let books = tables.check(&connect(&config).await?, shared.transfers.count()).await;
    let after = match &console {
        Some(console) => console.counters().await,
        None => Counters::new(),
    };
    report(&Outcome {
        clients: count,
        login_time,
        worked,
        shared: &shared,
        servers: servers.map(|servers| (servers.most, servers.seen.len())),
        counters: difference(before, after),
        memory: args.pid.and_then(memory_of),
        books: &books,
    });
    Ok(shared.errors().is_empty() && books.is_ok() && count == args.clients)
}

/// What all clients write to.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    logged_in: AtomicU64,
    reads: Latencies,
    transfers: Latencies,
    /// Errors by their text.
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Shared {
    fn transactions(&self) -> u64 {
        self.reads.count() + self.transfers.count()
    }

    fn error(&self, text: &str) {
        *self.errors().entry(text.to_owned()).or_default() += 1;
    }

    fn errors(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Latencies in microseconds, up to a minute.
struct Latencies(Mutex<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid")))
    }
}

impl Latencies {
    fn record(&self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.histogram().saturating_record(micros.max(1));
    }

    fn count(&self) -> u64 {
        self.histogram().len()
    }

    fn histogram(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // The connection ends with its client; what goes wrong on it is told by the client's next request.
    tokio::spawn(connection);
    Ok(client)
}

/// Logs all clients in, a bounded number at a time: SCRAM costs both sides thousands of hash rounds.
async fn log_in(args: &Args, config: &Config, shared: &Arc<Shared>) -> Result<Vec<Client>, Failure> {
    let permits = Arc::new(Semaphore::new(args.logins.max(1)));
    let mut logins = JoinSet::new();
    for _ in 0..args.clients {
        let (permits, config, shared) = (permits.clone(), config.clone(), shared.clone());
        logins.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let client = connect(&config).await;
            match &client {
                Ok(_) => _ = shared.logged_in.fetch_add(1, Ordering::Relaxed),
                Err(error) => shared.error(&format!("login: {}", explain(error))),
            }
            client.ok()
        });
    }
    let mut clients = Vec::with_capacity(args.clients);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    loop {
        tokio::select! {
            done = logins.join_next() => match done {
                Some(client) => clients.extend(client?),
                None => break,
            },
            _ = ticks.tick() => {
                let (done, all) = (thousands(clients.len() as u64), thousands(args.clients as u64));
                println!("  {done:>7} of {all} clients logged in");
            }
        }
    }
    println!("  {:>7} clients logged in", thousands(clients.len() as u64));
    if clients.is_empty() {
        return Err(shared.errors().keys().next().cloned().unwrap_or_else(|| "no clients".to_owned()).into());
    }
    Ok(clients)
}

/// The life of one client between its login and the end of the show.
async fn work_until_stopped(mut client: Client, tables: Tables, shared: Arc<Shared>, number: u64) {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let statements = match tables.prepare(&client).await {
        Ok(statements) => statements,
        Err(error) => return shared.error(&format!("prepare: {}", explain(&error))),
    };
    while !shared.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let (done, latencies) = if random.below(TRANSFER_EVERY) == 0 {
            (transfer(&mut client, &statements, &mut random).await, &shared.transfers)
        } else {
            (read(&client, &statements, &mut random).await, &shared.reads)
        };
        match done {
            Ok(()) => latencies.record(began),
            Err(error) => {
                shared.error(&explain(error.as_ref()));
                if client.is_closed() {
                    return;
                }
            }
        }
    }
}

async fn read(client: &Client, statements: &Statements, random: &mut Random) -> Result<(), Failure> {
    let id = random.account();
    let row = client.query_one(&statements.read, &[&id]).await?;
    // The answer has to be that of this client's own question.
    if row.try_get::<_, i32>(0)? != id {
        return Err("MIXED UP: a client got the row that another one asked for".into());
    }
    Ok(())
}

async fn transfer(client: &mut Client, statements: &Statements, random: &mut Random) -> Result<(), Failure> {
    let (source, target) = (random.account(), random.account());
    let amount = 1 + random.below(100) as i64;
    let transaction = client.transaction().await?;
    // The lower account first, so that two transfers never wait for each other.
    let mut changes = [(source, -amount), (target, amount)];
    changes.sort_unstable();
    for (id, change) in changes {
        transaction.execute(&statements.change, &[&id, &change]).await?;
    }
    transaction.execute(&statements.enter, &[&source, &target, &amount]).await?;
    Ok(transaction.commit().await?)
}

/// What each client prepares once and uses on whatever server it is lent.
struct Statements {
    read: Statement,
    change: Statement,
    enter: Statement,
}

#[derive(Clone)]
struct Tables {
    schema: String,
}

impl Tables {
    async fn create(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let schema = &self.schema;
        client
            .batch_execute(&format!(
                "DROP TABLE IF EXISTS {schema}.accounts, {schema}.transfers;
                 CREATE TABLE {schema}.accounts (id int PRIMARY KEY, balance bigint NOT NULL);
                 CREATE TABLE {schema}.transfers (source int NOT NULL, target int NOT NULL, amount bigint NOT NULL);
                 INSERT INTO {schema}.accounts SELECT id, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) id"
            ))
            .await
    }

    async fn prepare(&self, client: &Client) -> Result<Statements, tokio_postgres::Error> {
        let schema = &self.schema;
        Ok(Statements {
            read: client.prepare(&format!("SELECT id, balance FROM {schema}.accounts WHERE id = $1")).await?,
            change: client
                .prepare(&format!("UPDATE {schema}.accounts SET balance = balance + $2 WHERE id = $1"))
                .await?,
            enter: client.prepare(&format!("INSERT INTO {schema}.transfers VALUES ($1, $2, $3)")).await?,
        })
    }

    /// Whether the tables hold what clients were told is committed. `committed` transfers were confirmed to clients.
    async fn check(&self, client: &Client, committed: u64) -> Result<String, String> {
        let schema = &self.schema;
        let query = format!(
            "SELECT (SELECT count(*) FROM {schema}.transfers),
                    (SELECT sum(balance)::bigint FROM {schema}.accounts),
                    (SELECT count(*) FROM {schema}.accounts
                       LEFT JOIN (SELECT id, sum(change) AS change
                                    FROM (SELECT source AS id, -amount AS change FROM {schema}.transfers
                                          UNION ALL SELECT target, amount FROM {schema}.transfers) changes
                                   GROUP BY id) changes USING (id)
                      WHERE balance <> {OPENING_BALANCE} + coalesce(change, 0))"
        );
        let row = client
            .query_one(&query, &[])
            .await
            .map_err(|error| format!("could not be checked: {}", explain(&error)))?;
        let (entered, total, wrong): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let expected = i64::from(ACCOUNTS) * OPENING_BALANCE;
        if entered as u64 != committed || total != expected || wrong != 0 {
            return Err(format!(
                "do NOT balance: {} transfers were confirmed, {} are there; the total is {total} instead of {expected}; \
                 {wrong} accounts disagree with their transfers",
                thousands(committed),
                thousands(entered as u64),
            ));
        }
        Ok(format!(
            "balance: all {} transfers are there once, every account agrees with them",
            thousands(committed)
        ))
    }
}

/// The server connections, as PostgreSQL sees them.
struct Servers {
    client: Client,
    user: String,
    now: usize,
    most: usize,
    /// Process ids of all backends seen.
    seen: BTreeSet<i32>,
}

impl Servers {
    async fn new(config: &Config, user: &str) -> Result<Self, Failure> {
        let client = connect(config).await?;
        Ok(Self { client, user: user.to_owned(), now: 0, most: 0, seen: BTreeSet::new() })
    }

    async fn look(&mut self) -> Result<(), tokio_postgres::Error> {
        let query = "SELECT pid FROM pg_stat_activity WHERE usename = $1 AND backend_type = 'client backend'";
        let rows = self.client.query(query, &[&self.user]).await?;
        self.now = rows.len();
        self.most = self.most.max(self.now);
        self.seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        Ok(())
    }
}

/// Shows a line of progress a second until the time is over.
async fn watch(
    args: &Args,
    shared: &Shared,
    mut servers: Option<Servers>,
    began: Instant,
) -> Option<Servers> {
    let mut ticks = tokio::time::interval_at((began + Duration::from_secs(1)).into(), Duration::from_secs(1));
    let (mut last, mut last_at) = (0, began);
    for second in 1..=args.seconds {
        ticks.tick().await;
        let (total, now) = (shared.transactions(), Instant::now());
        let rate = (total - last) as f64 / (now - last_at).as_secs_f64();
        (last, last_at) = (total, now);
        let mut line = format!(
            "  {} {second:>3} s {:>9} transactions/s",
            bar(second, args.seconds),
            thousands(rate as u64)
        );
        if let Some(watched) = &mut servers {
            match watched.look().await {
                Ok(()) => line += &format!("   on {} server connections", watched.now),
                Err(error) => shared.error(&format!("observing PostgreSQL: {}", explain(&error))),
            }
        }
        println!("{line}   {} errors", thousands(shared.errors().values().sum()));
    }
    servers
}

/// Counters of the admin console by what they count.
type Counters = BTreeMap<String, u64>;

/// The pooler's admin console, over the simple protocol.
struct Console(Client);

impl Console {
    /// The show is worth seeing without the console, so one that cannot be reached only costs its lines of the table.
    async fn new(config: &Config) -> Option<Self> {
        match connect(config).await {
            Ok(client) => Some(Self(client)),
            Err(error) => {
                println!("  No leases and resets will be told: the admin console says: {}", explain(&error));
                None
            }
        }
    }

    /// The leases, and the resets by reason; what this console does not know is left out. A reset may have several
    /// reasons.
    async fn counters(&self) -> Counters {
        let mut counters = Counters::new();
        let mut add = |name: String, count: Option<&String>| {
            if let Some(count) = count.and_then(|count| count.parse::<u64>().ok()) {
                *counters.entry(name).or_default() += count;
            }
        };
        for row in self.rows("SHOW STATS").await {
            add("leases".to_owned(), row.get("total_server_assignment_count"));
        }
        for row in self.rows("SHOW COUNTERS").await {
            add("resets".to_owned(), row.get("resets"));
            add("resets: failed".to_owned(), row.get("failed_resets"));
        }
        for row in self.rows("SHOW RESETS").await {
            let reason = row.get("reason").map(String::as_str).unwrap_or_default();
            add(format!("resets: because of {reason}"), row.get("resets"));
        }
        counters
    }

    /// What a command shows, as values by column; nothing if the console does not know it.
    async fn rows(&self, command: &str) -> Vec<BTreeMap<String, String>> {
        let messages = self.0.simple_query(command).await.unwrap_or_default();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let values = rows.map(|row| {
            let columns = row.columns().iter().enumerate();
            columns
                .map(|(at, column)| (column.name().to_owned(), row.get(at).unwrap_or_default().to_owned()))
                .collect()
        });
        values.collect()
    }
}

fn difference(before: Counters, after: Counters) -> Counters {
    let grown = after.into_iter().map(|(name, count)| {
        let grown = count.saturating_sub(before.get(&name).copied().unwrap_or(0));
        (name, grown)
    });
    grown.collect()
}

/// Bytes of memory that a process has resident.
fn memory_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// All that is told at the end.
struct Outcome<'a> {
    clients: usize,
    login_time: Duration,
    worked: Duration,
    shared: &'a Shared,
    /// Server connections at the same time, and backends ever seen.
    servers: Option<(usize, usize)>,
    counters: Counters,
    memory: Option<u64>,
    books: &'a Result<String, String>,
}

fn report(outcome: &Outcome<'_>) {
    let shared = outcome.shared;
    let (reads, transfers) = (shared.reads.histogram(), shared.transfers.histogram());
    let transactions = reads.len() + transfers.len();
    let rate = transactions as f64 / outcome.worked.as_secs_f64();
    let line = |name: &str, value: &str| println!("  │ {name:<32} {value:>12} │");
    let numbers = |name: &str, number: u64| line(name, &thousands(number));
    println!();
    println!("  ┌─ what happened {}┐", "─".repeat(31));
    numbers("concurrent clients", outcome.clients as u64);
    line("  logging them in took", &format!("{:.1} s", outcome.login_time.as_secs_f64()));
    if let Some((most, seen)) = outcome.servers {
        numbers("server connections", most as u64);
        if seen != most {
            numbers("  backends, one by one", seen as u64);
        }
    }
    line("time at work", &format!("{:.1} s", outcome.worked.as_secs_f64()));
    numbers("transactions", transactions);
    numbers("  reads, prepared", reads.len());
    numbers("  transfers, 5 statements", transfers.len());
    numbers("transactions a second", rate as u64);
    for (name, count) in &outcome.counters {
        match name.strip_prefix("resets: ") {
            None => numbers(name, *count),
            // Reasons that did not occur are not worth a line.
            Some(reason) if *count > 0 => numbers(&format!("  {reason}"), *count),
            Some(_) => {}
        }
    }
    if let Some(memory) = outcome.memory {
        line("memory of the pooler", &format!("{:.1} MB", memory as f64 / 1e6));
    }
    numbers("errors", shared.errors().values().sum());
    println!("  ├{}┤", "─".repeat(47));
    println!("  │ {:<13} {:>7} {:>7} {:>7} {:>7} │", "latency in ms", "p50", "p90", "p99", "max");
    for (name, histogram) in [("reads", &reads), ("transfers", &transfers)] {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| millis(histogram.value_at_quantile(quantile)));
        println!("  │ {name:<13} {p50:>7} {p90:>7} {p99:>7} {:>7} │", millis(histogram.max()));
    }
    println!("  └{}┘", "─".repeat(47));
    match outcome.books {
        Ok(text) | Err(text) => println!("  The books {text}."),
    }
    for (text, count) in shared.errors().iter().take(5) {
        println!("  ERROR, {} times: {text}", thousands(*count));
    }
}

fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 20;
    let full = done * WIDTH / all.max(1);
    (0..WIDTH).map(|at| if at < full { '█' } else { '░' }).collect()
}

fn millis(micros: u64) -> String {
    let millis = micros as f64 / 1000.0;
    if millis < 100.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An error with its causes: the outermost alone often says no more than "db error".
fn explain(error: &(dyn Error + 'static)) -> String {
    struct Chain<'a>(&'a (dyn Error + 'static));
    impl fmt::Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.0)?;
            let mut source = self.0.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
            Ok(())
        }
    }
    Chain(error).to_string()
}

/// A small generator (xorshift), seeded so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn account(&mut self) -> i32 {
        1 + self.below(ACCOUNTS as u64) as i32
    }
}
