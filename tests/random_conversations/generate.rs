//! Makes up conversations.
//!
//! Most of what is said is legal, some of it is not, and all of it is answered: nothing here makes PostgreSQL end a
//! session. What the generator believes of a client (a transaction is open, a statement has so many parameters) only
//! makes sensible messages likelier; an error that it did not foresee makes it wrong, and that is fine.
//!
//! One thing is never said: in a failed transaction PostgreSQL reads memory it has freed, and may crash, when it is told to
//! execute a portal from before the failure whose statement is gone. So only the portal [`KEPT_PORTAL`] is executed in a
//! later batch than the one that binds it, and its statement stays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::random::Random;
use super::script::{Action, Cuts, Leaving, Message, Script, Setup, Step, Value};
use super::vocabulary::{self, Kind, Prepared, Role, Topic};

const STATEMENTS: &[&str] = &["", "", "s1", "s1", "s2", "s3", "a name with a \" in it"];
const LONG_NAMES: &[&str] = &[
    "a_long_name_of_which_only_the_first_63_bytes_count_for_PostgreSQL_1",
    "a_long_name_of_which_only_the_first_63_bytes_count_for_PostgreSQL_2",
];
const PORTALS: &[&str] = &["", "", "", "p1", "p2"];
const KEPT_STATEMENT: &str = "kept";
const KEPT_PORTAL: &str = "kept";
const NO_PORTAL: &str = "no such portal";
pub const MOST_CLIENTS: usize = 4;
const MOST_STEPS: usize = 40;

/// With `with_state` some clients also make what keeps them on a server, and all listen; nobody else is kept there.
pub fn script(seed: u64, with_state: bool) -> Script {
    let mut random = Random::new(seed);
    let mut setup = Setup {
        pool_size: *random.pick(&[1, 2, 2, 2, 3]),
        workers: *random.pick(&[1, 1, 2]),
        max_prepared_statements: *random.pick(&[200, 200, 1, 2, 4]),
        reset: random.pick::<&str>(&["auto", "auto", "always"]),
        keepers: 0,
    };
    let clients = 2 + random.below(MOST_CLIENTS - 1);
    if with_state {
        setup.keepers = 1 + random.below(clients.min(3) - 1);
        setup.pool_size = setup.keepers + 1 + random.below(2);
    }
    let role = |client| match with_state {
        false => Role::Sharing,
        true if client < setup.keepers => Role::Keeping,
        true => Role::Listening,
    };
    let mut speakers: Vec<Speaker> = (0..clients).map(|client| Speaker::new(client, role(client))).collect();
    let count = 10 + random.below(MOST_STEPS);
    let cutting = random.below(3);
    let mut steps = Vec::new();
    let mut client = 0;
    for _ in 0..count {
        // One client goes on for a while, then another.
        if random.chance(60) {
            client = random.below(clients);
        }
        let action = speakers[client].next(&mut random);
        let cuts = match cutting {
            0 => Cuts::Whole,
            1 => Cuts::Every(*random.pick(&[1, 1, 2, 3, 7])),
            _ => Cuts::Random(random.next(), *random.pick(&[3, 20, 200])),
        };
        steps.push(Step { client, action, cuts, eager: random.chance(30) });
    }
    Script { seed, clients, setup, steps }
}

/// A client, as far as the generator remembers what it did.
#[derive(Debug)]
struct Speaker {
    client: usize,
    role: Role,
    in_transaction: bool,
    statements: BTreeMap<String, Vec<Kind>>,
    /// Portals bound in the batch that is being made up.
    portals: BTreeSet<String>,
    /// Whether the portal that outlives its batch may be there, and its statement is.
    kept: bool,
    /// Steps that a COPY still needs.
    planned: VecDeque<Vec<Message>>,
}

impl Speaker {
    fn new(client: usize, role: Role) -> Self {
        Self {
            client,
            role,
            in_transaction: false,
            statements: BTreeMap::new(),
            portals: BTreeSet::new(),
            kept: false,
            planned: VecDeque::new(),
        }
    }

    fn next(&mut self, random: &mut Random) -> Action {
        if random.chance(2) {
            return self.leave(random);
        }
        if let Some(messages) = self.planned.pop_front() {
            return Action::Send(messages);
        }
        let mut messages = Vec::new();
        let exchanges = if random.chance(20) { 2 + random.below(4) } else { 1 };
        for _ in 0..exchanges {
            self.exchange(random, &mut messages);
            if !self.planned.is_empty() {
                break;
            }
        }
        Action::Send(messages)
    }

    fn leave(&mut self, random: &mut Random) -> Action {
        let client = self.client;
        *self = Self::new(client, self.role);
        let leaving = match random.below(3) {
            0 => Leaving::Terminate,
            1 => Leaving::Close,
            _ => {
                let message = Message::Query(format!("INSERT INTO c{client} (n) VALUES (666)"));
                let count = random.below(message.encode().len());
                Leaving::Within(message, count)
            }
        };
        Action::Leave(leaving)
    }

    fn exchange(&mut self, random: &mut Random, messages: &mut Vec<Message>) {
        let transaction = if self.in_transaction { 20 } else { 12 };
        let state = if self.role == Role::Sharing { 0 } else { 40 };
        match random.weighted(&[
            (18, 0),
            (transaction, 1),
            (45, 2),
            (8, 3),
            (8, 4),
            (3, 5),
            (3, 6),
            (2, 7),
            (3, 8),
            (state, 9),
        ]) {
            0 => messages.push(Message::Query(vocabulary::query(random, self.client, self.role))),
            9 => {
                let sql = vocabulary::state(random, self.client, self.role);
                match random.below(3) {
                    0 => messages.extend(extended(&sql)),
                    _ => messages.push(Message::Query(sql)),
                }
            }
            1 => {
                let sql = vocabulary::transaction(random, self.in_transaction);
                self.in_transaction = sql.contains("BEGIN") || sql.contains("START") || sql.contains("CHAIN");
                match random.below(3) {
                    0 => messages.extend(extended(&sql)),
                    _ => messages.push(Message::Query(sql)),
                }
            }
            2 => self.batch(random, messages),
            3 => self.copy(random, messages),
            4 => {
                let sql = vocabulary::setting(random, self.client, self.role);
                match random.below(3) {
                    0 => messages.extend(extended(&sql)),
                    _ => messages.push(Message::Query(sql)),
                }
            }
            5 => {
                let second = random.pick(&["2", "two", "2147483647"]).to_string();
                messages.push(Message::FunctionCall(177, vec![Some("40".into()), Some(second)]));
            }
            6 => {
                // Nothing in particular.
                messages.push(match random.below(5) {
                    0 => Message::Sync,
                    1 => Message::Flush,
                    2 => Message::CopyData("stray".into()),
                    3 => Message::CopyDone,
                    _ => Message::CopyFail("stray".into()),
                });
            }
            7 => {
                // A Query before the batch has its Sync.
                self.message(random, messages);
                messages.push(Message::Query(format!("SELECT 'inside {}'", self.client)));
                self.portals.clear();
                self.message(random, messages);
                messages.push(Message::Sync);
            }
            _ => {
                self.kept = false;
                let sql = *random.pick(&["DEALLOCATE ALL", "DISCARD ALL", "DISCARD PLANS", "CLOSE ALL"]);
                match random.below(3) {
                    0 => messages.extend(extended(sql)),
                    _ => messages.push(Message::Query(sql.into())),
                }
            }
        }
    }

    /// Messages of the extended protocol, ended in one way or another.
    fn batch(&mut self, random: &mut Random, messages: &mut Vec<Message>) {
        let start = messages.len();
        self.portals.clear();
        for _ in 0..1 + random.below(4) {
            self.message(random, messages);
            if random.chance(5) {
                messages.push(Message::Flush);
            }
            if random.chance(5) {
                messages.push(Message::Sync);
                self.portals.clear();
            }
        }
        if random.chance(10) {
            let one = start + random.below(messages.len() - start);
            let other = start + random.below(messages.len() - start);
            let may_move =
                |message: &Message| !matches!(message, Message::Bind { .. } | Message::Execute(..));
            if may_move(&messages[one]) && may_move(&messages[other]) {
                messages.swap(one, other);
            }
        }
        match random.below(20) {
            0 => {}
            1..=3 => messages.push(Message::Flush),
            _ => messages.push(Message::Sync),
        }
    }

    /// A message, or a few that belong together.
    fn message(&mut self, random: &mut Random, messages: &mut Vec<Message>) {
        match random.below(21) {
            0..=5 => {
                let name = self.parse(random, messages);
                if random.chance(30) {
                    messages.push(Message::DescribeStatement(name.clone()));
                }
                self.run(random, &name, messages);
            }
            6..=9 => {
                let name = self.known(random);
                self.run(random, &name, messages);
            }
            10 | 11 => drop(self.parse(random, messages)),
            12 => messages.push(Message::DescribeStatement(statement(random))),
            13 => messages.push(Message::DescribePortal(random.pick(PORTALS).to_string())),
            14 => {
                let name = self.known(random);
                self.statements.remove(&name);
                messages.push(Message::CloseStatement(name));
            }
            15 => {
                let name = random.pick(PORTALS).to_string();
                self.portals.remove(&name);
                messages.push(Message::ClosePortal(name));
            }
            16 => {
                let name = self.known(random);
                drop(self.bind(random, &name, messages));
            }
            17 | 18 => {
                let portal = self.open_portal(random);
                messages.push(Message::Execute(portal, *random.pick(&[0, 0, 1, 2, 3])));
            }
            19 => self.keep(random, messages),
            _ => messages.push(match random.below(5) {
                0 => Message::Execute(NO_PORTAL.into(), 0),
                1 => Message::DescribeStatement("no such statement".into()),
                2 => Message::Malformed(b'D', b"Xs1\0".to_vec()),
                3 => Message::Malformed(b'B', b"\0s1\0\0\x01".to_vec()),
                _ => Message::Malformed(b'P', b"s1\0SELECT 1\0\0\x02\0\0".to_vec()),
            }),
        }
    }

    /// A name that most likely has a statement.
    fn known(&self, random: &mut Random) -> String {
        let known: Vec<_> = self.statements.keys().cloned().collect();
        if known.is_empty() || random.chance(10) {
            return statement(random);
        }
        random.pick(&known).clone()
    }

    /// A portal that most likely is there, and harms nobody if not.
    fn open_portal(&self, random: &mut Random) -> String {
        let mut known: Vec<_> = self.portals.iter().cloned().collect();
        if self.kept {
            known.extend([KEPT_PORTAL.into(), KEPT_PORTAL.into()]);
        }
        if known.is_empty() || random.chance(5) {
            return NO_PORTAL.into();
        }
        random.pick(&known).clone()
    }

    /// Binds the portal that later batches execute.
    fn keep(&mut self, random: &mut Random, messages: &mut Vec<Message>) {
        if !self.kept {
            let sql = "SELECT g, 'kept' FROM generate_series(1, 9) AS g".into();
            messages.push(Message::Parse { name: KEPT_STATEMENT.into(), sql, types: vec![] });
        } else if random.chance(80) {
            messages.push(Message::ClosePortal(KEPT_PORTAL.into()));
        }
        self.kept = true;
        messages.push(Message::Bind {
            portal: KEPT_PORTAL.into(),
            statement: KEPT_STATEMENT.into(),
            values: vec![],
            result_formats: vec![],
        });
        messages.push(Message::Execute(KEPT_PORTAL.into(), 2));
    }

    fn parse(&mut self, random: &mut Random, messages: &mut Vec<Message>) -> String {
        let name = statement(random);
        let Prepared { sql, parameters } = vocabulary::prepared(random, self.client, self.role);
        if !name.is_empty() && self.statements.contains_key(&name) && random.chance(85) {
            messages.push(Message::CloseStatement(name.clone()));
        }
        let types = match random.below(10) {
            0 => parameters.iter().map(|kind| if *kind == Kind::Number { 23 } else { 25 }).collect(),
            1 => vec![0; parameters.len()],
            2 if random.chance(30) => vec![999_999],
            _ => Vec::new(),
        };
        self.statements.insert(name.clone(), parameters);
        messages.push(Message::Parse { name: name.clone(), sql, types });
        name
    }

    fn bind(&mut self, random: &mut Random, statement: &str, messages: &mut Vec<Message>) -> String {
        let portal = random.pick(PORTALS).to_string();
        if !portal.is_empty() && random.chance(60) {
            messages.push(Message::ClosePortal(portal.clone()));
        }
        let kinds = self.statements.get(statement).cloned().unwrap_or_default();
        let mut values: Vec<_> = kinds.iter().map(|kind| value(random, *kind)).collect();
        if random.chance(3) {
            values.push(Some(Value::Text("one too many".into())));
        }
        let result_formats = match random.below(12) {
            0 => vec![1],
            1 => vec![0],
            2 if random.chance(20) => vec![0, 1, 0, 1, 1],
            _ => vec![],
        };
        self.portals.insert(portal.clone());
        messages.push(Message::Bind {
            portal: portal.clone(),
            statement: statement.into(),
            values,
            result_formats,
        });
        portal
    }

    fn run(&mut self, random: &mut Random, statement: &str, messages: &mut Vec<Message>) {
        let portal = self.bind(random, statement, messages);
        if random.chance(30) {
            messages.push(Message::DescribePortal(portal.clone()));
        }
        let limit = if random.chance(25) { 1 + u32::try_from(random.below(4)).expect("small") } else { 0 };
        messages.push(Message::Execute(portal.clone(), limit));
        if limit > 0 && random.chance(50) {
            messages.push(Message::Execute(portal, *random.pick(&[0, 1, 2])));
        }
    }

    /// COPY FROM STDIN, in this step or in several.
    fn copy(&mut self, random: &mut Random, messages: &mut Vec<Message>) {
        let sql = vocabulary::copy_from(self.client);
        let extended = random.chance(40);
        let name = random.pick(&["", "copy", "copy"]).to_string();
        let mut stretches = 1;
        if extended {
            if random.chance(80) {
                messages.push(Message::CloseStatement(name.clone()));
            }
            messages.push(Message::Parse { name: name.clone(), sql, types: vec![] });
            messages.push(Message::Bind {
                portal: String::new(),
                statement: name.clone(),
                values: vec![],
                result_formats: vec![],
            });
            messages.push(Message::Execute(String::new(), 0));
        } else {
            let whole = match random.below(6) {
                0 => format!("SELECT 1; {sql}; SELECT 2"),
                1 => format!("BEGIN; {sql}"),
                2 => {
                    stretches = 2;
                    format!("{sql}; SELECT 1; {sql}")
                }
                _ => sql,
            };
            messages.push(Message::Query(whole));
        }
        let mut rest = VecDeque::new();
        for _ in 0..stretches {
            let failed = self.copy_data(random, &mut rest);
            if failed && (matches!(rest.back(), Some(Message::Sync)) || random.chance(70)) {
                break;
            }
        }
        if extended {
            if !name.is_empty() && random.chance(15) {
                let mut more = Vec::new();
                self.message(random, &mut more);
                rest.extend(more);
            }
            rest.push_back(Message::Sync);
            if name.is_empty() {
                // Nobody is to start that COPY again without data for it.
                rest.push_back(Message::CloseStatement(name));
                rest.push_back(Message::Sync);
            }
        }
        let mut step = std::mem::take(messages);
        let in_steps = random.chance(50);
        while let Some(message) = rest.pop_front() {
            if in_steps && random.chance(30) && !step.is_empty() {
                self.planned.push_back(std::mem::take(&mut step));
            }
            step.push(message);
        }
        self.planned.push_back(step);
        *messages = self.planned.pop_front().expect("the step was just pushed");
    }

    /// One stretch of data; whether it fails.
    fn copy_data(&mut self, random: &mut Random, out: &mut VecDeque<Message>) -> bool {
        let bad = random.chance(20);
        for _ in 0..random.below(4) {
            out.push_back(Message::CopyData(format!("copied by {}\t{}\n", self.client, random.below(50))));
            match random.below(20) {
                0 => out.push_back(Message::Sync),
                1 => out.push_back(Message::Flush),
                _ => {}
            }
        }
        if bad {
            out.push_back(Message::CopyPoison("bad\tno number\n".into()));
            for _ in 0..random.below(3) {
                out.push_back(Message::CopyData("more\t1\n".into()));
                if random.chance(10) {
                    out.push_back(Message::Sync);
                }
            }
            if random.chance(20) {
                out.push_back(Message::Sync);
                return true;
            }
        }
        let fails = random.chance(15);
        out.push_back(if fails { Message::CopyFail("enough".into()) } else { Message::CopyDone });
        bad || fails
    }
}

/// A name for a statement.
fn statement(random: &mut Random) -> String {
    if vocabulary::is_about(Topic::LongNames) && random.chance(20) {
        return random.pick(LONG_NAMES).to_string();
    }
    random.pick(STATEMENTS).to_string()
}

fn value(random: &mut Random, kind: Kind) -> Option<Value> {
    if random.chance(4) {
        return None;
    }
    Some(match kind {
        Kind::Number if random.chance(15) => {
            Value::Binary(u32::try_from(random.below(6)).expect("small").to_be_bytes().to_vec())
        }
        Kind::Number if random.chance(4) => Value::Text("no number".into()),
        Kind::Number => Value::Text(random.below(6).to_string()),
        Kind::Text => Value::Text(match random.below(8) {
            0 => "y".repeat(1 + random.below(20_000)),
            1 => "2024-03-01 10:00".into(),
            2 => "caf\u{e9}".into(),
            _ => format!("text {}", random.below(9)),
        }),
    })
}

fn extended(sql: &str) -> Vec<Message> {
    vec![
        Message::Parse { name: String::new(), sql: sql.into(), types: vec![] },
        Message::Bind {
            portal: String::new(),
            statement: String::new(),
            values: vec![],
            result_formats: vec![],
        },
        Message::Execute(String::new(), 0),
        Message::Sync,
    ]
}
