//! Messages of either peer, as the relay and the logins read them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::protocol::frame::HEADER;
use pgvalet::protocol::{ErrorFields, Header, backend, frontend};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some(header)) = Header::parse(rest) {
        let known = header.check_frontend().is_ok();
        let body = &rest[HEADER..header.total().min(rest.len())];
        match header.tag {
            b'P' => drop(frontend::read_parse(body)),
            b'B' => {
                if let Some((portal, statement, names)) = frontend::read_bind(body) {
                    assert_eq!(names, portal.len() + statement.len() + 2);
                    assert!(names <= body.len());
                }
            }
            b'D' | b'C' => {
                let _ = frontend::read_target(body);
                let _ = backend::read_data_row(body);
            }
            b'S' => drop(backend::read_parameter_status(body)),
            b'E' | b'N' => {
                let fields = ErrorFields::new(body);
                let _ = (fields.code(), fields.is_fatal(), fields.message());
                let mut out = Default::default();
                backend::error_with_severity(&mut out, body, "FATAL");
                assert!(matches!(Header::parse(&out), Ok(Some(copy)) if copy.total() == out.len()));
            }
            b'Q' if known => {
                assert!(frontend::read_query(&rest[..header.total().min(rest.len())]).len() <= rest.len())
            }
            _ => {}
        }
        if rest.len() < header.total() {
            break;
        }
        rest = &rest[header.total()..];
    }
});
