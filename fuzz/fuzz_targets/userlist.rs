//! A userlist.txt and the secrets in it: lines are told with their numbers, and a secret is one of three kinds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::config::{Secret, userlist};

fuzz_target!(|text: &str| {
    let count = text.lines().count();
    let mut last = 0;
    for (number, line) in userlist::read(text) {
        assert!(number > last && number <= count);
        last = number;
        let Ok((user, secret)) = line else { continue };
        assert!(!user.is_empty());
        // Written as it was read, it is read as it was written.
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let written = format!("{} {}", quoted(&user), quoted(&secret));
        if !written.contains(['\n', '\r']) {
            let again: Vec<_> = userlist::read(&written).map(|(_, line)| line).collect();
            assert_eq!(again, [Ok((user, secret.clone()))]);
        }
        let _ = Secret::parse(&secret);
    }
});
