//! SCRAM messages of a hostile client and of a hostile server, and stored secrets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::auth::keys::ClientKeys;
use pgvalet::auth::saslprep;
use pgvalet::auth::scram::{ChannelBinding, Nonce};
use pgvalet::auth::scram_client::ClientStart;
use pgvalet::auth::scram_server::{Credentials, ServerBinding, ServerStart};
use pgvalet::config::Secret;

fuzz_target!(|input: &[u8]| {
    let cut = input.first().map_or(0, |&byte| usize::from(byte)).min(input.len());
    let (first, last) = input.split_at(cut);

    let credentials = Credentials::Mock { salt: [7; 16], iterations: 4096 };
    let start = ServerStart::new(credentials, Nonce::new([1; Nonce::ENTROPY]), ServerBinding::NotOffered);
    if let Ok((challenged, _)) = start.client_first(first) {
        assert!(challenged.client_final(last).is_err(), "a mock login succeeded");
    }

    let (client, _) = ClientStart::begin(Nonce::new([2; Nonce::ENTROPY]), ChannelBinding::None);
    if let Ok(challenged) = client.server_first(first) {
        let (proved, _) = challenged.answer(&ClientKeys::new([3; 32], [4; 32]));
        let _ = proved.server_final(last);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = (Secret::parse(text), saslprep::prepare(text));
    }
});
