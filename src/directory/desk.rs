//! The thread that looks users up: its connections, and who waits for which answer.

use super::cache::Cache;
use super::{Answer, Found, LookupError, Question, Source, lock};
use crate::alarm::{interval, timeout};
use crate::config::Secret;
use crate::protocol::ErrorFields;
use crate::server::ask::Row;
use crate::server::open::Means;
use crate::server::{Server, ServerError, login};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::MissedTickBehavior;

/// Connections to one source at the same time.
const CONNECTIONS: usize = 4;
/// Sources at the same time: with a fallback database, clients can name any number of them.
const SOURCES: usize = 256;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a source is left alone that could not be reached.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread; it ends when no question can come any more.
pub(super) fn start(
    questions: UnboundedReceiver<Question>,
    cache: Arc<Mutex<Cache>>,
    means: Arc<Means>,
) -> std::io::Result<()> {
    let runtime = || {
        Builder::new_current_thread()
            .enable_all()
            .thread_name("auth-blocking")
            .max_blocking_threads(2)
            .build_local(LocalOptions::default())
    };
    let work = move || match runtime() {
        Ok(runtime) => runtime.block_on(run(questions, cache, means)),
        Err(error) => tracing::error!(%error, "the thread for auth_query got no runtime"),
    };
    std::thread::Builder::new().name("auth-query".into()).spawn(work).map(drop)
}

async fn run(mut questions: UnboundedReceiver<Question>, cache: Arc<Mutex<Cache>>, means: Arc<Means>) {
    let desk = Rc::new(Desk { cache, means, waiting: RefCell::default(), sources: RefCell::default() });
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            question = questions.recv() => match question {
                Some(question) => take(&desk, question),
                None => break,
            },
            _ = sweep.tick() => desk.sweep(Instant::now()),
        }
    }
}

struct Desk {
    cache: Arc<Mutex<Cache>>,
    means: Arc<Means>,
    /// Who waits for which answer.
    waiting: RefCell<HashMap<(Arc<Source>, String), Waiting>>,
    sources: RefCell<HashMap<Arc<Source>, Rc<Line>>>,
}

/// Everybody who waits for one answer.
type Waiting = Vec<oneshot::Sender<Answer>>;

/// The connections to one source.
struct Line {
    permits: Semaphore,
    idle: RefCell<Vec<(Server, Instant)>>,
    /// Why it cannot be reached, and until when that is believed.
    trouble: RefCell<Option<(Instant, LookupError)>>,
}

/// Takes a question on, together with equal ones that are under way.
fn take(desk: &Rc<Desk>, question: Question) {
    let Question { source, user, answer } = question;
    // It may have been answered since it was asked.
    if let Some(known) = lock(&desk.cache).get(&source, &user, Instant::now()) {
        let _ = answer.send(Ok(known));
        return;
    }
    let key = (source, user);
    if let Some(waiting) = desk.waiting.borrow_mut().get_mut(&key) {
        waiting.push(answer);
        return;
    }
    desk.waiting.borrow_mut().insert(key.clone(), vec![answer]);
    let desk = desk.clone();
    tokio::task::spawn_local(async move {
        let (source, user) = &key;
        let limit = source.timeout;
        let late = || LookupError::Failed("auth_query took longer than auth_query_timeout".into());
        let found = timeout(limit.unwrap_or(Duration::MAX), desk.look_up(source, user))
            .await
            .unwrap_or_else(|_| Err(late()));
        match &found {
            Ok(found) => lock(&desk.cache).put(source, user, found.as_ref(), Instant::now()),
            Err(error) => {
                let (database, auth_user) = &source.name;
                tracing::warn!(database, auth_user, %error, "a user cannot be looked up by auth_query");
            }
        }
        let waiting = desk.waiting.borrow_mut().remove(&key);
        for answer in waiting.into_iter().flatten() {
            let _ = answer.send(found.clone());
        }
    });
}

impl Desk {
    async fn look_up(&self, source: &Arc<Source>, user: &str) -> Answer {
        let line = self.line(source)?;
        let _permit = line.permits.acquire().await.map_err(|error| LookupError::Failed(error.to_string()))?;
        if let Some((until, error)) = &*line.trouble.borrow()
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        loop {
            let idle = line.idle.borrow_mut().pop();
            let is_old = idle.is_some();
            let mut server = match idle {
                Some((server, _)) => server,
                None => self.connect(source, &line).await?,
            };
            match server.ask(&source.query, user).await {
                Ok(rows) => {
                    line.idle.borrow_mut().push((server, Instant::now()));
                    return found(rows, user).map_err(LookupError::Failed);
                }
                Err(error @ ServerError::Refused(_)) => {
                    line.idle.borrow_mut().push((server, Instant::now()));
                    return Err(LookupError::Failed(error.to_string()));
                }
                // The server may have ended the connection while it was idle.
                Err(_) if is_old => {}
                Err(error) => return Err(LookupError::Failed(error.to_string())),
            }
        }
    }

    fn line(&self, source: &Arc<Source>) -> Result<Rc<Line>, LookupError> {
        let mut sources = self.sources.borrow_mut();
        if let Some(line) = sources.get(source) {
            return Ok(line.clone());
        }
        if sources.len() >= SOURCES {
            let text = "auth_query runs in too many databases at once; set auth_dbname to run it in one";
            return Err(LookupError::Failed(text.into()));
        }
        let line = Rc::new(Line {
            permits: Semaphore::new(CONNECTIONS),
            idle: RefCell::default(),
            trouble: RefCell::default(),
        });
        sources.insert(source.clone(), line.clone());
        Ok(line)
    }

    async fn connect(&self, source: &Source, line: &Line) -> Result<Server, LookupError> {
        let error = match login::login(&source.target, &self.means).await {
            Ok(server) => {
                line.trouble.take();
                return Ok(server);
            }
            Err(error) => error,
        };
        let is_absent =
            matches!(&error, ServerError::Refused(body) if ErrorFields::new(body).code() == b"3D000");
        let error = if is_absent { LookupError::NoDatabase } else { LookupError::Failed(error.to_string()) };
        *line.trouble.borrow_mut() = Some((Instant::now() + PAUSE, error.clone()));
        Err(error)
    }

    /// Closes connections that nobody needed for a while, and forgets sources without any.
    fn sweep(&self, now: Instant) {
        self.sources.borrow_mut().retain(|_, line| {
            line.idle.borrow_mut().retain_mut(|(server, since)| {
                let is_new = now.duration_since(*since) < IDLE;
                if !is_new {
                    server.farewell();
                }
                is_new
            });
            let is_busy = Rc::strong_count(line) > 1;
            is_busy || !line.idle.borrow().is_empty()
        });
    }
}

/// Reads what the query gave: name, secret and perhaps roles.
fn found(rows: Vec<Row>, user: &str) -> Result<Option<Arc<Found>>, String> {
    let mut rows = rows.into_iter();
    let (Some(row), rest) = (rows.next(), rows.next()) else { return Ok(None) };
    if rest.is_some() {
        return Err("auth_query gave more than one row; let it give the one of the user named $1".into());
    }
    let mut columns = row.into_iter();
    let (Some(name), Some(secret)) = (columns.next(), columns.next()) else {
        return Err("auth_query gave one column; let it give the user's name and its secret".into());
    };
    if name.is_none_or(|name| *name != user) {
        // Not the one who was asked for: PostgreSQL cuts names that are too long.
        return Ok(None);
    }
    let secret = secret.filter(|secret| !secret.is_empty()).and_then(|text| {
        Secret::parse(&text)
            .inspect_err(|error| tracing::warn!(user, %error, "auth_query gave a secret that is none"))
            .ok()
    });
    let groups = match columns.next().flatten() {
        Some(text) => {
            let groups = array(&text).ok_or("the third column of auth_query is no text[] of roles")?;
            Some(groups)
        }
        None => None,
    };
    Ok(Some(Arc::new(Found { secret, groups })))
}

/// The elements of a one-dimensional array in PostgreSQL's text form.
fn array(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut characters = inner.chars().peekable();
    while characters.peek().is_some() {
        let mut item = String::new();
        if characters.next_if_eq(&'"').is_some() {
            loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => item.push(characters.next()?),
                    character => item.push(character),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|character| *character != ',') {
                item.push(character);
            }
        }
        items.push(item);
        match characters.next() {
            Some(',') | None => {}
            Some(_) => return None,
        }
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Row {
        values.iter().map(|value| value.map(|value| value.to_owned().into())).collect()
    }

    #[test]
    fn a_row_is_a_user_and_no_row_is_nobody() {
        let user = found(vec![row(&[Some("a"), Some("secret"), Some("{x,y}")])], "a").unwrap().unwrap();
        assert_eq!(user.secret, Some(Secret::parse("secret").unwrap()));
        assert_eq!(user.groups, Some(vec!["x".into(), "y".into()]));
        let user = found(vec![row(&[Some("a"), None])], "a").unwrap().unwrap();
        assert_eq!(*user, Found { secret: None, groups: None }, "no secret: an expired one, perhaps");
        assert_eq!(found(vec![], "a"), Ok(None));
        assert_eq!(found(vec![row(&[Some("b"), Some("x")])], "a"), Ok(None), "somebody else");
        assert_eq!(found(vec![row(&[None, Some("x")])], "a"), Ok(None));
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let twice = vec![row(&[Some("a"), None]), row(&[Some("a"), None])];
        assert!(found(twice, "a").unwrap_err().contains("more than one row"));
        assert!(found(vec![row(&[Some("a")])], "a").unwrap_err().contains("one column"));
        assert!(found(vec![row(&[])], "a").is_err());
        assert!(found(vec![row(&[Some("a"), None, Some("x")])], "a").unwrap_err().contains("third column"));
        let cut = found(vec![row(&[Some("a"), Some("SCRAM-SHA-256$cut")])], "a").unwrap().unwrap();
        assert_eq!(cut.secret, None);
    }

    #[test]
    fn arrays_are_read_as_postgresql_writes_them() {
        assert_eq!(array("{}"), Some(vec![]));
        assert_eq!(array("{a,\"b c\",\"q\\\"\\\\,{}\"}").unwrap(), ["a", "b c", "q\"\\,{}"]);
        for text in ["", "{", "a", "{\"a}", "{\"a\"b}"] {
            assert_eq!(array(text), None, "{text}");
        }
    }
}
