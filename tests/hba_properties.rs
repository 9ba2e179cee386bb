//! pg_hba.conf: no text makes the reader panic or run for ever, what is written is read back, and the match agrees with a
//! model that is too simple to be wrong.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use pgvalet::auth::hba::{Facts, Groups, Outcome, Request, Wanted, decide, is_mapped};
use pgvalet::auth::transport::{Tls, Transport};
use pgvalet::config::hba::{self, Files, Method};
use proptest::prelude::*;

/// Files in memory, by their names without a directory.
struct Memory(BTreeMap<String, String>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.0.get(&*name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn conf_files(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.0.keys().map(PathBuf::from).collect())
    }
}

fn read(hba: &str, ident: &str) -> hba::Outcome {
    let files = [("hba", hba), ("ident", ident)].map(|(name, text)| (name.to_owned(), text.to_owned()));
    hba::read(Path::new("hba"), Some(Path::new("ident")), &Memory(files.into()))
}

/// Text made of what these files are made of.
fn text() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "local",
        "host",
        "hostssl",
        "hostnossl",
        "all",
        "sameuser",
        "samerole",
        "replication",
        "trust",
        "md5",
        "peer",
        "cert",
        "reject",
        "samehost",
        "samenet",
        "10.0.0.0/8",
        "::1/128",
        "255.0.0.0",
        "db.example.com",
        "\"",
        "\\",
        "\\\n",
        "\n",
        ",",
        "#",
        "/",
        "/^a(.*)$",
        "\\1",
        "+",
        "@hba",
        "@ident",
        "@",
        "include hba",
        "include_dir x",
        "include_if_exists y",
        "map=m",
        "clientcert=verify-full",
        "m",
        "x",
        " ",
        "\t",
        "\r",
    ]);
    let part = prop_oneof![8 => words.prop_map(str::to_owned), 1 => "\\PC{0,4}"];
    prop::collection::vec((part, any::<bool>()), 0..60).prop_map(|parts| {
        let piece = |(part, spaced): (String, bool)| if spaced { part + " " } else { part };
        parts.into_iter().map(piece).collect()
    })
}

/// A name, such as an identifier in quotes may be.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "a", "b", "all", "+a", "/a", "@a", "sameuser", "a b", "a,b", "a#b", "a\"b", ""
        ])
        .prop_map(str::to_owned),
        "[a-c]{1,2}",
    ]
}

/// `name` as a token that means just this name.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A rule of the model: the networks are of IPv4, the names are exact or everything.
#[derive(Debug, Clone)]
struct Model {
    kind: &'static str,
    databases: Vec<Option<String>>,
    users: Vec<Option<String>>,
    network: Option<(Ipv4Addr, u32)>,
    method: &'static str,
}

#[derive(Debug, Clone)]
struct Login {
    address: Option<Ipv4Addr>,
    tls: bool,
    database: String,
    user: String,
}

impl Model {
    fn line(&self) -> String {
        let names = |names: &[Option<String>]| {
            let names: Vec<String> =
                names.iter().map(|name| name.as_ref().map_or("all".into(), |name| quoted(name))).collect();
            names.join(",")
        };
        let address = match (self.kind, self.network) {
            ("local", _) => String::new(),
            (_, None) => "all".into(),
            (_, Some((address, bits))) => format!("{address}/{bits}"),
        };
        let (databases, users) = (names(&self.databases), names(&self.users));
        format!("{} {databases} {users} {address} {}\n", self.kind, self.method)
    }

    fn matches(&self, login: &Login) -> bool {
        let is_one = |names: &[Option<String>], wanted: &str| {
            names.iter().any(|name| name.as_deref().is_none_or(|name| name == wanted))
        };
        let is_kind = match (login.address, self.kind) {
            (None, kind) => kind == "local",
            (Some(_), "host") => true,
            (Some(_), "hostssl") => login.tls,
            (Some(_), "hostnossl") => !login.tls,
            _ => false,
        };
        let is_near = match (login.address, self.network) {
            (Some(address), Some((network, bits))) => {
                let start = |address: Ipv4Addr| u64::from(address.to_bits()) >> (32 - bits);
                start(address) == start(network)
            }
            _ => true,
        };
        is_kind && is_near && is_one(&self.databases, &login.database) && is_one(&self.users, &login.user)
    }
}

fn names() -> impl Strategy<Value = Vec<Option<String>>> {
    // A slash begins an expression in quotes, too.
    let name = name().prop_filter("a name", |name| !name.starts_with('/'));
    prop::collection::vec(prop::option::weighted(0.5, name), 1..4)
}

fn model() -> impl Strategy<Value = Model> {
    let kind = prop::sample::select(vec!["local", "host", "hostssl", "hostnossl"]);
    let length = prop::sample::select(vec![0, 8, 15, 16, 31, 32_u32]);
    let network = prop::option::of((any::<[bool; 2]>(), length));
    let method = prop::sample::select(vec!["trust", "md5", "scram-sha-256", "reject"]);
    (kind, names(), names(), network, method).prop_map(|(kind, databases, users, network, method)| {
        let network = network.map(|(bits, length)| (address(bits), length));
        Model { kind, databases, users, network, method }
    })
}

/// One of few addresses, so that networks meet them.
fn address(bits: [bool; 2]) -> Ipv4Addr {
    Ipv4Addr::new(10, u8::from(bits[0]), 0, u8::from(bits[1]))
}

fn login() -> impl Strategy<Value = Login> {
    let address = prop::option::weighted(0.8, any::<[bool; 2]>().prop_map(address));
    (address, any::<bool>(), name(), name()).prop_map(|(address, tls, database, user)| Login {
        address,
        tls,
        database,
        user,
    })
}

fn method_name(method: &Method) -> &'static str {
    match method {
        Method::Trust => "trust",
        Method::Reject => "reject",
        Method::Md5 => "md5",
        Method::ScramSha256 => "scram-sha-256",
        _ => "another",
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_and_every_problem_has_a_line(hba in text(), ident in text()) {
        let outcome = read(&hba, &ident);
        for problem in outcome.problems.iter().chain(&outcome.warnings) {
            prop_assert!(!problem.message.is_empty());
            let lines = if problem.file == Path::new("hba") { &hba } else { &ident }.lines().count();
            prop_assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{}", problem);
        }
    }

    #[test]
    fn no_rules_make_the_match_panic(hba in text(), ident in text(), database in name(), user in name()) {
        let hba = read(&hba, &ident).hba;
        let transport = Transport::Tcp { address: IpAddr::V4(Ipv4Addr::LOCALHOST), tls: None };
        let request = Request { transport: &transport, database: Wanted::Database(&database), user: &user };
        let facts = Facts { groups: Groups::Unknown, ..Facts::default() };
        let _ = decide(&hba, &request, &facts);
        prop_assert!(is_mapped(&hba, Some("m"), &database, &user, &Groups::Unknown).is_ok());
    }

    #[test]
    fn the_match_agrees_with_the_model(models in prop::collection::vec(model(), 1..6), login in login()) {
        let text: String = models.iter().map(Model::line).collect();
        let outcome = read(&text, "");
        prop_assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        let transport = match login.address {
            None => Transport::Unix,
            Some(address) => Transport::Tcp { address: address.into(), tls: login.tls.then(Tls::default) },
        };
        let request = Request {
            transport: &transport,
            database: Wanted::Database(&login.database),
            user: &login.user,
        };
        let found = match decide(&outcome.hba, &request, &Facts::default()) {
            Outcome::Rule(rule) => Some((rule.place.clone(), method_name(&rule.method))),
            Outcome::NoRule => None,
            other => panic!("{other:?}"),
        };
        let expected = models.iter().enumerate().find(|(_, model)| model.matches(&login));
        let expected = expected.map(|(index, model)| (format!("hba:{}", index + 1), model.method));
        prop_assert_eq!(found, expected, "{}", text);
    }
}
