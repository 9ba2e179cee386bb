//! TLS with servers: libpq's modes, certificates that do not fit, cancel requests, servers that change their worker.

#[path = "support/between.rs"]
mod between;
mod support;
#[path = "support/watch.rs"]
mod watch;

use std::sync::OnceLock;

use between::{Impostor, Recorder};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::install::Install;
use support::pgvalet::{Builder, Pgvalet};
use support::programs::Pgbench;
use support::tls::{Authority, Files, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{eventually, frontend};
use watch::Console;

const REQUEST_TLS: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A cluster with TLS that all tests share, and the authority of its certificate.
struct Tls {
    authority: Authority,
    files: Files,
    cluster: Cluster,
}

fn shared() -> &'static Tls {
    static SHARED: OnceLock<Tls> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (authority, files) = (Authority::new("servers' authority"), Files::default());
        files.write("ca.crt", &authority.pem);
        files.write("other.crt", &Authority::new("somebody else").pem);
        let cluster = Cluster::builder()
            .tls(&authority.issue(&Wanted::local()))
            .file("clients.crt", &authority.pem)
            .config("ssl_ca_file = 'clients.crt'")
            .hba("hostnossl app_plain all 127.0.0.1/32 trust")
            .start();
        Tls { authority, files, cluster }
    })
}

/// pgvalet in front of a cluster, with this mode and these settings; TLS 1.2 and 1.3 take turns by the tests' own lines.
fn in_front_of(cluster: &Cluster, mode: &str, settings: &[&str]) -> Builder {
    let builder = Pgvalet::in_front_of(cluster).setting(&format!("server_tls_sslmode = \"{mode}\""));
    settings.iter().fold(builder, |builder, line| builder.setting(line))
}

fn ca(name: &str) -> String {
    format!("server_tls_ca_file = \"{}\"", shared().files.path(name).display())
}

/// What PostgreSQL says of the server connection: the version of TLS, or nothing.
fn version(client: &mut Client) -> String {
    client.value("SELECT coalesce(version, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
}

#[track_caller]
fn refused(valet: &Pgvalet, login: &Login, why: &str) {
    match Client::login(&valet.tcp(), login) {
        Err(LoginError::Refused(message)) => {
            assert!(format!("{message:?}").contains(why), "{why}: {message:?}");
        }
        other => panic!("there should be no server: {other:?}"),
    }
}

#[test]
fn the_mode_decides_whether_servers_are_reached_by_tls() {
    let tls = shared();
    for (mode, expected) in [("disable", ""), ("allow", ""), ("prefer", "TLSv1.3"), ("require", "TLSv1.3")] {
        let admin = ["admin_users = [\"app_scram\"]"];
        let valet = in_front_of(&tls.cluster, mode, &admin).start();
        for role in [Role::Scram, Role::Md5, Role::Plain] {
            assert_eq!(version(&mut valet.client(role)), expected, "{mode} {role:?}");
        }
        let mut console = valet.login(&Role::Scram.login().database("pgbouncer"));
        let servers = console.rows("SHOW SERVERS");
        let shown = |row: &Vec<Option<String>>| row[17].clone().unwrap_or_default();
        let fits = |shown: &String| shown.split('/').next() == Some(expected);
        assert!(servers.len() == 3 && servers.iter().map(shown).all(|shown| fits(&shown)), "{servers:?}");
    }
    let valet = in_front_of(&tls.cluster, "require", &["server_tls_protocols = \"tlsv1.2\""]).start();
    assert_eq!(version(&mut valet.client(Role::Scram)), "TLSv1.2");

    // A server without TLS.
    for mode in ["disable", "allow", "prefer"] {
        let valet = in_front_of(Cluster::shared(), mode, &[]).start();
        assert_eq!(version(&mut valet.client(Role::Scram)), "", "{mode}");
    }
    let valet = in_front_of(Cluster::shared(), "require", &[]).start();
    refused(&valet, &Role::Scram.login(), "has no TLS, but server_tls_sslmode demands it");

    // A Unix socket goes without.
    let valet = in_front_of(&tls.cluster, "require", &[])
        .database_at("local", &tls.cluster.unix(), &["dbname = \"app\""])
        .start();
    assert_eq!(version(&mut valet.login(&Role::Scram.login().database("local"))), "");
}

#[test]
fn the_other_way_is_tried_where_pg_hba_conf_takes_just_one() {
    let identity = shared().authority.issue(&Wanted::local());
    let cluster = Cluster::builder()
        .tls(&identity)
        .hba("hostssl all app_scram 127.0.0.1/32 scram-sha-256")
        .hba("hostnossl all app_md5 127.0.0.1/32 md5")
        .hba("host all app_scram,app_md5 127.0.0.1/32 reject")
        .start();
    for (mode, with_tls, without) in [("allow", "TLSv1.3", ""), ("prefer", "TLSv1.3", "")] {
        let valet = in_front_of(&cluster, mode, &[]).start();
        assert_eq!(version(&mut valet.client(Role::Scram)), with_tls, "{mode}");
        assert_eq!(version(&mut valet.client(Role::Md5)), without, "{mode}");
    }
    let valet = in_front_of(&cluster, "require", &[]).start();
    refused(&valet, &Role::Md5.login(), "28000");
    let valet = in_front_of(&cluster, "disable", &[]).start();
    refused(&valet, &Role::Scram.login(), "28000");
    // A wrong password is wrong in either way, and is not tried twice.
    let valet = Pgvalet::builder()
        .setting("server_tls_sslmode = \"prefer\"")
        .setting("auth_type = \"trust\"")
        .database(DATABASE, &cluster, &["user = \"app_scram\"", "password = \"wrong\""])
        .user("somebody", PASSWORD, &[])
        .start();
    let before = cluster.log().matches("password authentication failed").count();
    refused(&valet, &Login::new("somebody", DATABASE), "28P01");
    let after = cluster.log().matches("password authentication failed").count();
    assert_eq!(after - before, 1);
}

#[test]
fn a_server_that_cannot_cope_with_the_question_is_asked_again_without() {
    let error = support::backend::error_response("FATAL", "08P01", "what is that?");
    for answer in [&error[..], b"", b"S", b"?"] {
        let recorder = Recorder::that_first_answers(&shared().cluster, answer);
        let connect = |mode: &str| {
            let valet = in_front_of(&shared().cluster, mode, &[])
                .database_on("odd", "127.0.0.1", recorder.port(), &["dbname = \"app\""])
                .start();
            version(&mut valet.login(&Role::Scram.login().database("odd")))
        };
        assert_eq!(connect("prefer"), "", "{answer:?}");
        assert_eq!(connect("require"), "TLSv1.3");
    }
}

#[test]
fn each_host_is_tried_in_all_ways_before_the_next_one() {
    let error = support::backend::error_response("FATAL", "08P01", "what is that?");
    let recorder = Recorder::that_first_answers(&shared().cluster, &error);
    // Nobody listens at the second address.
    let valet = in_front_of(&shared().cluster, "prefer", &[])
        .database_on("odd", "127.0.0.1,127.0.0.2", recorder.port(), &["dbname = \"app\""])
        .start();
    assert_eq!(version(&mut valet.login(&Role::Scram.login().database("odd"))), "");
}

#[test]
fn certificates_of_servers_are_verified_as_far_as_the_mode_says() {
    let tls = shared();
    for mode in ["verify-ca", "verify-full"] {
        let valet = in_front_of(&tls.cluster, mode, &[&ca("ca.crt")]).start();
        assert_eq!(version(&mut valet.client(Role::Scram)), "TLSv1.3", "{mode}");
        let valet = in_front_of(&tls.cluster, mode, &[&ca("other.crt")]).start();
        refused(&valet, &Role::Scram.login(), "UnknownIssuer");
    }
    // By name: `localhost` is in the certificate, this other name of the same machine is not.
    let named = |mode: &str, host: &str| {
        let valet = in_front_of(&tls.cluster, mode, &[&ca("ca.crt")])
            .database_on("named", host, tls.cluster.port(), &["dbname = \"app\""])
            .start();
        Client::login(&valet.tcp(), &Role::Scram.login().database("named"))
            .map(|mut client| version(&mut client))
    };
    assert_eq!(named("verify-full", "localhost").expect("it is the host"), "TLSv1.3");
    assert_eq!(named("verify-ca", "127.1").expect("the host does not matter"), "TLSv1.3");
    assert!(named("verify-full", "127.1").is_err());
}

#[test]
fn certificates_that_have_expired_name_others_or_sign_themselves() {
    let authority = Authority::new("authority of three");
    let files = Files::default();
    let authorities = |pem: &str| format!("server_tls_ca_file = \"{}\"", files.write("ca.crt", pem));
    let full =
        |cluster: &Cluster, pem: &str| in_front_of(cluster, "verify-full", &[&authorities(pem)]).start();

    let cluster = Cluster::builder().tls(&authority.issue(&Wanted::local().expired())).start();
    refused(&full(&cluster, &authority.pem), &Role::Scram.login(), "expired");
    let valet = in_front_of(&cluster, "require", &[]).start();
    assert_eq!(version(&mut valet.client(Role::Scram)), "TLSv1.3");

    let cluster = Cluster::builder().tls(&authority.issue(&Wanted::new("127.0.0.1"))).start();
    assert_eq!(
        version(&mut full(&cluster, &authority.pem).client(Role::Scram)),
        "TLSv1.3",
        "by the common name"
    );
    let cluster =
        Cluster::builder().tls(&authority.issue(&Wanted::new("127.0.0.1").dns("elsewhere"))).start();
    refused(&full(&cluster, &authority.pem), &Role::Scram.login(), "not valid for name");

    // As `openssl req -x509` makes them.
    let identity = Authority::self_signed(&Wanted::local());
    let cluster = Cluster::builder().tls(&identity).start();
    assert_eq!(version(&mut full(&cluster, &identity.certificate).client(Role::Scram)), "TLSv1.3");
    refused(&full(&cluster, &authority.pem), &Role::Scram.login(), "TLS with the server failed");
    let old = Authority::self_signed(&Wanted::local().expired());
    let cluster = Cluster::builder().tls(&old).start();
    refused(&full(&cluster, &old.certificate), &Role::Scram.login(), "expired");
}

#[test]
fn servers_whose_certificates_were_revoked_do_not_count() {
    let (authority, files) = (Authority::new("authority with a list"), Files::default());
    let cluster = Cluster::builder().tls(&authority.issue(&Wanted::local().serial(7))).start();
    let authorities = format!("server_tls_ca_file = \"{}\"", files.write("ca.crt", &authority.pem));
    let with = |name: &str, list: &str| {
        let list = format!("server_tls_crl_file = \"{}\"", files.write(name, list));
        ["verify-ca", "verify-full"].map(|mode| in_front_of(&cluster, mode, &[&authorities, &list]).start())
    };
    for valet in with("others.crl", &authority.revoke(&[8], 4000)) {
        assert_eq!(version(&mut valet.client(Role::Scram)), "TLSv1.3");
    }
    for (name, list, why) in [
        ("its.crl", authority.revoke(&[7], 4000), "Revoked"),
        ("old.crl", authority.revoke(&[8], 2025), "has expired"),
        ("strange.crl", Authority::new("somebody else").revoke(&[], 4000), "has no list of the authority"),
    ] {
        for valet in with(name, &list) {
            refused(&valet, &Role::Scram.login(), why);
        }
    }
    // A name that does not fit is still found out.
    let list = format!("server_tls_crl_file = \"{}\"", files.path("others.crl").display());
    let valet = in_front_of(&cluster, "verify-full", &[&authorities, &list])
        .database_on("named", "127.1", cluster.port(), &["dbname = \"app\""])
        .start();
    assert!(Client::login(&valet.tcp(), &Role::Scram.login().database("named")).is_err());
}

#[test]
fn a_certificate_of_ones_own_is_shown_to_servers() {
    let tls = shared();
    let files = Files::default();
    let cluster = Cluster::builder()
        .tls(&tls.authority.issue(&Wanted::local()))
        .file("clients.crt", &tls.authority.pem)
        .config("ssl_ca_file = 'clients.crt'")
        .hba("hostssl all app_trust 127.0.0.1/32 cert")
        .start();
    let (certificate, key) = files.identity("valet", &tls.authority.issue(&Wanted::new("app_trust")));
    let own =
        [format!("server_tls_cert_file = \"{certificate}\""), format!("server_tls_key_file = \"{key}\"")];
    let valet = in_front_of(&cluster, "require", &[&own[0], &own[1]]).start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(version(&mut client), "TLSv1.3");
    assert_eq!(
        client.value("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
        "/CN=app_trust"
    );
    let valet = in_front_of(&cluster, "require", &[]).start();
    refused(&valet, &Role::Trust.login(), "28000");
}

#[test]
fn direct_tls_saves_the_question() {
    let identity = shared().authority.issue(&Wanted::local());
    let direct = ["server_tls_sslnegotiation = \"direct\"", &ca("ca.crt")];
    match Install::of_major(18) {
        Some(_) => {
            let cluster = Cluster::builder().major(18).tls(&identity).start();
            let recorder = Recorder::in_front_of(&cluster);
            let valet = in_front_of(&cluster, "verify-full", &direct)
                .database_on("direct", "localhost", recorder.port(), &["dbname = \"app\""])
                .start();
            let mut client = valet.login(&Role::Scram.login().database("direct"));
            assert_eq!(version(&mut client), "TLSv1.3");
            assert!(
                recorder.beginnings().iter().all(|bytes| bytes[0] == 0x16),
                "{:?}",
                recorder.beginnings()
            );
        }
        None => eprintln!("no PostgreSQL 18 on this machine: only the refusal is tested"),
    }
    // A server that has none says nothing that could be understood.
    let valet = in_front_of(&shared().cluster, "verify-full", &direct).start();
    assert!(shared().cluster.major() < 17);
    refused(&valet, &Role::Scram.login(), "no direct TLS");
}

#[test]
fn cancel_requests_go_the_way_of_their_connection() {
    let tls = shared();
    let recorder = Recorder::in_front_of(&tls.cluster);
    for (mode, beginning) in [("disable", 16_u8), ("require", 8)] {
        let valet = in_front_of(&tls.cluster, mode, &[])
            .database_on("recorded", "127.0.0.1", recorder.port(), &["dbname = \"app\""])
            .start();
        let mut client = valet.login(&Role::Scram.login().database("recorded"));
        let before = recorder.beginnings().len();
        let sql = format!("SELECT pg_sleep(600) /* {mode} */");
        client.send(&frontend::query(&sql));
        let running =
            format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{sql}' AND state = 'active'");
        eventually("the query to run", || (tls.cluster.value(&running) == "1").then_some(()));
        client.cancel().send().expect("the request is taken");
        let messages = client.until_ready();
        assert_eq!(support::backend::first_error(&messages).as_deref(), Some("57014"), "{mode}");
        let beginnings = recorder.beginnings().split_off(before);
        assert_eq!(beginnings.iter().map(|bytes| bytes[3]).collect::<Vec<_>>(), [beginning], "{mode}");
    }
    assert_eq!(recorder.beginnings().last().map(|bytes| &bytes[..8]), Some(&REQUEST_TLS[..]));
}

#[test]
fn servers_change_their_worker_with_tls_and_all() {
    let tls = shared();
    let valet = watch::trusting(&tls.cluster, 2)
        .setting("workers = 4")
        .setting("server_tls_sslmode = \"require\"")
        .start();
    let bench = Pgbench {
        clients: 24,
        transactions: 100,
        script: Some("BEGIN;\nSELECT repeat('x', 50000);\nSELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();\nEND;\n".into()),
        ..Pgbench::default()
    };
    let report = bench.run(&valet.tcp(), &Role::Trust.login());
    assert_eq!((report.output.code, report.processed, report.failed), (Some(0), 2400, 0), "{report:?}");
    let mut console = Console::open(&valet);
    assert!(console.stat("takeovers") + console.stat("handovers") > 0, "the servers went round");
    assert!(console.stat("connects") <= 2);
}

#[test]
fn large_results_and_copy_pass_with_tls_on_both_sides() {
    let tls = shared();
    let recorder = Recorder::in_front_of(&tls.cluster);
    // Every piece that the network delivers is tiny.
    recorder.deliver_in_pieces_of(1000);
    tls.cluster.sql("CREATE TABLE tls_rows (n int, filler text)");
    for versions in ["tlsv1.2", "tlsv1.3"] {
        let valet =
            in_front_of(&tls.cluster, "require", &[&format!("server_tls_protocols = \"{versions}\"")])
                .database_on("slow", "127.0.0.1", recorder.port(), &["dbname = \"app\""])
                .start();
        let mut client = valet.login(&Role::Scram.login().database("slow"));
        let value = client.value("SELECT string_agg(md5(i::text), '') FROM generate_series(1, 40000) i");
        assert_eq!(value.len(), 32 * 40_000);
        client.query("TRUNCATE tls_rows");
        let rows: Vec<u8> =
            (0..4_000).flat_map(|n| format!("{n}\t{}\n", "x".repeat(n % 300)).into_bytes()).collect();
        client.send(&frontend::query("COPY tls_rows FROM STDIN"));
        client.until(b'G');
        let data: Vec<u8> =
            rows.chunks(30_000).flat_map(frontend::copy_data).chain(frontend::copy_done()).collect();
        client.send(&data);
        client.until_ready();
        let messages = client.query("COPY (SELECT * FROM tls_rows ORDER BY n) TO STDOUT");
        let back: Vec<u8> = messages
            .iter()
            .filter(|message| message.tag == b'd')
            .flat_map(|message| message.body.clone())
            .collect();
        assert!(back == rows, "{versions}: {} bytes came back of {}", back.len(), rows.len());
    }
}

/// With `require` nobody looks at the server's certificate; SCRAM-SHA-256-PLUS does.
#[test]
fn somebody_in_between_is_found_out_by_channel_binding() {
    let tls = shared();
    let impostor = Impostor::in_front_of(&tls.cluster, &Authority::self_signed(&Wanted::local()));
    let valet = in_front_of(&tls.cluster, "require", &[])
        .database_on("between", "127.0.0.1", impostor.port(), &["dbname = \"app\""])
        .start();
    refused(&valet, &Role::Scram.login().database("between"), "channel binding");
    // Without a password that could be bound, the impostor has what it wants.
    let mut client = valet.login(&Role::Trust.login().database("between"));
    assert_eq!(version(&mut client), "TLSv1.3");
}

#[test]
fn the_authorities_of_servers_are_read_again_and_a_new_mode_makes_new_servers() {
    let tls = shared();
    let files = Files::default();
    let file = files.write("ca.crt", &tls.authority.pem);
    let lines = [format!("server_tls_ca_file = \"{file}\""), "server_lifetime = \"1s\"".into()];
    let valet = in_front_of(&tls.cluster, "verify-full", &[&lines[0]]).start();
    let mut client = valet.client(Role::Scram);
    assert_eq!(version(&mut client), "TLSv1.3");
    files.write("ca.crt", "no certificate");
    valet.wait_log(&["TLS stays as it was", "server_tls_ca_file"]);
    assert_eq!(version(&mut valet.client(Role::Md5)), "TLSv1.3");
    files.write("ca.crt", &Authority::new("somebody else").pem);
    valet.wait_log(&["certificates and keys were read again"]);
    refused(&valet, &Role::Plain.login(), "UnknownIssuer");
    assert_eq!(version(&mut client), "TLSv1.3");

    valet.write_config(&valet.config().replace("\"verify-full\"", "\"disable\""));
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
    eventually("servers without TLS", || version(&mut client).is_empty().then_some(()));
}
