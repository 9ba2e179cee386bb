//! Texts that make and run prepared statements, and what a server says of their columns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::session::sql_prepare::{executed, find_prepare, may_execute, mentions, quote};
use pgvalet::session::statements::ResultShape;

fuzz_target!(|input: &[u8]| {
    let cut = input.first().map_or(0, |&byte| usize::from(byte % 64)).min(input.len());
    let (name, text) = input.split_at(cut);
    for executed in executed(text).unwrap_or_default() {
        assert!(may_execute(text) && mentions(text, &executed), "a name is run and not mentioned");
    }
    if let Some((whole, body)) = find_prepare(text, name) {
        assert!(whole.ends_with(body) && whole.len() < text.len() + 1);
        assert_eq!(find_prepare(whole, name), Some((whole, body)));
    }
    if let Ok(name) = std::str::from_utf8(name)
        && !name.is_empty()
        && !name.contains('\0')
    {
        let sql = format!("PREPARE {} AS SELECT 1", quote(name));
        assert_eq!(find_prepare(sql.as_bytes(), name.as_bytes()).map(|(_, body)| body), Some(&b" SELECT 1"[..]));
        assert!(mentions(sql.as_bytes(), name.as_bytes()));
    }
    let _ = ResultShape::of_row_description(input);
});
