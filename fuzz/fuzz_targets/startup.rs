//! The first packet of a connection, and the `options` in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::protocol::options;
use pgvalet::protocol::startup::{MAX_STARTUP, Packet, packet_length};

fuzz_target!(|input: &[u8]| {
    if let Ok(Some(length)) = packet_length(input) {
        assert!((8..=MAX_STARTUP).contains(&length));
        if let Some(packet) = input.get(..length)
            && let Ok(Packet::Startup(startup)) = Packet::parse(packet)
        {
            let _ = (
                startup.user(),
                startup.database(),
                startup.replication(),
                startup.protocol_options().count(),
            );
            if let Some(text) = startup.get("options") {
                let _ = options::parse(text);
            }
        }
    }
    let _ = Packet::parse(input);
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(found) = options::parse(text)
    {
        assert!(found.iter().all(|(name, _)| !name.is_empty()));
    }
});
