//! Texts that make and run prepared statements, and what a server says of their columns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::session::sql_prepare::{Prepares, Words, executed, may_execute, mentions, quote};
use pgvalet::session::statements::ResultShape;

fuzz_target!(|input: &[u8]| {
    let cut = input.first().map_or(0, |&byte| usize::from(byte % 64)).min(input.len());
    let (name, text) = input.split_at(cut);
    let words = Words::of(text);
    assert_eq!(words.mention(name), mentions(text, name));
    for executed in executed(text).unwrap_or_default() {
        assert!(may_execute(text) && words.mention(&executed), "a name is run and not mentioned");
    }
    if let Some((whole, body)) = Prepares::of(text).get(name) {
        assert!(whole.ends_with(body));
        assert_eq!(Prepares::of(whole).get(name), Some((whole, body)));
    }
    if let Ok(name) = std::str::from_utf8(name)
        && !name.is_empty()
        && !name.contains('\0')
    {
        let sql = format!("PREPARE {} AS SELECT 1", quote(name));
        let found = Prepares::of(sql.as_bytes()).get(name.as_bytes());
        assert_eq!(found, Some((sql.as_bytes(), &b" SELECT 1"[..])));
        assert!(Words::of(sql.as_bytes()).mention(name.as_bytes()));
    }
    let _ = ResultShape::of_row_description(input);
});
