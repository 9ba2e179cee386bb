//! Any bytes as SQL: judged without a panic, and never less than what a plain reading finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::session::classify::{begins_transaction, classify};
use pgvalet::session::{CatalogFacts, Shapes};

fuzz_target!(|input: &[u8]| {
    let facts = CatalogFacts::unknown();
    let judged = classify(input, &facts, false);
    let in_unsafe_encoding = classify(input, &facts, true);
    assert!(!in_unsafe_encoding.is_stateless() || judged.is_stateless());
    let _ = begins_transaction(input);
    let mut shapes = Shapes::new(1);
    assert_eq!(shapes.footprint(input, 1, || judged), judged);
    let rows: Vec<Vec<String>> = input
        .split(|&byte| byte == b'\n')
        .map(|row| {
            row.split(|&byte| byte == b'\t').map(|cell| String::from_utf8_lossy(cell).into_owned()).collect()
        })
        .collect();
    let _ = classify(b"SELECT a FROM t", &CatalogFacts::from_rows(&rows), false);
});
