//! What a client shows by OAUTHBEARER: any bytes, and bytes that begin as they should. A token is part of its message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::auth::oauthbearer::{Shown, client_first, client_last};

fuzz_target!(|data: &[u8]| {
    let _ = client_last(data);
    for begin in [&b""[..], b"n,,\x01", b"n,,\x01auth=", b"y,,\x01host=x\x01auth=Bearer "] {
        let message = [begin, data].concat();
        if let Ok(Shown::Token(token)) = client_first(&message) {
            assert!(!token.is_empty() && token.is_ascii());
            assert!(message.windows(token.len()).any(|part| part == token.as_bytes()));
        }
    }
});
