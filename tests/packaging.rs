//! What is shipped beside the program agrees with it: manual pages, the unit, the package.

use std::fs;
use std::path::Path;

#[path = "../examples/man.rs"]
#[allow(dead_code, reason = "the program that writes the pages")]
mod man;

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn the_manual_pages_are_those_of_the_code() {
    for (name, text) in man::pages() {
        let kept = fs::read_to_string(man::directory().join(name)).unwrap_or_default();
        assert!(kept == text, "packaging/{name} is not what the code says; run: cargo run --example man");
    }
}

#[test]
fn what_the_package_and_the_unit_name_is_there() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut installed = Vec::new();
    for asset in deb["assets"].as_array().expect("a list") {
        let [from, to] = [0, 1].map(|at| asset[at].as_str().expect("text"));
        let name = Path::new(from).file_name().and_then(|name| name.to_str()).expect("a name");
        installed.push(format!("/{to}{name}"));
        if from.starts_with("target/") || from.contains('*') {
            continue;
        }
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(from).is_file(), "{from}");
    }
    let unit = read("examples/systemd/pgvalet.service");
    for line in unit.lines().filter(|line| line.starts_with("Exec")) {
        let command = line.split_once('=').expect("a setting").1;
        for word in command.split(' ').filter(|word| word.starts_with('/') && *word != "/bin/kill") {
            assert!(installed.iter().any(|file| file == word), "{line}");
        }
    }
    for file in deb["conf-files"].as_array().expect("a list") {
        assert!(installed.iter().any(|installed| Some(installed.as_str()) == file.as_str()), "{file}");
    }
}

/// Whether `file::module::name`, or a part of that from its beginning, is a test.
fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let sources = (1..=parts.len().min(2)).filter_map(|count| {
        let file = format!("tests/{}.rs", parts[..count].join("/"));
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok()?;
        Some((text, &parts[count..]))
    });
    let mut found = false;
    for (text, rest) in sources {
        found |= match rest {
            [] => true,
            [name] => text.contains(&format!("fn {name}()")),
            _ => false,
        };
    }
    found
}

#[test]
fn the_pages_of_behaviours_name_tests_and_settings_that_there_are() {
    let page = read("docs/pgbouncer-behaviours.md");
    for (name, text) in
        [("pgbouncer-behaviours.md", &page), ("protocol-cases.md", &read("docs/protocol-cases.md"))]
    {
        let quoted = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .flat_map(|line| line.split('`').skip(1).step_by(2));
        let is_path = |word: &&str| {
            word.contains("::") && word.chars().all(|c| c.is_ascii_lowercase() || "_:0123456789".contains(c))
        };
        let named: Vec<&str> = quoted.filter(is_path).collect();
        assert!(named.len() > 50, "{name}");
        let gone: Vec<&&str> = named.iter().filter(|path| !is_test(path)).collect();
        assert!(gone.is_empty(), "{name} names tests that there are not: {gone:#?}");
    }
    // The list of settings is that of a test that has pgvalet read them all.
    let list = read("tests/config/any_ini.rs");
    let list = list
        .split_once("const PGBOUNCER: &str = \"")
        .and_then(|(_, rest)| rest.split_once("\";"))
        .expect("a list")
        .0;
    let settings: Vec<&str> =
        list.lines().filter_map(|line| line.split_once(" =")).map(|(name, _)| name).collect();
    assert!(settings.len() > 90, "{settings:?}");
    let lacks: Vec<&&str> = settings.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(lacks.is_empty(), "docs/pgbouncer-behaviours.md lacks {lacks:?}");
}

#[test]
fn the_files_of_the_containers_name_what_there_is() {
    let dockerfile = read("examples/docker/Dockerfile");
    for line in dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        for source in line.split_whitespace().skip(1).filter(|word| !word.starts_with('/') && *word != "./") {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists(), "{line}");
        }
    }
    assert!(read("examples/docker/compose.yaml").contains("examples/docker/Dockerfile"));
}
