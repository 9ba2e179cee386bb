//! Bearer tokens: whose they are.
//!
//! Owns the keys of issuers and their age. They are kept in memory and read again on a thread of their own: in the background
//! once they are [`FRESH`] old, and at once where a token names a key that is not among them, but never more often than every
//! [`PAUSE`]. Invariant: however many tokens come, an issuer is asked at most that often, and by one request at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::aside::Aside;
use super::fetch;
use super::jwk::{Keys, Rejected};
use crate::config::hba::OAuth;
use crate::config::hba::oauth::KeySource;

/// How old keys may be before they are read again.
const FRESH: Duration = Duration::from_secs(300);
/// How old they may be if they cannot be read.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How long an issuer is left alone after it was asked.
const PAUSE: Duration = Duration::from_secs(10);

/// The keys of all issuers in use.
#[derive(Debug)]
pub(super) struct Issuers {
    known: Mutex<HashMap<KeySource, Arc<Issuer>>>,
    /// [`PAUSE`].
    pause: Duration,
}

impl Default for Issuers {
    fn default() -> Issuers {
        Issuers { known: Mutex::default(), pause: PAUSE }
    }
}

/// An issuer's keys.
#[derive(Debug, Default)]
struct Issuer {
    pause: Duration,
    state: Mutex<State>,
    /// Held by the one who reads.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default, Clone)]
struct State {
    keys: Option<(Arc<Keys>, Instant)>,
    /// When they were last asked for, and what went wrong then.
    asked: Option<(Instant, Option<String>)>,
}

impl Issuers {
    /// The user that a good token names.
    ///
    /// # Errors
    /// Why it does not count, for the log.
    pub(super) async fn user(&self, aside: &Aside, token: &str, oauth: &OAuth) -> Result<String, String> {
        let issuer = {
            let mut known = lock(&self.known);
            let new = || Arc::new(Issuer { pause: self.pause, ..Issuer::default() });
            known.entry(oauth.keys.clone()).or_insert_with(new).clone()
        };
        let keys = match issuer.keys() {
            Some((keys, age)) => {
                if age > FRESH {
                    issuer.read_again(aside, &oauth.keys, false).await;
                }
                keys
            }
            None => {
                issuer.read_again(aside, &oauth.keys, true).await;
                issuer.keys().ok_or_else(|| issuer.trouble())?.0
            }
        };
        let rejected = match keys.check(token, oauth) {
            Ok(user) => return Ok(user),
            Err(Rejected::NoKey) => {
                issuer.read_again(aside, &oauth.keys, true).await;
                let keys = issuer.keys().ok_or_else(|| issuer.trouble())?.0;
                match keys.check(token, oauth) {
                    Ok(user) => return Ok(user),
                    Err(rejected) => rejected,
                }
            }
            Err(rejected) => rejected,
        };
        Err(rejected.to_string())
    }
}

impl Issuer {
    /// The keys that are not too old, and their age.
    fn keys(&self) -> Option<(Arc<Keys>, Duration)> {
        let state = lock(&self.state);
        let (keys, read) = state.keys.as_ref()?;
        (read.elapsed() <= STALE).then(|| (keys.clone(), read.elapsed()))
    }

    fn trouble(&self) -> String {
        let state = lock(&self.state);
        let trouble = state.asked.as_ref().and_then(|(_, trouble)| trouble.as_deref());
        format!("the keys of its issuer cannot be had: {}", trouble.unwrap_or("nobody was asked"))
    }

    /// Whether the issuer is to be left alone.
    fn is_resting(&self) -> bool {
        lock(&self.state).asked.as_ref().is_some_and(|(asked, _)| asked.elapsed() < self.pause)
    }

    /// Reads the keys again; `wait`: until that is done, by whomever.
    async fn read_again(self: &Arc<Self>, aside: &Aside, source: &KeySource, wait: bool) {
        if self.is_resting() && !wait {
            return;
        }
        let turn = match wait {
            true => self.reading.clone().lock_owned().await,
            false => match self.reading.clone().try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return,
            },
        };
        // Whoever had the turn before may have done it.
        if self.is_resting() {
            return;
        }
        let (issuer, source) = (self.clone(), source.clone());
        // The work goes on if whoever waits for it leaves.
        let done = aside.begin(async move {
            let read = read(&source).await;
            issuer.store(&source, read);
            drop(turn);
        });
        if let Some(done) = done.filter(|_| wait) {
            let _ = done.await;
        }
    }

    fn store(&self, source: &KeySource, read: Result<Keys, String>) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        match read {
            Ok(keys) => {
                tracing::debug!(?source, "the keys of an issuer were read");
                *state = State { keys: Some((Arc::new(keys), now)), asked: Some((now, None)) };
            }
            Err(error) => {
                tracing::warn!(%error, "the keys of an issuer (oauth) cannot be read");
                state.asked = Some((now, Some(error)));
            }
        }
    }
}

async fn read(source: &KeySource) -> Result<Keys, String> {
    match source {
        KeySource::File(path) => {
            let text =
                std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            Keys::read(&text).map_err(|error| format!("{}: {error}", path.display()))
        }
        KeySource::Url { url, discovery_of, ca_file } => {
            let document = fetch::get(url, ca_file.as_deref()).await?;
            let Some(issuer) = discovery_of else {
                return Keys::read(&document).map_err(|error| format!("{url}: {error}"));
            };
            let at = keys_of(&document, issuer).map_err(|error| format!("{url}: {error}"))?;
            let keys = fetch::get(&at, ca_file.as_deref()).await?;
            Keys::read(&keys).map_err(|error| format!("{at}: {error}"))
        }
    }
}

/// Where a discovery document has the keys (OpenID Connect Discovery 1.0, sections 3 and 4.3).
fn keys_of(document: &[u8], issuer: &str) -> Result<String, String> {
    let document: Value =
        serde_json::from_slice(document).map_err(|error| format!("it is not JSON: {error}"))?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    if text("issuer") != Some(issuer) {
        let found = text("issuer").unwrap_or_default();
        return Err(format!("it is the document of the issuer {found:?}, and not of {issuer:?}"));
    }
    let at = text("jwks_uri").ok_or("it has no jwks_uri; set validator.jwks")?;
    crate::config::hba::oauth::url("its jwks_uri", at).map(str::to_owned)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "../../tests/support/tokens.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the integration tests")]
mod tokens;

#[cfg(test)]
mod tests {
    use super::tokens::{SigningKey, key_set};
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn oauth(file: &Path) -> OAuth {
        OAuth {
            issuer: "i".into(),
            discovery: String::new(),
            scope: "db".into(),
            map: None,
            keys: KeySource::File(file.into()),
            audience: vec!["a".into()],
            algorithms: vec!["ES256"],
            user_claim: "sub".into(),
            leeway: 0,
            as_password: false,
        }
    }

    fn token(key: &SigningKey) -> String {
        let claims = json!({ "iss": "i", "aud": "a", "sub": "u", "scope": "db", "exp": 4_000_000_000_u64 });
        key.token("ES256", &claims)
    }

    #[tokio::test]
    async fn new_keys_are_read_when_a_token_names_one_but_not_all_the_time() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys.json");
        let (old, new) = (SigningKey::new("old", "ES256"), SigningKey::new("new", "ES256"));
        let (aside, oauth) = (Aside::default(), oauth(&file));
        for (pause, outcome) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
            std::fs::write(&file, key_set(&[old.public()])).unwrap();
            let issuers = Issuers { pause, ..Issuers::default() };
            let check = async |key| issuers.user(&aside, &token(key), &oauth).await;
            assert_eq!(check(&old).await.as_deref(), Ok("u"));
            std::fs::write(&file, key_set(&[new.public()])).unwrap();
            assert_eq!(check(&new).await.is_ok(), outcome);
            // The old key counts for as long as nobody has read the new ones.
            assert_eq!(check(&old).await.is_ok(), !outcome);
        }
    }

    #[tokio::test]
    async fn keys_stay_when_the_issuer_is_in_trouble() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys.json");
        let (known, unknown) = (SigningKey::new("known", "ES256"), SigningKey::new("unknown", "ES256"));
        let (aside, oauth) = (Aside::default(), oauth(&file));
        let issuers = Issuers { pause: Duration::ZERO, ..Issuers::default() };
        let check = async |key| issuers.user(&aside, &token(key), &oauth).await;
        assert!(check(&known).await.unwrap_err().contains("cannot read"), "there is no file yet");
        std::fs::write(&file, key_set(&[known.public()])).unwrap();
        assert!(check(&known).await.is_ok());
        std::fs::write(&file, "nonsense").unwrap();
        assert!(check(&unknown).await.is_err());
        assert!(check(&known).await.is_ok());
    }
}
