//! Plays one script of wire messages to PostgreSQL and to a pooler, and compares what comes back, message by message.
//!
//! ```ignore
//! let script = Script::new("failed transaction")
//!     .setup("CREATE TABLE t (id int)")
//!     .before_each("TRUNCATE t")
//!     .teardown("DROP TABLE t")
//!     .query("BEGIN")
//!     .query("SELECT 1 / 0")
//!     .client("other")
//!     .query("SELECT count(*) FROM t")
//!     .client("main")
//!     .query("ROLLBACK");
//! let pooled = Side::new("pgvalet", pgvalet.tcp(), Role::Trust.login());
//! compare(cluster, &script, &Side::direct(cluster, Role::Trust), &pooled, How::WHOLE);
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::Endpoint;
use super::backend;
use super::cluster::{Cluster, DATABASE, Role};
use super::frontend;
use super::transcript::{Entry, Event, Mismatch, Normalisation};
use super::wire::{Client, Login};

/// A list of steps for one or several clients, the same on both sides.
///
/// It is played several times: `before_each` undoes what its steps leave in the database.
#[derive(Debug, Clone)]
pub struct Script {
    name: String,
    steps: Vec<(&'static str, Step)>,
    setup: Vec<String>,
    before_each: Vec<String>,
    teardown: Vec<String>,
    logins: BTreeMap<&'static str, Vec<(String, String)>>,
    normalisations: Vec<Normalisation>,
    sqlstates: Vec<&'static str>,
    crowded: bool,
    current: &'static str,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    UntilReady,
    Read(usize),
    UntilEnd,
    HalfClose,
    Leave,
}

impl Script {
    /// Steps are for the client `main` until [`Script::client`] says otherwise.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            steps: Vec::new(),
            setup: Vec::new(),
            before_each: Vec::new(),
            teardown: Vec::new(),
            logins: BTreeMap::new(),
            normalisations: Normalisation::ALWAYS.to_vec(),
            sqlstates: Vec::new(),
            crowded: false,
            current: "main",
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many clients the script has.
    pub fn clients(&self) -> usize {
        self.steps.iter().map(|(client, _)| client).collect::<BTreeSet<_>>().len()
    }

    /// Run by a superuser, directly, once before both plays (so that both see the same object ids).
    pub fn setup(mut self, sql: &str) -> Self {
        self.setup.push(sql.into());
        self
    }

    /// Run by a superuser, directly, before each of the two plays.
    pub fn before_each(mut self, sql: &str) -> Self {
        self.before_each.push(sql.into());
        self
    }

    /// Run by a superuser, directly, once after both plays.
    pub fn teardown(mut self, sql: &str) -> Self {
        self.teardown.push(sql.into());
        self
    }

    /// The steps that follow are for this client; its session is opened at its first step.
    pub fn client(mut self, name: &'static str) -> Self {
        self.current = name;
        self
    }

    /// A startup parameter of the current client.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.logins.entry(self.current).or_default().push((name.into(), value.into()));
        self
    }

    /// The errors that the script is about, in order, by SQLSTATE. PostgreSQL giving any others (a table that is not there,
    /// a missing right) means that the script is wrong, however well both sides agree.
    pub fn errors(mut self, sqlstates: &[&'static str]) -> Self {
        self.sqlstates.extend_from_slice(sqlstates);
        self
    }

    /// Leaves one more kind of difference out.
    pub fn ignore(mut self, normalisation: Normalisation) -> Self {
        self.normalisations.push(normalisation);
        self
    }

    /// If servers rotate, they do so between all steps, also while clients of the script have something open: a server
    /// that is given back too early is in other hands at the next step. The pool must have one server more for this.
    pub fn crowded(mut self) -> Self {
        self.crowded = true;
        self
    }

    /// Sends bytes (of [`frontend`], usually several messages).
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    /// Sends several messages at once.
    pub fn pipeline(self, messages: &[Vec<u8>]) -> Self {
        self.send(messages.concat())
    }

    /// Reads up to and including ReadyForQuery.
    pub fn ready(self) -> Self {
        self.step(Step::UntilReady)
    }

    /// Reads this many messages.
    pub fn read(self, messages: usize) -> Self {
        self.step(Step::Read(messages))
    }

    /// Reads up to the end of the connection.
    pub fn end(self) -> Self {
        self.step(Step::UntilEnd)
    }

    /// Says that nothing more will be sent, without Terminate.
    pub fn half_close(self) -> Self {
        self.step(Step::HalfClose)
    }

    /// The current client closes its socket without a word.
    pub fn leave(self) -> Self {
        self.step(Step::Leave)
    }

    /// A simple query, and all that it earns.
    pub fn query(self, sql: &str) -> Self {
        self.send(frontend::query(sql)).ready()
    }

    /// Parse, Bind, Execute, Sync of the unnamed statement, and all that they earn.
    pub fn extended(self, sql: &str, parameters: &[Option<&str>]) -> Self {
        self.send(frontend::extended(sql, parameters)).ready()
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push((self.current, step));
        self
    }
}

/// Where a script is played.
#[derive(Debug, Clone)]
pub struct Side {
    pub name: String,
    pub endpoint: Endpoint,
    pub login: Login,
}

impl Side {
    pub fn new(name: &str, endpoint: Endpoint, login: Login) -> Self {
        Self { name: name.into(), endpoint, login }
    }

    /// PostgreSQL itself.
    pub fn direct(cluster: &Cluster, role: Role) -> Self {
        Self::new(&format!("PostgreSQL {}", cluster.major()), cluster.tcp(), role.login())
    }
}

/// How a script is played on the second side. (The first side gets it whole, so that it is the truth.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// Cut all that clients send, their login too, into pieces of this size.
    pub split: Option<usize>,
    /// Between steps, while all clients of the script are outside transactions, let other clients run transactions so
    /// that the next step gets another server than the last. The pool must have one server more than the script has
    /// clients that hold one at the same time, and the script must not pin servers.
    pub rotate: bool,
}

impl How {
    pub const WHOLE: Self = Self { split: None, rotate: false };
    pub const BYTEWISE: Self = Self { split: Some(1), rotate: false };
    pub const ROTATING: Self = Self { split: None, rotate: true };
}

/// Plays the script on both sides; panics with both transcripts if they differ.
#[track_caller]
pub fn compare(cluster: &Cluster, script: &Script, truth: &Side, other: &Side, how: How) {
    if let Err(mismatch) = try_compare(cluster, script, truth, other, how) {
        panic!("{mismatch}");
    }
}

/// Plays the script on both sides. `cluster` is where `setup` and `teardown` are run.
pub fn try_compare(
    cluster: &Cluster,
    script: &Script,
    truth: &Side,
    other: &Side,
    how: How,
) -> Result<(), Box<Mismatch>> {
    administer(cluster, &script.setup);
    let left = play(cluster, script, truth, How::WHOLE);
    let right = play(cluster, script, other, how);
    administer(cluster, &script.teardown);
    let sqlstates: Vec<_> = left.iter().filter_map(Entry::sqlstate).collect();
    assert_eq!(
        sqlstates, script.sqlstates,
        "errors of PostgreSQL in the script {:?}:\n{left:#?}",
        script.name
    );
    // Two sides that fail alike prove nothing: the script itself is wrong then.
    let failed = left.iter().position(|entry| matches!(entry.event, Event::Failed(_)));
    match failed.or_else(|| Mismatch::find(&left, &right)) {
        None => Ok(()),
        Some(first) => Err(Box::new(Mismatch {
            script: script.name.clone(),
            how: format!("{how:?}"),
            names: [truth.name.clone(), other.name.clone()],
            transcripts: [left, right],
            first,
        })),
    }
}

/// Plays the script on one side (without its setup and teardown); the transcript is normalised.
pub fn play(cluster: &Cluster, script: &Script, side: &Side, how: How) -> Vec<Entry> {
    administer(cluster, &script.before_each);
    let mut player = Player { script, side, how, clients: BTreeMap::new(), entries: Vec::new() };
    let mut rotators = how.rotate.then(|| Rotators::new(side));
    for (client, step) in &script.steps {
        if let Some(rotators) = rotators.as_mut().filter(|_| script.crowded || player.all_idle()) {
            rotators.turn();
        }
        if player.play(client, step).is_err() {
            break;
        }
    }
    let Player { clients, mut entries, .. } = player;
    for actor in clients.into_values() {
        actor.client.terminate();
    }
    drop(rotators);
    for normalisation in &script.normalisations {
        normalisation.apply(&mut entries);
    }
    entries
}

fn administer(cluster: &Cluster, statements: &[String]) {
    let login = Login::new("postgres", DATABASE);
    let mut session = Client::login(&cluster.tcp(), &login).expect("a superuser logs in");
    for sql in statements {
        session.rows(sql);
    }
    session.terminate();
}

struct Player<'a> {
    script: &'a Script,
    side: &'a Side,
    how: How,
    clients: BTreeMap<&'static str, Actor>,
    entries: Vec<Entry>,
}

/// A client of the script, and whether it holds no server.
struct Actor {
    client: Client,
    idle: bool,
}

/// A step could not be played; the transcript says why, and ends there.
struct Broken;

impl Player<'_> {
    fn play(&mut self, name: &'static str, step: &Step) -> Result<(), Broken> {
        if !self.clients.contains_key(name) {
            self.open(name)?;
        }
        match step {
            Step::Send(bytes) => {
                self.note(name, Event::Sent(frontend::describe(bytes)));
                let actor = self.actor(name);
                actor.idle = false;
                // A server that has closed the connection may still have sent something that the next step reads.
                let _ = actor.client.try_send(bytes);
            }
            Step::UntilReady => while self.read(name)?.ready().is_none() {},
            Step::Read(count) => {
                for _ in 0..*count {
                    self.read(name)?;
                }
            }
            Step::UntilEnd => {
                let received = self.actor(name).client.try_until_end();
                self.clients.remove(name);
                let last =
                    received.as_ref().map_or_else(|error| Event::Failed(error.to_string()), |_| Event::Ended);
                for message in received.unwrap_or_default() {
                    self.note(name, Event::Received(message));
                }
                self.note(name, last);
            }
            Step::HalfClose => self.actor(name).client.half_close(),
            Step::Leave => drop(self.clients.remove(name)),
        }
        Ok(())
    }

    fn open(&mut self, name: &'static str) -> Result<(), Broken> {
        let mut login = self.side.login.clone().split(self.how.split);
        login.parameters.extend(self.script.logins.get(name).cloned().unwrap_or_default());
        self.note(name, Event::Opened);
        let client = match Client::login(&self.side.endpoint, &login) {
            Ok(client) => client,
            Err(super::wire::LoginError::Refused(message)) => {
                return Err(self.broken(name, Event::Received(message)));
            }
            Err(error) => return Err(self.broken(name, Event::Failed(error.to_string()))),
        };
        for message in &client.greeting {
            self.note(name, Event::Greeting(message.clone()));
        }
        self.clients.insert(name, Actor { client, idle: true });
        Ok(())
    }

    fn read(&mut self, name: &'static str) -> Result<backend::Message, Broken> {
        match self.actor(name).client.try_recv() {
            Ok(Some(message)) => {
                self.note(name, Event::Received(message.clone()));
                if let Some(status) = message.ready() {
                    self.actor(name).idle = status == 'I';
                }
                Ok(message)
            }
            Ok(None) => Err(self.broken(name, Event::Failed("the connection ended".into()))),
            Err(error) => Err(self.broken(name, Event::Failed(error.to_string()))),
        }
    }

    fn actor(&mut self, name: &'static str) -> &mut Actor {
        self.clients.get_mut(name).expect("the client is open while the script has steps for it")
    }

    fn all_idle(&self) -> bool {
        self.clients.values().all(|actor| actor.idle)
    }

    fn note(&mut self, client: &'static str, event: Event) {
        self.entries.push(Entry { client, event });
    }

    fn broken(&mut self, client: &'static str, event: Event) -> Broken {
        self.note(client, event);
        Broken
    }
}

/// Two clients that hold a server in turn. One takes the server that was used last, then the other gives back the one
/// that it had held, and so that becomes the next to be lent.
struct Rotators {
    holding: Client,
    free: Client,
}

impl Rotators {
    fn new(side: &Side) -> Self {
        let open = || Client::login(&side.endpoint, &side.login).expect("a rotating client logs in");
        let mut rotators = Self { holding: open(), free: open() };
        rotators.holding.rows("BEGIN; SELECT 1");
        rotators
    }

    fn turn(&mut self) {
        self.free.rows("BEGIN; SELECT 1");
        self.holding.rows("COMMIT");
        std::mem::swap(&mut self.holding, &mut self.free);
    }
}

impl Drop for Rotators {
    fn drop(&mut self) {
        let _ = self.holding.try_send(&frontend::query("ROLLBACK"));
    }
}
