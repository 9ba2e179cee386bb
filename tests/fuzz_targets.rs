//! The fuzz targets of `fuzz/`, played with some random input: that they compile on today's code, and that what they claim
//! holds without hours of search. `fuzz/run.sh` is what searches.

#![allow(unused_attributes, reason = "a target is a program of its own when it is fuzzed")]

// What the targets take their macro from when they are fuzzed.
extern crate self as libfuzzer_sys;

use proptest::prelude::{ProptestConfig, any};
use proptest::{collection, proptest};

#[path = "../fuzz/fuzz_targets/both_legs.rs"]
mod both_legs;
#[path = "../fuzz/fuzz_targets/catalog_and_sql.rs"]
mod catalog_and_sql;
#[path = "../fuzz/fuzz_targets/frames.rs"]
mod frames;
#[path = "../fuzz/fuzz_targets/hba.rs"]
mod hba;
#[cfg(feature = "ldap")]
#[path = "../fuzz/fuzz_targets/ldap.rs"]
mod ldap;
#[cfg(feature = "oauth")]
#[path = "../fuzz/fuzz_targets/oauth.rs"]
mod oauth;
#[path = "../fuzz/fuzz_targets/owed_replies.rs"]
mod owed_replies;
#[path = "../fuzz/fuzz_targets/prepared.rs"]
mod prepared;
#[path = "../fuzz/fuzz_targets/scram.rs"]
mod scram;
#[path = "../fuzz/fuzz_targets/startup.rs"]
mod startup;
#[path = "../fuzz/fuzz_targets/userlist.rs"]
mod userlist;

/// A target as a function of bytes; one that takes text gets none where they are none.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &str| $body:block) => {
        pub fn one_input(bytes: &[u8]) {
            if let Ok($input) = std::str::from_utf8(bytes) {
                $body
            }
        }
    };
    (|$input:ident: &[u8]| $body:block) => {
        pub fn one_input(bytes: &[u8]) {
            let $input = bytes;
            $body
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_bytes_there_are(bytes in collection::vec(any::<u8>(), 0..200)) {
        catalog_and_sql::one_input(&bytes);
        frames::one_input(&bytes);
        #[cfg(feature = "oauth")]
        oauth::one_input(&bytes);
        owed_replies::one_input(&bytes);
        prepared::one_input(&bytes);
        scram::one_input(&bytes);
        startup::one_input(&bytes);
    }

    #[test]
    fn whatever_text_there_is(text in ".{0,100}") {
        catalog_and_sql::one_input(text.as_bytes());
        hba::one_input(text.as_bytes());
        #[cfg(feature = "ldap")]
        ldap::one_input(text.as_bytes());
        prepared::one_input(text.as_bytes());
        scram::one_input(text.as_bytes());
        userlist::one_input(text.as_bytes());
    }
}

/// The conversations that are wild enough take half a minute each, until servers that owe something are given up: they are
/// for whoever searches.
#[test]
fn two_clients_and_whoever_comes_afterwards() {
    both_legs::one_input(&[]);
    both_legs::one_input(&[4, 0x40, 1, 0x80, 2]);
}
