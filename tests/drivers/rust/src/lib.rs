//! What the suites share: logins, a look at PostgreSQL behind pgvalet, moves to another server.

use std::env;

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A variable that tests/drivers/run.sh promises.
pub fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run tests/drivers/run.sh rust"))
}

/// Whether there is no pgvalet.
pub fn is_direct() -> bool {
    env::var_os("DRIVERS_DIRECT").is_some()
}

/// How often loops turn.
pub fn rounds() -> i32 {
    if env::var_os("SMOKE").is_some() { 30 } else { 300 }
}

/// The login to what is tested, or to PostgreSQL itself.
pub fn config(host: &str, port: &str) -> Config {
    let mut config = Config::new();
    config.host(variable(host)).port(variable(port).parse().expect("a port"));
    config.user(variable("PGUSER")).password(variable("PGPASSWORD")).dbname(variable("PGDATABASE"));
    config
}

/// The login to what is tested.
pub fn here() -> Config {
    config("PGHOST", "PGPORT")
}

/// The same as a URL; the password is percent-encoded.
pub fn url() -> String {
    let password: String = variable("PGPASSWORD").bytes().map(|byte| format!("%{byte:02X}")).collect();
    let [host, port, user, database] = ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE"].map(variable);
    format!("postgres://{user}:{password}@{host}:{port}/{database}")
}

/// A connection whose driving future runs by itself; that future's outcome does not matter here.
pub async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("a login");
    tokio::spawn(connection);
    client
}

/// The first column of a query as text, asked of PostgreSQL itself.
pub async fn direct(sql: &str) -> Vec<String> {
    let messages = connect(&config("DIRECT_HOST", "DIRECT_PORT")).await.simple_query(sql).await.expect(sql);
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_string()),
        _ => None,
    });
    rows.collect()
}

/// Waits until PostgreSQL runs a query with this marker in it, and says in which process.
pub async fn running(marker: &str) -> String {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%{marker}%'"
    );
    loop {
        if let Some(pid) = direct(&sql).await.pop() {
            return pid;
        }
    }
}

/// Does `work` while another client holds the server with this process id, so that it happens on the pool's other one.
pub async fn away_from<T>(pid: i32, work: impl Future<Output = T>) -> T {
    if is_direct() {
        return work.await;
    }
    let holders = [connect(&here()).await, connect(&here()).await];
    for (i, holder) in holders.iter().enumerate() {
        holder.batch_execute("BEGIN").await.expect("BEGIN");
        let held: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("a process id").get(0);
        if held == pid {
            if i == 1 {
                holders[0].batch_execute("ROLLBACK").await.expect("ROLLBACK");
            }
            return work.await;
        }
    }
    panic!("no server of the pool has process id {pid}");
}
