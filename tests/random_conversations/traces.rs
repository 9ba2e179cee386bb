//! What clients have left behind in servers that are lent to others: nothing.

use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login};
use crate::support::{DEADLINE, backend, within};

/// What a session carries that is not in the database, but for the statements that pgvalet prepares under names of its own.
pub type State = Vec<String>;

const STATE: &str = "SELECT 'setting ' || name || ' = ' || coalesce(setting, '') FROM pg_settings \
         WHERE name NOT LIKE 'plpgsql.%' AND setting IS DISTINCT FROM boot_val \
     UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements WHERE name NOT LIKE 'pgvalet\\_%' \
     UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> '' \
     UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel \
     UNION ALL SELECT 'lock ' || locktype || ' ' || mode FROM pg_locks \
         WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid') \
     UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() \
     UNION ALL SELECT 'user ' || session_user || ' as ' || current_user";

pub fn state(session: &mut Client) -> State {
    session.rows(STATE).into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
}

/// Looks at all servers of the pool at once, after all clients have left.
pub fn look(fresh: &State, valet: &Pgvalet, login: &Login, pool_size: usize) -> Result<(), String> {
    let mut console = valet.login(&Login::new("postgres", "pgvalet"));
    // Rolling back and resetting go on after the client has its last reply.
    within(DEADLINE, || (leased(&mut console, login) == 0).then_some(()))
        .ok_or_else(|| "servers were not given back".to_string())?;
    let mut clients = Vec::new();
    for _ in 0..pool_size {
        let mut client = Client::login(&valet.tcp(), login).map_err(|error| error.to_string())?;
        client.rows("BEGIN");
        clients.push(client);
    }
    for client in &mut clients {
        let found = state(client);
        if found != *fresh {
            let only = |these: &State, those: &State| {
                these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>()
            };
            return Err(format!(
                "a server is not as new: it has {:?} in place of {:?}",
                only(&found, fresh),
                only(fresh, &found)
            ));
        }
    }
    Ok(())
}

/// Servers that are lent, or not yet as new again.
fn leased(console: &mut Client, login: &Login) -> u64 {
    let messages = console.query("SHOW POOLS");
    let columns = messages.iter().find_map(backend::Message::columns).expect("a table has columns");
    let is_busy = |name: &str| matches!(name, "sv_active" | "sv_tested" | "sv_login" | "sv_being_canceled");
    backend::rows(&messages)
        .iter()
        .filter(|row| row[0].as_deref() == Some(&login.database) && row[1].as_deref() == Some(&login.user))
        .flat_map(|row| columns.iter().zip(row).filter(|(name, _)| is_busy(name)))
        .map(|(_, value)| value.as_deref().unwrap_or_default().parse::<u64>().expect("a number"))
        .sum()
}
