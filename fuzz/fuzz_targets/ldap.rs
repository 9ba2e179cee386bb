//! The options of a directory (`auth_ldap_options`, and the rules with `ldap`): whatever they say, they lead to servers, or to
//! an error that says something.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvalet::config::hba::Ldap;

fuzz_target!(|text: &str| {
    for begin in ["", "ldapserver=x ldapbasedn=", "ldapurl="] {
        match Ldap::from_line(&format!("{begin}{text}")) {
            Ok(ldap) => assert!(!ldap.servers.is_empty()),
            Err(message) => assert!(!message.is_empty()),
        }
    }
});
