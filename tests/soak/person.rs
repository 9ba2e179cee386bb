//! One client of the soak: what it does, and what its session must hold.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::random::Random;
use crate::support::backend::{Message, first_error, rows};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login, LoginError};

/// For an answer: the machine may be busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);
/// Logins that may take too long in a row.
const LOGINS: usize = 10;
/// Roles that the clients' own may take.
const ROLES: [&str; 2] = ["soak_one", "soak_two"];

/// Settings that are changed, with values that PostgreSQL shows as they stand; of the first of each a session begins with.
const SETTINGS: [(&str, [&str; 3]); 6] = [
    ("work_mem", ["4MB", "5MB", "6MB"]),
    ("search_path", ["\"$user\", public", "public", "pg_catalog, public"]),
    ("TimeZone", ["UTC", "Asia/Tokyo", "Europe/Berlin"]),
    ("statement_timeout", ["0", "200s", "300s"]),
    ("default_transaction_isolation", ["read committed", "repeatable read", "serializable"]),
    ("soak.tenant", ["", "one", "two"]),
];

/// All that can be seen of a session, in the order of [`Mine::seen`].
const LOOK: &str = "SELECT session_user || '/' || current_user, current_setting('work_mem'), current_setting('search_path'), \
    current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('default_transaction_isolation'), \
    coalesce(current_setting('soak.tenant', true), ''), \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT coalesce(string_agg(objid::text, ','), '') FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT coalesce(string_agg(name, ','), '') FROM pg_cursors WHERE is_holdable), \
    (SELECT coalesce(string_agg(relname, ','), '') FROM pg_class WHERE relnamespace = pg_my_temp_schema()), \
    (SELECT coalesce(string_agg(c, ','), '') FROM pg_listening_channels() c)";

/// What its session must hold.
#[derive(Debug, Clone, Default)]
struct Mine {
    settings: BTreeMap<&'static str, &'static str>,
    role: Option<&'static str>,
    /// A temporary table with this many rows.
    table: Option<usize>,
    /// An advisory lock, taken this many times.
    locks: usize,
    cursor: bool,
    channel: bool,
    prepared: bool,
    drawn: Option<String>,
}

/// A client.
#[derive(Debug)]
pub struct Person {
    client: Client,
    number: usize,
    random: Random,
    mine: Mine,
    /// Notifications of its own so far.
    notified: usize,
    /// Those that it has to hear yet. (An answer waits for them for a second at most.)
    awaited: Vec<String>,
    patience: usize,
    /// What it has said last.
    recent: VecDeque<String>,
}

type Found<T> = Result<T, String>;

/// What is in the database for all.
pub fn prepare(cluster: &Cluster) {
    for role in ROLES {
        cluster.sql(&format!("CREATE ROLE {role}; GRANT {role} TO {}", Role::Trust.name()));
        cluster.sql(&format!("GRANT ALL ON SCHEMA public TO {role}"));
    }
    for sql in [
        "CREATE TABLE soak (n int PRIMARY KEY, x int NOT NULL)",
        "INSERT INTO soak SELECT n, 0 FROM generate_series(0, 999) n",
        "GRANT ALL ON soak TO PUBLIC",
        "CREATE SEQUENCE soak_numbers",
        "GRANT ALL ON soak_numbers TO PUBLIC",
        "CREATE FUNCTION soak_hidden(name text, value text) RETURNS text LANGUAGE sql AS 'SELECT set_config(name, value, false)'",
    ] {
        cluster.sql(sql);
    }
}

impl Person {
    pub fn arrive(valet: &Pgvalet, number: usize, seed: u64) -> Found<Self> {
        let login = Login::new(Role::Trust.name(), DATABASE);
        // The harness waits for half a minute, which a busy machine may need for other things.
        let mut tries = 0;
        let client = loop {
            match Client::login(&valet.tcp(), &login) {
                Ok(client) => break client,
                Err(LoginError::Io(_)) if tries < LOGINS => tries += 1,
                Err(error) => return Err(format!("login: {error}")),
            }
        };
        client.set_deadline(PATIENCE);
        Ok(Self {
            client,
            number,
            random: Random::new(seed),
            mine: Mine::default(),
            notified: 0,
            awaited: Vec::new(),
            patience: 0,
            recent: VecDeque::new(),
        })
    }

    pub fn leave(self) {
        self.client.terminate();
    }

    /// Ends in some way.
    pub fn vanish(mut self) {
        match self.random.below(6) {
            0 => drop(self.run("BEGIN; SET work_mem = '77MB'; SET soak.tenant = 'left'")),
            1 => self.client.send(&frontend::query("SET work_mem = '78MB'; SELECT pg_sleep(600)")),
            2 => self.client.send(&frontend::parse("", "SET soak.tenant = 'left'")),
            3 => drop(self.run("CREATE TEMP TABLE left_behind (n int); SELECT pg_advisory_lock(1000000)")),
            4 => return self.client.terminate(),
            _ => {}
        }
        self.client.reset();
    }

    /// How long it rests, `mean` on average.
    pub fn pause(&mut self, mean: Duration) -> Duration {
        let percent = u32::try_from(self.random.below(200)).unwrap_or(100);
        mean * percent / 100
    }

    /// One thing that it does, and a look at its session; `false` if that was the last.
    pub fn step(&mut self) -> Found<bool> {
        // What keeps a server is not kept for long.
        if self.mine.keeps() && self.random.chance(50) {
            self.let_go()?;
        }
        match self.random.below(100) {
            0..30 => self.work()?,
            30..55 => self.set()?,
            55..60 => self.take_role()?,
            60..62 => self.use_table()?,
            62..64 => self.lock()?,
            64..66 => self.hold_cursor()?,
            66..67 => self.draw()?,
            67..71 => self.listen()?,
            71..81 => self.notify()?,
            81..87 => self.prepare()?,
            87..90 => self.fail()?,
            90..93 => self.forget()?,
            93..95 => self.be_canceled()?,
            // Nothing undoes it: the server is closed when its client leaves.
            95..96 => return self.run("SELECT setseed(0.5)").map(|()| false),
            _ => return Ok(false),
        }
        self.look()?;
        self.patience = if self.awaited.is_empty() { 0 } else { self.patience + 1 };
        check(self.patience < 5, || format!("its own notifications never came: {:?}", self.awaited))?;
        Ok(true)
    }

    /// Compares what the session holds with what it must hold.
    fn look(&mut self) -> Found<()> {
        let found = self.rows(LOOK)?;
        let found: Vec<String> =
            found.into_iter().flatten().map(|value| value.unwrap_or_else(|| "NULL".into())).collect();
        let wanted = self.mine.seen(self.number);
        if found != wanted {
            return Err(format!("the session holds {found:?} in place of {wanted:?}"));
        }
        if let Some(count) = self.mine.table {
            let rows = self.value(&format!("SELECT count(*) FROM pg_temp.soak_{}", self.number))?;
            check(rows == count.to_string(), || format!("{rows} rows in place of {count}"))?;
        }
        if let Some(drawn) = self.mine.drawn.clone() {
            let now = self.value("SELECT currval('public.soak_numbers')")?;
            check(now == drawn, || format!("currval is {now} in place of {drawn}"))?;
        }
        if self.mine.prepared {
            let answer = self.value(&format!("EXECUTE mine({})", self.number))?;
            check(answer == format!("{}", self.number + 1), || format!("EXECUTE gave {answer}"))?;
        }
        Ok(())
    }

    /// Work that leaves nothing behind.
    fn work(&mut self) -> Found<()> {
        let row = self.random.below(1000);
        match self.random.below(4) {
            0 => self.run(&format!("SELECT x FROM public.soak WHERE n = {row}")),
            1 => {
                let row = row.to_string();
                let replies =
                    self.client.extended("SELECT x FROM public.soak WHERE n = $1::int", &[Some(&row)]);
                self.judge("an extended query", &replies)
            }
            2 => self.run("BEGIN; SELECT count(*) FROM public.soak; COMMIT"),
            _ => {
                let row = self.number;
                self.run(&format!(
                    "INSERT INTO public.soak VALUES ({}, 0) ON CONFLICT DO NOTHING",
                    row % 1000
                ))
            }
        }
    }

    /// A setting, in whatever way, perhaps in a transaction that may be rolled back.
    fn set(&mut self) -> Found<()> {
        let (name, values) = SETTINGS[self.random.below(SETTINGS.len())];
        let value = values[self.random.below(values.len())];
        let sql = match self.random.below(4) {
            0 if name != "search_path" => format!("SET {name} = '{value}'"),
            1 => format!("SELECT public.soak_hidden('{name}', '{value}')"),
            2 if name == "soak.tenant" => {
                format!("DO $$ BEGIN PERFORM set_config('{name}', '{value}', false); END $$")
            }
            _ => format!("SELECT set_config('{name}', '{value}', false)"),
        };
        let before = self.mine.clone();
        self.mine.settings.insert(name, value);
        match self.random.below(4) {
            0 => self.run(&format!("BEGIN; {sql}; COMMIT")),
            1 => {
                self.mine = before;
                self.run("BEGIN")?;
                self.run(&sql)?;
                self.run("ROLLBACK")
            }
            2 => {
                self.run("BEGIN")?;
                self.run("SAVEPOINT s")?;
                self.run("SET work_mem = '9MB'")?;
                self.run("ROLLBACK TO s")?;
                self.run(&sql)?;
                self.run("COMMIT")
            }
            _ => self.run(&sql),
        }
    }

    fn take_role(&mut self) -> Found<()> {
        self.mine.role = match self.random.below(3) {
            0 => None,
            which => Some(ROLES[which - 1]),
        };
        match self.mine.role {
            Some(role) => self.run(&format!("SET ROLE {role}")),
            None => self.run("RESET ROLE"),
        }
    }

    fn use_table(&mut self) -> Found<()> {
        // Tables belong to the role that makes them.
        self.mine.role = None;
        self.run("RESET ROLE")?;
        let table = format!("pg_temp.soak_{}", self.number);
        if self.mine.table.is_none() {
            self.run(&format!("CREATE TEMP TABLE soak_{} (n int)", self.number))?;
        }
        self.run(&format!("GRANT ALL ON {table} TO PUBLIC; INSERT INTO {table} VALUES (1)"))?;
        self.mine.table = Some(self.mine.table.unwrap_or(0) + 1);
        Ok(())
    }

    fn lock(&mut self) -> Found<()> {
        self.mine.locks += 1;
        self.run(&format!("SELECT pg_advisory_lock({})", self.number + 1))
    }

    fn hold_cursor(&mut self) -> Found<()> {
        if self.mine.cursor {
            return self.run("FETCH 1 FROM held");
        }
        self.mine.cursor = true;
        self.run("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 50); COMMIT")
    }

    fn draw(&mut self) -> Found<()> {
        self.mine.drawn = Some(self.value("SELECT nextval('public.soak_numbers')")?);
        Ok(())
    }

    /// Ends what keeps its server.
    fn let_go(&mut self) -> Found<()> {
        if self.mine.table.take().is_some() {
            self.mine.role = None;
            self.run(&format!("RESET ROLE; DROP TABLE pg_temp.soak_{}", self.number))?;
        }
        while self.mine.locks > 0 {
            self.mine.locks -= 1;
            self.run(&format!("SELECT pg_advisory_unlock({})", self.number + 1))?;
        }
        if std::mem::take(&mut self.mine.cursor) {
            self.run("CLOSE held")?;
        }
        if self.mine.drawn.take().is_some() {
            self.run("DISCARD SEQUENCES")?;
        }
        Ok(())
    }

    fn listen(&mut self) -> Found<()> {
        self.mine.channel = !self.mine.channel;
        self.awaited.clear();
        let verb = if self.mine.channel { "LISTEN" } else { "UNLISTEN" };
        self.run(&format!("{verb} soak_{}", self.number))
    }

    /// Notifies itself, which comes in front of the answer, or a neighbour.
    fn notify(&mut self) -> Found<()> {
        self.notified += 1;
        let text = format!("{}:{}", self.number, self.notified);
        let to = if self.random.chance(60) { self.number } else { self.random.below(500) };
        if to == self.number && self.mine.channel {
            self.awaited.push(text.clone());
        }
        self.run(&format!("NOTIFY soak_{to}, '{text}'"))
    }

    fn prepare(&mut self) -> Found<()> {
        self.mine.prepared = !self.mine.prepared;
        match self.mine.prepared {
            true => self.run("PREPARE mine(int) AS SELECT $1 + 1"),
            false => self.run("DEALLOCATE mine"),
        }
    }

    /// An error, which takes a setting back.
    fn fail(&mut self) -> Found<()> {
        let replies = self.client.query("BEGIN; SET work_mem = '99MB'; SELECT 1/0; COMMIT");
        expect(&replies, "22012")?;
        self.run("ROLLBACK")
    }

    fn forget(&mut self) -> Found<()> {
        if self.random.chance(50) {
            self.mine.settings.clear();
            return self.run("RESET ALL");
        }
        self.mine = Mine::default();
        self.awaited.clear();
        self.run("DISCARD ALL")
    }

    fn be_canceled(&mut self) -> Found<()> {
        self.client.send(&frontend::query("SELECT pg_sleep(600)"));
        let _ = self.client.cancel().send();
        // One that comes before the query is for nobody: then another.
        self.client.set_deadline(Duration::from_secs(2));
        let mut replies = Vec::new();
        let mut tries = 0;
        loop {
            match self.client.try_recv() {
                Ok(Some(message)) => {
                    let is_last = message.ready().is_some();
                    replies.push(message);
                    if is_last {
                        break;
                    }
                }
                Ok(None) => return Err("the connection ended in place of a query".into()),
                Err(_) if tries < 60 => {
                    tries += 1;
                    let _ = self.client.cancel().send();
                }
                Err(error) => return Err(format!("a query is not cancelled: {error}")),
            }
        }
        self.client.set_deadline(PATIENCE);
        expect(&replies, "57014")
    }

    /// What it has said last, for a finding.
    pub fn recent(&self) -> String {
        self.recent.iter().map(|sql| format!("\n  {sql}")).collect()
    }

    fn run(&mut self, sql: &str) -> Found<()> {
        let replies = self.client.query(sql);
        self.judge(sql, &replies)
    }

    fn rows(&mut self, sql: &str) -> Found<Vec<Vec<Option<String>>>> {
        let replies = self.client.query(sql);
        self.judge(sql, &replies)?;
        Ok(rows(&replies))
    }

    fn value(&mut self, sql: &str) -> Found<String> {
        let rows = self.rows(sql)?;
        rows.into_iter().flatten().flatten().next().ok_or_else(|| format!("{sql}: no value"))
    }

    /// That there is no error, and no notification that is not for it, or the same again.
    fn judge(&mut self, what: &str, replies: &[Message]) -> Found<()> {
        if what != LOOK {
            self.recent.push_back(what.into());
        }
        if self.recent.len() > 12 {
            self.recent.pop_front();
        }
        if let Some(sqlstate) = first_error(replies) {
            let text = replies.iter().find_map(|message| message.field(b'M')).unwrap_or_default();
            return Err(format!("{what}: {sqlstate}: {text}"));
        }
        let (own, sender) = (format!("soak_{}", self.number), format!("{}:", self.number));
        for (channel, text) in replies.iter().filter_map(notified) {
            check(channel == own, || format!("a notification for {channel}"))?;
            if text.starts_with(&sender) {
                let at = self.awaited.iter().position(|awaited| *awaited == text);
                self.awaited.remove(at.ok_or_else(|| format!("{text} was notified once, and heard again"))?);
            }
        }
        Ok(())
    }
}

impl Mine {
    /// Whether it keeps its server.
    fn keeps(&self) -> bool {
        self.table.is_some() || self.locks > 0 || self.cursor || self.drawn.is_some()
    }

    /// What [`LOOK`] shows.
    fn seen(&self, number: usize) -> Vec<String> {
        let login = Role::Trust.name();
        let named = |there: bool, name: String| if there { name } else { String::new() };
        let mut seen = vec![format!("{login}/{}", self.role.unwrap_or(login))];
        let shown = |&(name, values): &(&'static str, [&'static str; 3])| {
            let value = self.settings.get(name).copied().unwrap_or(values[0]);
            // 200 seconds have another unit.
            if value == "300s" { "5min".to_owned() } else { value.to_owned() }
        };
        seen.extend(SETTINGS.iter().map(shown));
        seen.push(usize::from(self.locks > 0).to_string());
        seen.push(named(self.locks > 0, (number + 1).to_string()));
        seen.push(named(self.cursor, "held".into()));
        seen.push(named(self.table.is_some(), format!("soak_{number}")));
        seen.push(named(self.channel, format!("soak_{number}")));
        seen
    }
}

/// Channel and payload of a notification.
fn notified(message: &Message) -> Option<(String, String)> {
    let (_, rest) = message.body.split_at_checked(4).filter(|_| message.tag == b'A')?;
    let mut parts = rest.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    Some((parts.next()?, parts.next()?))
}

fn expect(replies: &[Message], sqlstate: &str) -> Found<()> {
    let found = first_error(replies);
    check(found.as_deref() == Some(sqlstate), || format!("{found:?} in place of {sqlstate}"))
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Found<()> {
    if holds { Ok(()) } else { Err(what()) }
}
