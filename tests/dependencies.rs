//! What may be in the dependency tree: licences and sources as `deny.toml` has them.
//!
//! `cargo deny` looks at the same and at more; where it is not installed, this still holds.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Everything that a build with all features takes in on a target.
fn packages(target: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--all-features", "--filter-platform", target])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let needs: BTreeMap<&str, &Value> =
        nodes.iter().map(|node| (node["id"].as_str().expect("an id"), &node["deps"])).collect();
    // What only tests need is not shipped.
    let is_shipped = |need: &&Value| {
        need["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
    };
    let mut there = BTreeSet::new();
    let mut open = vec![metadata["resolve"]["root"].as_str().expect("the package itself")];
    while let Some(id) = open.pop() {
        if there.insert(id) {
            let needs = needs[id].as_array().expect("a list").iter().filter(is_shipped);
            open.extend(needs.map(|need| need["pkg"].as_str().expect("an id")));
        }
    }
    let all = metadata["packages"].as_array().expect("packages");
    all.iter().filter(|package| there.contains(package["id"].as_str().expect("an id"))).cloned().collect()
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    text.parse().expect("TOML")
}

fn texts(value: &toml::Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

/// Whether an expression of SPDX can be met by licences of the list.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    fn split<'a>(expression: &'a str, by: &str) -> Vec<&'a str> {
        let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
        for (at, character) in expression.char_indices() {
            depth += i32::from(character == '(') - i32::from(character == ')');
            if depth == 0 && expression[at..].starts_with(by) {
                parts.push(&expression[from..at]);
                from = at + by.len();
            }
        }
        parts.push(&expression[from..]);
        parts
    }
    let (choices, needs) = (split(expression, " OR "), split(expression, " AND "));
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        _ if choices.len() > 1 => choices.iter().any(|choice| is_met(choice.trim(), allowed)),
        _ if needs.len() > 1 => needs.iter().all(|need| is_met(need.trim(), allowed)),
        Some(inner) => is_met(inner, allowed),
        None => allowed.iter().any(|licence| licence == expression),
    }
}

#[test]
fn expressions_of_licences_are_read() {
    let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR GPL-3.0) AND Zlib", true),
        ("(MIT AND GPL-3.0) OR (Zlib AND BSD-3-Clause)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let deny = deny();
    let allowed = texts(&deny["licenses"]["allow"]);
    for target in texts(&deny["graph"]["targets"]) {
        let mut names = BTreeSet::new();
        for package in packages(&target) {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let (name, version) = (text("name"), text("version"));
            if name == env!("CARGO_PKG_NAME") {
                continue;
            }
            let source = text("source");
            assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name} {version}");
            let licence = text("license").replace('/', " OR ");
            assert!(is_met(&licence, &allowed), "{name} {version} is licensed under {licence:?}");
            names.insert(name);
        }
        assert!(names.contains("rustls"));
    }
}
