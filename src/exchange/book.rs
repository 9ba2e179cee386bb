//! Who listens to what in one database, and what the connection has to be told. Pure.

use super::{Notification, Subscriber};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// Channels in one Query.
const BATCH: usize = 500;

/// Subscribers and their channels.
#[derive(Debug, Default)]
pub(super) struct Book {
    subscribers: HashMap<Subscriber, Entry>,
    channels: HashMap<Arc<str>, Channel>,
    /// Channels that were not asked for yet, or that nobody wants any more.
    open: HashSet<Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    worker: usize,
    channels: HashSet<Arc<str>>,
    /// Its last change.
    request: u32,
    /// It was not told yet that all its channels are listened to.
    waits: bool,
}

#[derive(Debug, Default)]
struct Channel {
    /// Who wants it, with the worker.
    subscribers: BTreeMap<Subscriber, usize>,
    /// The same by worker, until it changes.
    routes: Option<Vec<Route>>,
    standing: Standing,
}

/// A worker and those of its clients that want a channel.
type Route = (usize, Arc<[Subscriber]>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody has told the server.
    #[default]
    New,
    /// It was told and has not answered.
    Asked,
    /// It listens.
    Heard,
}

impl Book {
    /// How many channels and subscribers there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.channels.len(), self.subscribers.len())
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// All who listen, by worker.
    pub(super) fn everybody(&self) -> Vec<Route> {
        by_worker(self.subscribers.iter().map(|(subscriber, entry)| (*subscriber, entry.worker)))
    }

    /// Those who wait to be told that all their channels are listened to.
    pub(super) fn waiting(&self) -> Vec<(Subscriber, usize)> {
        let waits = self.subscribers.iter().filter(|(_, entry)| entry.waits);
        waits.map(|(subscriber, entry)| (*subscriber, entry.worker)).collect()
    }

    /// The worker of a subscriber.
    pub(super) fn worker(&self, subscriber: Subscriber) -> Option<usize> {
        self.subscribers.get(&subscriber).map(|entry| entry.worker)
    }

    /// The channels of a subscriber change.
    pub(super) fn change(
        &mut self,
        subscriber: Subscriber,
        worker: usize,
        request: u32,
        add: &[Arc<str>],
        remove: &[Arc<str>],
    ) {
        let entry = self.subscribers.entry(subscriber).or_insert_with(|| Entry {
            worker,
            channels: HashSet::new(),
            request,
            waits: true,
        });
        (entry.request, entry.waits) = (request, true);
        for name in remove {
            if entry.channels.remove(name) {
                Self::drop_one(&mut self.channels, &mut self.open, subscriber, name);
            }
        }
        for name in add {
            if entry.channels.insert(name.clone()) {
                let channel = self.channels.entry(name.clone()).or_default();
                channel.subscribers.insert(subscriber, worker);
                channel.routes = None;
                if channel.standing == Standing::New {
                    self.open.insert(name.clone());
                }
            }
        }
    }

    /// A subscriber has left.
    pub(super) fn leave(&mut self, subscriber: Subscriber) {
        let Some(entry) = self.subscribers.remove(&subscriber) else { return };
        for name in &entry.channels {
            Self::drop_one(&mut self.channels, &mut self.open, subscriber, name);
        }
    }

    fn drop_one(
        channels: &mut HashMap<Arc<str>, Channel>,
        open: &mut HashSet<Arc<str>>,
        subscriber: Subscriber,
        name: &Arc<str>,
    ) {
        let Some(channel) = channels.get_mut(name) else { return };
        channel.subscribers.remove(&subscriber);
        channel.routes = None;
        if !channel.subscribers.is_empty() {
            return;
        }
        match channel.standing {
            Standing::New => {
                channels.remove(name);
                open.remove(name);
            }
            // What was asked is given up when it is answered.
            Standing::Asked => {}
            Standing::Heard => drop(open.insert(name.clone())),
        }
    }

    /// What the server is to be told now, as one Query. Not while it has not answered the last one.
    pub(super) fn next_query(&mut self) -> Option<String> {
        let names: Vec<Arc<str>> = self.open.iter().take(BATCH).cloned().collect();
        let mut sql = String::new();
        for name in names {
            self.open.remove(&name);
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            match (channel.standing, channel.subscribers.is_empty()) {
                (Standing::New, false) => {
                    channel.standing = Standing::Asked;
                    let _ = write!(sql, "LISTEN {};", quote(&name));
                }
                (Standing::Heard, true) => {
                    self.channels.remove(&name);
                    let _ = write!(sql, "UNLISTEN {};", quote(&name));
                }
                _ => {}
            }
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// All channels that somebody wants, as one Query for a new connection, which has answered it.
    pub(super) fn whole_query(&mut self) -> String {
        let mut sql = String::new();
        for name in self.channels.keys() {
            let _ = write!(sql, "LISTEN {};", quote(name));
        }
        sql
    }

    /// The server has answered: those who are told now that all their channels are listened to, with their request.
    pub(super) fn answered(&mut self) -> Vec<(Subscriber, usize, u32)> {
        for (name, channel) in &mut self.channels {
            if channel.standing == Standing::Asked {
                channel.standing = Standing::Heard;
                if channel.subscribers.is_empty() {
                    self.open.insert(name.clone());
                }
            }
        }
        self.ready()
    }

    /// Those whose channels are all listened to and who do not know it.
    pub(super) fn ready(&mut self) -> Vec<(Subscriber, usize, u32)> {
        let channels = &self.channels;
        let is_heard =
            |name: &Arc<str>| channels.get(name).is_some_and(|channel| channel.standing == Standing::Heard);
        let mut ready = Vec::new();
        for (subscriber, entry) in self.subscribers.iter_mut().filter(|(_, entry)| entry.waits) {
            if entry.channels.iter().all(is_heard) {
                entry.waits = false;
                ready.push((*subscriber, entry.worker, entry.request));
            }
        }
        ready
    }

    /// The connection is gone: everything has to be asked for again, and everybody to be told.
    pub(super) fn forget_standing(&mut self) {
        self.channels.retain(|_, channel| !channel.subscribers.is_empty());
        self.channels.values_mut().for_each(|channel| channel.standing = Standing::New);
        self.open = self.channels.keys().cloned().collect();
        self.tell_again();
    }

    /// Everybody is told again.
    pub(super) fn tell_again(&mut self) {
        self.subscribers.values_mut().for_each(|entry| entry.waits = true);
    }

    /// Who is to have a notification.
    pub(super) fn routes(&mut self, notification: &Notification) -> &[Route] {
        let name = std::str::from_utf8(&notification.channel).ok();
        let Some(channel) = name.and_then(|name| self.channels.get_mut(name)) else { return &[] };
        let subscribers = &channel.subscribers;
        channel.routes.get_or_insert_with(|| {
            by_worker(subscribers.iter().map(|(subscriber, worker)| (*subscriber, *worker)))
        })
    }
}

fn by_worker(all: impl Iterator<Item = (Subscriber, usize)>) -> Vec<Route> {
    let mut by_worker: BTreeMap<usize, Vec<Subscriber>> = BTreeMap::new();
    for (subscriber, worker) in all {
        by_worker.entry(worker).or_default().push(subscriber);
    }
    by_worker.into_iter().map(|(worker, subscribers)| (worker, subscribers.into())).collect()
}

/// A channel's name as SQL has it.
#[must_use]
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn notification(channel: &str) -> Notification {
        Notification { pid: 1, channel: channel.as_bytes().into(), payload: Box::default() }
    }

    fn sorted(sql: Option<String>) -> Vec<String> {
        let mut parts: Vec<String> =
            sql.unwrap_or_default().split_terminator(';').map(ToOwned::to_owned).collect();
        parts.sort();
        parts
    }

    #[test]
    fn a_channel_is_asked_for_once_and_given_up_with_its_last_subscriber() {
        let mut book = Book::default();
        book.change(1, 0, 1, &names(&["a", "b\"c"]), &[]);
        book.change(2, 1, 1, &names(&["a"]), &[]);
        assert_eq!(sorted(book.next_query()), ["LISTEN \"a\"", "LISTEN \"b\"\"c\""]);
        assert_eq!(book.next_query(), None);
        assert_eq!(book.ready(), []);
        let mut told = book.answered();
        told.sort_unstable();
        assert_eq!(told, [(1, 0, 1), (2, 1, 1)]);
        book.change(3, 0, 7, &names(&["a"]), &[]);
        assert_eq!((book.next_query(), book.ready()), (None, vec![(3, 0, 7)]), "it is listened to already");
        let routes: Vec<_> = book.routes(&notification("a")).iter().map(|(w, s)| (*w, s.to_vec())).collect();
        assert_eq!(routes, [(0, vec![1, 3]), (1, vec![2])]);
        book.leave(1);
        book.change(3, 0, 8, &[], &names(&["a"]));
        assert_eq!(sorted(book.next_query()), ["UNLISTEN \"b\"\"c\""]);
        book.leave(2);
        assert_eq!(sorted(book.next_query()), ["UNLISTEN \"a\""]);
        assert!(book.routes(&notification("a")).is_empty());
        book.leave(3);
        assert!(book.is_empty());
        assert_eq!(book.counts(), (0, 0));
    }

    #[test]
    fn who_leaves_while_the_server_is_asked_is_forgotten_when_it_answers() {
        let mut book = Book::default();
        book.change(1, 0, 1, &names(&["a"]), &[]);
        assert!(book.next_query().is_some());
        book.leave(1);
        assert_eq!(book.next_query(), None);
        assert_eq!(book.answered(), []);
        assert_eq!(sorted(book.next_query()), ["UNLISTEN \"a\""]);
        // And whoever comes meanwhile has it asked for anew.
        book.change(2, 0, 1, &names(&["a"]), &[]);
        assert_eq!(book.answered(), []);
        assert_eq!(sorted(book.next_query()), ["LISTEN \"a\""]);
        assert_eq!(book.answered(), [(2, 0, 1)]);
    }

    #[test]
    fn a_new_connection_is_asked_for_everything() {
        let mut book = Book::default();
        book.change(1, 0, 1, &names(&["a"]), &[]);
        assert!(book.next_query().is_some());
        assert_eq!(book.answered(), [(1, 0, 1)]);
        book.forget_standing();
        assert_eq!(book.waiting(), [(1, 0)]);
        assert_eq!(sorted(book.next_query()), ["LISTEN \"a\""]);
        assert_eq!(book.answered(), [(1, 0, 1)]);
    }
}
