//! SCRAM-SHA-256, both halves played against each other: they agree for every password, notice every change of any
//! message, and survive any bytes.

use std::num::NonZeroUsize;

use pgvalet::auth::AuthError;
use pgvalet::auth::keys::{ClientKeys, KeyCache};
use pgvalet::auth::mock::MockSecret;
use pgvalet::auth::scram::{ChannelBinding, Nonce};
use pgvalet::auth::scram_client::{ClientChallenged, ClientStart};
use pgvalet::auth::scram_server::{Accepted, Credentials, ServerBinding, ServerStart};
use pgvalet::config::secret::{Password, ScramVerifier};
use proptest::prelude::*;
use proptest::sample::Index;

proptest! {
    #[test]
    fn both_halves_agree_for_any_password(exchange in exchange()) {
        let accepted = exchange.run(|_, message| message).expect("the login succeeds");
        prop_assert_eq!(&accepted.keys, &exchange.keys);
    }

    #[test]
    fn keys_learnt_from_a_login_log_in_again(exchange in exchange()) {
        let accepted = exchange.run(|_, message| message).expect("the login succeeds");
        let pass_through = ClientKeys::new(accepted.keys.client_key, exchange.verifier.server_key);
        let again = Exchange { keys: pass_through, ..exchange };
        prop_assert!(again.run(|_, message| message).is_ok());
    }

    #[test]
    fn another_password_fails(exchange in exchange(), other in password()) {
        let keys = ClientKeys::derive(&other, &exchange.verifier.salt, exchange.verifier.iterations);
        prop_assume!(keys != exchange.keys);
        let wrong = Exchange { keys, ..exchange };
        prop_assert_eq!(wrong.run(|_, message| message).unwrap_err(), AuthError::Failed);
    }

    #[test]
    fn any_change_of_any_message_ends_in_an_error(
        exchange in exchange(),
        target in 0..4_usize,
        change in change(),
    ) {
        let mut changed = false;
        let result = exchange.run(|step, message| {
            if step != target {
                return message;
            }
            let altered = change.apply(&message);
            changed = altered != message;
            altered
        });
        prop_assert_eq!(result.is_err(), changed);
    }

    #[test]
    fn mock_credentials_cannot_be_told_from_a_wrong_password(
        exchange in exchange(),
        secret in any::<[u8; 32]>(),
        target in 0..4_usize,
        change in change(),
    ) {
        let salt = MockSecret::new(secret).salt("nobody");
        let iterations = exchange.verifier.iterations;
        let wrong = ClientKeys::new([1; 32], [2; 32]).verifier(&salt, iterations);
        let play = |credentials| {
            let mut seen = Vec::new();
            let result = exchange.run_with(credentials, |step, message| {
                seen.push(message.clone());
                if step == target { change.apply(&message) } else { message }
            });
            (seen, result.unwrap_err())
        };
        prop_assert_eq!(play(Credentials::Verifier(wrong)), play(Credentials::Mock { salt, iterations }));
    }

    #[test]
    fn any_bytes_are_survived(message in hostile_message(), exchange in exchange(), target in 0..4_usize) {
        let _ = exchange.run(|step, honest| if step == target { message.clone() } else { honest });
    }

    #[test]
    fn cached_keys_are_the_derived_ones(password in password(), salt in salt(), iterations in 1..8_u32) {
        let cache = KeyCache::new(NonZeroUsize::MIN);
        prop_assert!(cache.get(&password, &salt, iterations).is_none());
        let derived = cache.get_or_derive(&password, &salt, iterations);
        prop_assert_eq!(&derived, &ClientKeys::derive(&password, &salt, iterations));
        prop_assert_eq!(cache.get(&password, &salt, iterations), Some(derived));
    }
}

/// A login that succeeds as long as nobody interferes.
#[derive(Debug, Clone)]
struct Exchange {
    keys: ClientKeys,
    verifier: ScramVerifier,
    client_nonce: [u8; Nonce::ENTROPY],
    server_nonce: [u8; Nonce::ENTROPY],
    client_binding: ChannelBinding,
    server_binding: ServerBinding,
}

impl Exchange {
    fn run(&self, wire: impl FnMut(usize, Vec<u8>) -> Vec<u8>) -> Result<Accepted, AuthError> {
        self.run_with(Credentials::Verifier(self.verifier.clone()), wire)
    }

    /// Plays the four messages, each by way of `wire`.
    fn run_with(
        &self,
        credentials: Credentials,
        mut wire: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
    ) -> Result<Accepted, AuthError> {
        let server =
            ServerStart::new(credentials, Nonce::new(self.server_nonce), self.server_binding.clone());
        let (client, client_first) =
            ClientStart::begin(Nonce::new(self.client_nonce), self.client_binding.clone());
        let (server, server_first) = server.client_first(&wire(0, client_first))?;
        let challenge: ClientChallenged = client.server_first(&wire(1, server_first))?;
        let (client, client_final) = challenge.answer(&self.keys);
        let accepted = server.client_final(&wire(2, client_final))?;
        client.server_final(&wire(3, accepted.server_final.clone()))?;
        Ok(accepted)
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (password(), salt(), 1..20_u32, any::<[u8; 18]>(), any::<[u8; 18]>(), bindings()).prop_map(
        |(password, salt, iterations, client_nonce, server_nonce, (client_binding, server_binding))| {
            let keys = ClientKeys::derive(&password, &salt, iterations);
            let verifier = keys.verifier(&salt, iterations);
            Exchange { keys, verifier, client_nonce, server_nonce, client_binding, server_binding }
        },
    )
}

fn password() -> impl Strategy<Value = Password> {
    "[^\0]{1,40}|[ -~]{1,100}".prop_map(|text| Password::new(text).expect("neither empty nor with a NUL"))
}

fn salt() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..40)
}

/// The combinations that fit together.
fn bindings() -> impl Strategy<Value = (ChannelBinding, ServerBinding)> {
    prop_oneof![
        Just((ChannelBinding::None, ServerBinding::NotOffered)),
        Just((ChannelBinding::None, ServerBinding::Declined)),
        Just((ChannelBinding::NotOffered, ServerBinding::NotOffered)),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|hash| (
            ChannelBinding::TlsServerEndPoint(hash.clone()),
            ServerBinding::Selected(hash)
        )),
    ]
}

/// What somebody in between may do to a message.
#[derive(Debug, Clone)]
enum Change {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Append(Vec<u8>),
    Swap(Index, Index),
}

impl Change {
    fn apply(&self, message: &[u8]) -> Vec<u8> {
        let mut changed = message.to_vec();
        match self {
            Change::Replace(at, byte) => changed[at.index(message.len())] = *byte,
            Change::Insert(at, byte) => changed.insert(at.index(message.len() + 1), *byte),
            Change::Remove(at) => drop(changed.remove(at.index(message.len()))),
            Change::Truncate(at) => changed.truncate(at.index(message.len())),
            Change::Append(bytes) => changed.extend_from_slice(bytes),
            Change::Swap(one, other) => changed.swap(one.index(message.len()), other.index(message.len())),
        }
        changed
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), wire_byte()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (any::<Index>(), wire_byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        any::<Index>().prop_map(Change::Truncate),
        prop_oneof![
            prop::collection::vec(wire_byte(), 1..20),
            Just(b",".to_vec()),
            Just(b",x=y".to_vec()),
            Just(vec![b'a'; 5000]),
        ]
        .prop_map(Change::Append),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Swap(one, other)),
    ]
}

/// Any byte, but mostly those that mean something.
fn wire_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => prop::sample::select(b",=nypacrsimve0A/+".to_vec()),
        1 => any::<u8>(),
    ]
}

fn hostile_message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(wire_byte(), 0..60),
        "([nypacrsimve]=[A-Za-z0-9+/=]{0,12},?){0,6}".prop_map(String::into_bytes),
        "(n,,|y,,|p=tls-server-end-point,,)(n=|m=)[a-z]{0,3},r=[!-~]{0,10}(,[a-z]=.{0,5}){0,2}"
            .prop_map(String::into_bytes),
    ]
}
