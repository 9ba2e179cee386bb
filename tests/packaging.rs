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
        for word in command.split(' ').filter(|word| word.starts_with('/')) {
            assert!(installed.iter().any(|file| file == word), "{line}");
        }
    }
    for file in deb["conf-files"].as_array().expect("a list") {
        assert!(installed.iter().any(|installed| Some(installed.as_str()) == file.as_str()), "{file}");
    }
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
