//! The tables of pgbouncer's console: names and types of their columns.

use super::backend::Message;

/// Names and type OIDs of a RowDescription.
pub fn described(messages: &[Message]) -> Vec<(String, u32)> {
    let message = messages.iter().find(|message| message.tag == b'T').expect("a RowDescription");
    let names = message.columns().expect("columns");
    let mut rest = &message.body[2..];
    let oids = names.iter().map(|name| {
        rest = &rest[name.len() + 1..];
        let oid = u32::from_be_bytes(rest[6..10].try_into().expect("four bytes"));
        rest = &rest[18..];
        oid
    });
    let oids: Vec<u32> = oids.collect();
    names.into_iter().zip(oids).collect()
}

/// What pgbouncer 1.26 shows, and behind that what pgvalet adds (`pinned`, `cl_pinned`): `i` int4, `b` int8, `n` numeric, else text.
pub const PGBOUNCER: [(&str, &str); 19] = [
    (
        "STATS",
        "database n:total_server_assignment_count n:total_xact_count n:total_query_count n:total_received \
         n:total_sent n:total_xact_time n:total_query_time n:total_wait_time n:total_client_parse_count \
         n:total_server_parse_count n:total_bind_count n:total_client_login_count \
         n:avg_server_assignment_count n:avg_xact_count n:avg_query_count n:avg_recv n:avg_sent \
         n:avg_xact_time n:avg_query_time n:avg_wait_time n:avg_client_parse_count n:avg_server_parse_count \
         n:avg_bind_count n:avg_client_login_count",
    ),
    (
        "STATS_TOTALS",
        "database n:server_assignment_count n:xact_count n:query_count n:bytes_received n:bytes_sent \
         n:xact_time n:query_time n:wait_time n:client_parse_count n:server_parse_count n:bind_count \
         n:client_login_count",
    ),
    (
        "STATS_AVERAGES",
        "database n:server_assignment_count n:xact_count n:query_count n:bytes_received n:bytes_sent \
         n:xact_time n:query_time n:wait_time n:avg_client_parse_count n:avg_server_parse_count \
         n:avg_bind_count n:avg_client_login_count",
    ),
    ("TOTALS", "name n:value"),
    ("CLIENTS", SOCKETS.0),
    ("SERVERS", SOCKETS.0),
    ("SOCKETS", SOCKETS.1),
    ("ACTIVE_SOCKETS", SOCKETS.1),
    (
        "POOLS",
        "database user i:cl_active i:cl_waiting i:cl_active_cancel_req i:cl_waiting_cancel_req i:sv_active \
         i:sv_active_cancel i:sv_being_canceled i:sv_idle i:sv_used i:sv_tested i:sv_login i:maxwait \
         i:maxwait_us pool_mode load_balance_hosts i:cl_pinned",
    ),
    ("PEER_POOLS", "i:peer_id i:cl_active_cancel_req i:cl_waiting_cancel_req i:sv_active_cancel i:sv_login"),
    (
        "DATABASES",
        "name host i:port database force_user i:pool_size i:min_pool_size i:reserve_pool_size \
         i:server_lifetime pool_mode load_balance_hosts i:max_connections i:current_connections \
         i:max_client_connections i:current_client_connections i:paused i:disabled",
    ),
    (
        "USERS",
        "name pool_size reserve_pool_size pool_mode i:max_user_connections i:current_connections \
         i:max_user_client_connections i:current_client_connections",
    ),
    ("PEERS", "i:peer_id host i:port i:pool_size"),
    ("LISTS", "list i:items"),
    (
        "FDS",
        "i:fd task user database addr i:port b:cancel i:link client_encoding std_strings datestyle timezone \
         password scram_client_key scram_server_key",
    ),
    ("CONFIG", "key value default changeable"),
    ("MEM", "name i:size i:used i:free i:memtotal"),
    ("DNS_HOSTS", "hostname b:ttl addrs"),
    ("DNS_ZONES", "zonename b:serial i:count"),
];

const SOCKETS: (&str, &str) = (
    "type user database replication state addr i:port local_addr i:local_port connect_time request_time \
     i:wait i:wait_us i:close_needed ptr link i:remote_pid tls application_name i:prepared_statements i:id \
     pinned",
    "type user database replication state addr i:port local_addr i:local_port connect_time request_time \
     i:wait i:wait_us i:close_needed ptr link i:remote_pid tls application_name i:prepared_statements i:id \
     i:recv_pos i:pkt_pos i:pkt_remain i:send_pos i:send_remain i:pkt_avail i:send_avail",
);

/// The columns of such a list.
pub fn expected(columns: &str) -> Vec<(String, u32)> {
    let column = |word: &str| match word.split_once(':') {
        Some(("i", name)) => (name.to_owned(), 23),
        Some(("b", name)) => (name.to_owned(), 20),
        Some((_, name)) => (name.to_owned(), 1700),
        None => (word.to_owned(), 25),
    };
    columns.split_whitespace().map(column).collect()
}

/// All that SHOW has to say.
pub fn everything(console: &mut super::wire::Client) -> String {
    let help = format!("{:?}", console.query("SHOW HELP"));
    let lines = help.split("SHOW ").skip(1).flat_map(|line| line.split("\\n").next());
    let (mut said, mut tables) = (String::new(), 0);
    for name in lines.flat_map(|line| line.split('|')) {
        let rows = console.query(&format!("SHOW {name}"));
        said.extend(rows.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()));
        tables += usize::from(rows.iter().any(|message| message.tag == b'T'));
    }
    assert!(tables > 20, "{tables} tables were shown: {help}");
    said
}
