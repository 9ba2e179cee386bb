//! Every sequence of a few messages, out of some that have to do with each other: PostgreSQL and pgvalet answer alike.
//!
//! Where `random_conversations` talks at length, this is short and leaves nothing out. A sequence is sent at once, then it
//! is ended and looked at from another server, and everything is as it was. Sequences of two messages are all played, and of
//! three some; with `PGVALET_SEQUENCES=3` in the environment all of those, too, and with 4 all of four.

mod support;

use support::Endpoint;
use support::backend::Message;
use support::cluster::{Cluster, Role};
use support::frontend::{
    all, bind, close_portal, close_statement, copy_data, copy_done, copy_fail, describe, describe_portal,
    describe_statement, execute, flush, function_call, parse, query, sync,
};
use support::pgvalet::Pgvalet;
use support::wire::{Client, Login};

/// Closes in a row that no sequence has.
const CLOSES: usize = 6;
/// Of how many sequences of three messages one is played.
const STRIDE: usize = 37;

/// A message, or a few that belong together.
type Letter = Vec<u8>;

/// Cases 25, 26, 27 and 30: names, by Parse and by SQL.
#[test]
fn names_are_made_used_and_dropped_in_any_order() {
    let letters = [
        parse("a", "SELECT 1"),
        parse("a", "SELECT 'x'::text"),
        parse("b", "SELECT 1"),
        parse("a", "SELECT nothing"),
        parse("", "SELECT 2"),
        close_statement("a"),
        close_statement(""),
        describe_statement("a"),
        run("a"),
        run(""),
        run("nobody"),
        once("PREPARE a AS SELECT 3"),
        once("DEALLOCATE a"),
        once("EXECUTE a"),
        query("PREPARE b AS SELECT 4"),
        query("DEALLOCATE b"),
        query("DEALLOCATE ALL"),
        query("EXECUTE a"),
        sync(),
    ];
    let look = [
        describe_statement("a"),
        sync(),
        describe_statement("b"),
        sync(),
        run(""),
        sync(),
        query("DEALLOCATE ALL"),
    ];
    Stage::build("names").play(&[vec![]], &letters, &all(&look));
}

/// Cases 31, 32, 33 and 37: portals, transactions and what ends them.
#[test]
fn portals_are_bound_run_and_ended_in_any_order() {
    let letters = [
        query("BEGIN"),
        query("COMMIT"),
        query("SELECT 1 / 0"),
        query("SAVEPOINT s"),
        query("ROLLBACK TO s"),
        once("BEGIN"),
        once("COMMIT AND CHAIN"),
        once("ROLLBACK"),
        bind("p", "kept", &[]),
        bind("", "kept", &[]),
        execute("p", 1),
        execute("p", 0),
        execute("", 2),
        describe_portal("p"),
        close_portal("p"),
        function_call(177, &[Some("40"), Some("2")]),
        flush(),
        sync(),
    ];
    let look = [execute("p", 1), sync(), query("ROLLBACK")];
    Stage::build("portals").play(&[vec![]], &letters, &all(&look));
}

/// Case 38: COPY data and everything that may come among them.
#[test]
fn copy_data_are_sent_ended_and_broken_off_in_any_order() {
    let copy = "COPY every_row FROM STDIN";
    let letters = [
        copy_data(b"1\n"),
        copy_data(b"wrong\n"),
        copy_done(),
        copy_fail("no more"),
        query("SELECT 'asked'"),
        once("SELECT 'in a batch'"),
        flush(),
        sync(),
    ];
    let look = [query("ROLLBACK"), query("SELECT count(*) FROM every_row"), query("DELETE FROM every_row")];
    Stage::build("copies").play(&[query(copy), once(copy)], &letters, &all(&look));
}

/// Case 29: a table changes around a statement that reads it.
#[test]
fn tables_change_under_statements_in_any_order() {
    let letters = [
        parse("a", "SELECT * FROM every_row"),
        close_statement("a"),
        describe_statement("a"),
        run("a"),
        bind("p", "a", &[]),
        execute("p", 0),
        query("EXECUTE a"),
        query("ALTER TABLE every_row ADD COLUMN more int"),
        query("ALTER TABLE every_row DROP COLUMN IF EXISTS more"),
        once("ALTER TABLE every_row ADD COLUMN more int"),
        query("BEGIN"),
        query("ROLLBACK"),
        once("COMMIT"),
        sync(),
    ];
    let look = [
        describe_statement("a"),
        sync(),
        run("a"),
        sync(),
        query("ROLLBACK"),
        query("DEALLOCATE ALL"),
        query("DROP TABLE every_row; CREATE TABLE every_row (id int)"),
    ];
    Stage::build("plans").play(&[vec![]], &letters, &all(&look));
}

/// Cases 15, 16, 17 and 28: settings, what undoes them, and what is read under them.
#[test]
fn settings_are_made_and_undone_in_any_order() {
    let letters = [
        query("SET DateStyle = 'German'"),
        query("SET LOCAL DateStyle = 'SQL, DMY'"),
        // What is parsed in the same batch is a difference that docs/compatibility.md tells of.
        all(&[once("SET DateStyle = 'ISO, YMD'"), sync()]),
        query("SET app.word = 'said'"),
        query("SELECT set_config('app.word', 'configured', true)"),
        query("RESET ALL"),
        query("DISCARD ALL"),
        query("BEGIN"),
        once("COMMIT"),
        query("ROLLBACK"),
        query("SAVEPOINT s"),
        query("ROLLBACK TO s"),
        query("SELECT 1 / 0"),
        parse("a", "SELECT '1-2-03'::date"),
        run("a"),
        run("nobody"),
        sync(),
    ];
    let look = [
        run("a"),
        sync(),
        query("ROLLBACK"),
        query("SELECT current_setting('DateStyle'), coalesce(current_setting('app.word', true), '')"),
        query("RESET ALL"),
        query("DEALLOCATE ALL"),
    ];
    Stage::build("settings").play(&[vec![]], &letters, &all(&look));
}

fn run(statement: &str) -> Letter {
    all(&[bind("", statement, &[]), execute("", 0)])
}

/// The same without a statement of its own for longer.
fn once(sql: &str) -> Letter {
    all(&[parse("", sql), run("")])
}

/// PostgreSQL, and a pgvalet whose two servers other clients take turns with.
struct Stage {
    direct: Player,
    pooled: Player,
    _valet: Pgvalet,
}

impl Stage {
    fn build(name: &str) -> Self {
        let cluster = Cluster::shared();
        let database = format!("every_{name}");
        cluster.sql(&format!("CREATE DATABASE {database} OWNER {}", Role::Trust.name()));
        let valet = Pgvalet::builder()
            .all_roles()
            .setting("auth_type = \"trust\"")
            .setting("workers = 1")
            .setting("max_prepared_statements = 1")
            .database(&database, cluster, &["pool_size = 2"])
            .start();
        let login = Role::Trust.login().database(&database);
        let mut direct = Player::new(cluster.tcp(), login.clone());
        direct.client().query("CREATE TABLE every_row (id int)");
        let mut pooled = Player::new(valet.tcp(), login);
        let (mut holding, free) = (pooled.login(), pooled.login());
        holding.rows("BEGIN; SELECT 1");
        pooled.others = Some((holding, free));
        Self { direct, pooled, _valet: valet }
    }

    /// Plays each of the heads with each sequence of letters, and looks at what has become of it.
    fn play(&mut self, heads: &[Letter], letters: &[Letter], look: &Letter) {
        let most = std::env::var("PGVALET_SEQUENCES").map_or(2, |text| text.parse().expect("a number"));
        for length in 1..=most.max(3) {
            let stride = if length <= most { 1 } else { STRIDE };
            for number in (0..letters.len().pow(length)).step_by(stride) {
                let mut rest = number;
                let sequence: Vec<Letter> = (0..length)
                    .map(|_| {
                        let letter = letters[rest % letters.len()].clone();
                        rest /= letters.len();
                        letter
                    })
                    .collect();
                for head in heads {
                    let sent = [head.clone(), all(&sequence)].concat();
                    let (truth, seen) = (self.direct.play(&sent, look), self.pooled.play(&sent, look));
                    let described = describe(&sent);
                    assert!(truth == seen, "{described}\nPostgreSQL: {truth:#?}\npgvalet: {seen:#?}");
                }
            }
        }
    }
}

/// One side, and its client.
struct Player {
    endpoint: Endpoint,
    login: Login,
    client: Option<Client>,
    /// Two clients of which one holds a server at a time.
    others: Option<(Client, Client)>,
}

impl Player {
    fn new(endpoint: Endpoint, login: Login) -> Self {
        Self { endpoint, login, client: None, others: None }
    }

    fn login(&self) -> Client {
        Client::login(&self.endpoint, &self.login).expect("a client logs in")
    }

    fn client(&mut self) -> &mut Client {
        if self.client.is_none() {
            let mut client = self.login();
            let sql = "SELECT g FROM generate_series(1, 3) AS g";
            client.send(&all(&[parse("kept", sql), sync()]));
            client.until_ready();
            self.client = Some(client);
        }
        self.client.as_mut().expect("it has just logged in")
    }

    /// What the client is told, from the first word to the last.
    fn play(&mut self, sent: &[u8], look: &Letter) -> Vec<String> {
        let mut told = Vec::new();
        // Whatever is open is ended, so that it can be looked at from another server.
        let end = all(&[copy_fail("the end"), sync()]);
        if self.round(&[sent, &end].concat(), &mut told) {
            self.round(look, &mut told);
        }
        told
    }

    /// Sends something, and takes all that it earns. False if that was the end of the session.
    fn round(&mut self, sent: &[u8], told: &mut Vec<String>) -> bool {
        let marker = [close_statement("nobody").repeat(CLOSES), sync()].concat();
        let client = self.client();
        client.send(&[sent, &marker].concat());
        let mut closes = 0;
        let status = loop {
            let message = client.recv();
            match message.ready() {
                Some(status) if closes >= CLOSES => break status,
                _ => closes = if message.tag == b'3' { closes + 1 } else { 0 },
            }
            let is_end = message.sqlstate().as_deref() == Some("08P01")
                && message.field(b'M').is_some_and(|text| text.starts_with("unexpected message type"));
            if is_end {
                told.push("the end".into());
                self.client = None;
                return false;
            }
            told.push(comparable(message));
        };
        if status == 'I'
            && let Some((holding, free)) = &mut self.others
        {
            free.rows("BEGIN; SELECT 1");
            holding.rows("COMMIT");
            std::mem::swap(holding, free);
        }
        true
    }
}

/// The message without the place in PostgreSQL's source that an error comes from (a Bind can be refused by the Parse that is
/// sent in front of it), and without the object ids of tables, which are made anew.
fn comparable(mut message: Message) -> String {
    if matches!(message.tag, b'E' | b'N') {
        let fields = message.body.split(|byte| *byte == 0);
        let kept = fields.filter(|field| !matches!(field, [b'F' | b'L' | b'R', ..]));
        message.body = kept.collect::<Vec<_>>().join(&0);
    }
    if message.tag == b'T' {
        return format!("RowDescription {:?}", message.columns());
    }
    format!("{message:?}")
}
