//! Users that are in a database and not in a file: what `auth_query` finds.
//!
//! A [`Directory`] has a thread of its own with a few connections of its own, which no client ever gets: a query that hangs or a
//! storm of unknown names costs neither the workers nor the pools anything. What was found is kept for a moment in a bounded
//! [`cache`]; equal questions are asked once. Invariant: every question is answered within its limit, whatever the
//! database does.

pub mod cache;
mod desk;

use crate::config::{Secret, SecretKinds};
use crate::server::login::Target;
use crate::server::open::Means;
use cache::Cache;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Where users are looked up, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// What names it: the database's name in the configuration and the user that asks.
    pub name: (String, String),
    /// The server, with the user that asks.
    pub target: Target,
    /// A query with `$1` for the name. It gives the name, the secret, and perhaps the roles that the user is a member of.
    pub query: String,
    /// Limit for a look-up; `None`: none.
    pub timeout: Option<Duration>,
    /// How long an answer is believed.
    pub cache_time: Duration,
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.query.hash(state);
    }
}

/// A user as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What its password is checked against; `None`: it cannot log in with one.
    pub secret: Option<Secret>,
    /// Roles that it is a member of; `None` if the query does not tell.
    pub groups: Option<Vec<String>>,
}

/// Why a look-up brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The database does not exist. Whoever asked for it must not learn that before it has proved who it is.
    #[error("the database that auth_query runs in does not exist")]
    NoDatabase,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// The answer to a look-up; `Ok(None)` for a user that does not exist.
pub type Answer = Result<Option<Arc<Found>>, LookupError>;

/// All users that can be looked up. One for the process.
#[derive(Debug)]
pub struct Directory {
    cache: Arc<Mutex<Cache>>,
    questions: UnboundedSender<Question>,
}

/// A look-up on its way to the thread.
#[derive(Debug)]
struct Question {
    source: Arc<Source>,
    user: String,
    answer: oneshot::Sender<Answer>,
}

impl Directory {
    /// Starts the thread; it ends with the directory.
    ///
    /// # Errors
    /// The system's, if it gives no thread or no runtime.
    pub fn start(means: Arc<Means>) -> std::io::Result<Directory> {
        let cache = Arc::<Mutex<Cache>>::default();
        let (questions, receiver) = unbounded_channel();
        desk::start(receiver, cache.clone(), means)?;
        Ok(Directory { cache, questions })
    }

    /// The user `name`, from the cache or from the database.
    ///
    /// # Errors
    /// Why nobody can tell, within the source's limit.
    pub async fn look_up(&self, source: &Arc<Source>, name: &str) -> Answer {
        if let Some(known) = lock(&self.cache).get(source, name, Instant::now()) {
            return Ok(known);
        }
        let gone = || LookupError::Failed("pgvalet is shutting down".into());
        let (answer, found) = oneshot::channel();
        let question = Question { source: source.clone(), user: name.to_owned(), answer };
        self.questions.send(question).map_err(|_| gone())?;
        found.await.map_err(|_| gone())?
    }

    /// The kinds of secrets of those who were found so far.
    pub fn kinds(&self) -> SecretKinds {
        lock(&self.cache).kinds().clone()
    }

    /// Notes that a login with what was found of `name` failed: its password may have changed, so the next login looks
    /// again.
    pub fn doubt(&self, source: &Arc<Source>, name: &str) {
        lock(&self.cache).doubt(source, name, Instant::now());
    }
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys::KeyCache;
    use crate::config::tls::ServerTls;
    use crate::config::{Host, Tcp};
    use crate::net::tls::current::Current;

    /// A source of no particular place.
    pub(super) fn source() -> Source {
        let tcp = Tcp::default();
        let target = Target {
            hosts: vec![Host::Tcp("127.0.0.1".into())],
            load_balance: Default::default(),
            port: 1,
            dbname: "d".into(),
            user: "u".into(),
            witness: "configuration".into(),
            secret: None,
            password_source: None,
            startup: Vec::new(),
            connect_query: None,
            tcp,
            tls: ServerTls::default(),
            timeout: None,
            max_prepared: 0,
        };
        Source {
            name: ("d".into(), "u".into()),
            target,
            query: "q".into(),
            timeout: Some(Duration::from_secs(5)),
            cache_time: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_source_that_cannot_be_reached_is_an_error_for_everybody_who_asks() {
        let means = Means {
            keys: Arc::new(KeyCache::new(std::num::NonZeroUsize::MIN)),
            tls: Current::new(ServerTls::default()).unwrap(),
            turns: Default::default(),
        };
        let directory = Directory::start(Arc::new(means)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let source = Arc::new(source());
        runtime.block_on(async {
            let (one, other) = tokio::join!(directory.look_up(&source, "a"), directory.look_up(&source, "b"));
            assert!(
                matches!(&one, Err(LookupError::Failed(text)) if text.contains("cannot connect")),
                "{one:?}"
            );
            assert_eq!(one, other);
        });
    }
}
