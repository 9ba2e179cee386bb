//! What `auth_query` found, for a moment.
//!
//! Owns what is believed how long. Users and names that nobody has are kept apart, so that guessing names pushes no user
//! out. Invariant: bounded, whatever clients ask for.

use super::{Found, Source};
use crate::config::SecretKinds;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users that are kept.
const USERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Names of nobody that are kept.
const STRANGERS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// Sources that answers can share; a further one is only kept more often.
const SOURCES: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Iteration counts that are remembered; more is no database's doing.
const KINDS: usize = 16;
/// How long an answer is believed even if a login with it fails: guessing passwords must not become a storm of queries.
const LEAST: Duration = Duration::from_secs(1);

type Key = (Arc<Source>, String);

/// Answers by source and name.
#[derive(Debug)]
pub struct Cache {
    users: LruCache<Key, (Arc<Found>, Times)>,
    strangers: LruCache<Key, Times>,
    /// One of each: every login brings its own.
    sources: LruCache<Arc<Source>, ()>,
    /// Of the secrets that were ever found.
    kinds: SecretKinds,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    found: Instant,
    until: Instant,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            users: LruCache::new(USERS),
            strangers: LruCache::new(STRANGERS),
            sources: LruCache::new(SOURCES),
            kinds: SecretKinds::default(),
        }
    }
}

impl Cache {
    /// What is believed of `name`; `None` if it has to be looked up.
    pub fn get(&mut self, source: &Arc<Source>, name: &str, now: Instant) -> Option<Option<Arc<Found>>> {
        let key = (source.clone(), name.to_owned());
        if let Some((found, times)) = self.users.get(&key)
            && now < times.until
        {
            return Some(Some(found.clone()));
        }
        let times = self.strangers.get(&key)?;
        (now < times.until).then_some(None)
    }

    /// Keeps an answer.
    pub fn put(&mut self, source: &Arc<Source>, name: &str, found: Option<&Arc<Found>>, now: Instant) {
        let source = match self.sources.get_key_value(source) {
            Some((known, ())) => known.clone(),
            None => {
                self.sources.put(source.clone(), ());
                source.clone()
            }
        };
        let times = Times { found: now, until: now + source.cache_time };
        let key = (source, name.to_owned());
        match found {
            Some(found) => {
                if let Some(secret) = &found.secret
                    && self.kinds.scram.len() < KINDS
                {
                    self.kinds.count(secret);
                }
                self.strangers.pop(&key);
                self.users.put(key, (found.clone(), times));
            }
            None => {
                self.users.pop(&key);
                self.strangers.put(key, times);
            }
        }
    }

    /// The kinds of secrets that were found; how many of each says nothing.
    pub fn kinds(&self) -> &SecretKinds {
        &self.kinds
    }

    /// Lets the next login of `name` look again, but not sooner than a second after the last look.
    pub fn doubt(&mut self, source: &Arc<Source>, name: &str, now: Instant) {
        let key = (source.clone(), name.to_owned());
        let known = match self.users.peek_mut(&key) {
            Some((_, times)) => Some(times),
            None => self.strangers.peek_mut(&key),
        };
        if let Some(times) = known {
            times.until = times.until.min(now.max(times.found + LEAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    fn user() -> Arc<Found> {
        Arc::new(Found { secret: None, groups: None })
    }

    #[test]
    fn answers_are_believed_for_their_time() {
        let (mut cache, source, now) = (Cache::default(), Arc::new(source()), Instant::now());
        assert_eq!(cache.get(&source, "a", now), None);
        cache.put(&source, "a", Some(&user()), now);
        cache.put(&source, "b", None, now);
        assert_eq!(cache.get(&source, "a", now), Some(Some(user())));
        assert_eq!(cache.get(&source, "b", now), Some(None));
        let later = now + source.cache_time;
        assert_eq!((cache.get(&source, "a", later), cache.get(&source, "b", later)), (None, None));
        cache.put(&source, "a", None, later);
        assert_eq!(cache.get(&source, "a", later), Some(None), "a user can go");
        cache.put(&source, "a", Some(&user()), later);
        assert_eq!(cache.get(&source, "a", later), Some(Some(user())), "and come back");
    }

    #[test]
    fn another_source_is_another_user() {
        let (mut cache, one, now) = (Cache::default(), Arc::new(source()), Instant::now());
        let other = Arc::new(Source { query: "another".into(), ..source() });
        cache.put(&one, "a", Some(&user()), now);
        assert_eq!(cache.get(&other, "a", now), None);
        assert!(cache.get(&Arc::new(source()), "a", now).is_some(), "an equal source is the same");
    }

    #[test]
    fn a_doubted_answer_is_looked_up_again_but_not_at_once() {
        let (mut cache, source, now) = (Cache::default(), Arc::new(source()), Instant::now());
        cache.put(&source, "a", Some(&user()), now);
        cache.doubt(&source, "a", now);
        assert!(cache.get(&source, "a", now + LEAST / 2).is_some());
        assert_eq!(cache.get(&source, "a", now + LEAST), None);
        cache.put(&source, "a", Some(&user()), now);
        cache.doubt(&source, "a", now + 2 * LEAST);
        assert_eq!(cache.get(&source, "a", now + 2 * LEAST), None, "it was old enough");
    }

    #[test]
    fn guessed_names_push_no_user_out() {
        let (mut cache, source, now) = (Cache::default(), Arc::new(source()), Instant::now());
        cache.put(&source, "a", Some(&user()), now);
        for number in 0..30_000 {
            cache.put(&source, &number.to_string(), None, now);
        }
        assert!(cache.get(&source, "a", now).is_some());
        assert_eq!(cache.strangers.len(), STRANGERS.get());
    }
}
