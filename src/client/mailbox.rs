//! What the shared listener brings for the clients of one worker.
//!
//! A [`Mailbox`] keeps the notifications of one client until its relay takes them, within a bound: a client that does not
//! take them is ended, so it costs neither others nor memory. A channel is *live* from the marker on that the client's
//! server has put between the notifications: up to there the server itself brings them.

use crate::client::cell::{ClientCell, Verdict};
use crate::error::{Error, Kind};
use crate::exchange::{Change, Exchange, Notification, Place, Post, Subscriber};
use crate::pool::Pool;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The mailboxes of one worker.
#[derive(Debug, Default)]
pub struct Mailroom {
    boxes: RefCell<HashMap<Subscriber, Rc<Mailbox>>>,
}

/// What waits for one client.
#[derive(Debug)]
pub struct Mailbox {
    subscriber: Subscriber,
    cell: Rc<ClientCell>,
    /// Bytes that may wait.
    limit: Cell<usize>,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Arc<Notification>>,
    bytes: usize,
    /// Channels that the listener was asked for.
    wanted: BTreeSet<Arc<str>>,
    /// Those of which notifications are kept.
    live: BTreeSet<Arc<str>>,
    /// The number of the last change.
    request: u32,
    /// The channel for markers, if the server listens to all that is wanted.
    marker: Option<Arc<str>>,
    /// The marker that makes these channels live.
    expected: Option<(u64, Vec<Arc<str>>)>,
    standing: Standing,
}

/// How it stands with the listener.
#[derive(Debug, Default, Clone)]
enum Standing {
    #[default]
    Fine,
    /// It cannot be had.
    Unavailable,
    /// It was lost.
    Gap(Gap),
}

/// Why notifications were lost.
#[derive(Debug, Clone)]
pub(super) struct Gap {
    pub(super) reason: Arc<str>,
    /// Nobody will listen any more.
    pub(super) is_final: bool,
}

impl Mailroom {
    /// Sorts what has come.
    pub fn sort(&self, post: Post) {
        let boxes = self.boxes.borrow();
        match post {
            Post::Notification(notification, subscribers) => {
                let there = subscribers.iter().filter_map(|subscriber| boxes.get(subscriber));
                there.for_each(|mailbox| mailbox.put(&notification));
            }
            Post::Listening { subscriber, request, marker } => {
                if let Some(mailbox) = boxes.get(&subscriber) {
                    mailbox.confirm(request, marker);
                }
            }
            Post::Marker { subscriber, token } => {
                if let Some(mailbox) = boxes.get(&subscriber) {
                    mailbox.pass_marker(token);
                }
            }
            Post::Unavailable(subscriber) => {
                if let Some(mailbox) = boxes.get(&subscriber) {
                    mailbox.inner.borrow_mut().standing = Standing::Unavailable;
                    mailbox.cell.summon();
                }
            }
            Post::Gap { subscribers, reason, is_final } => {
                for mailbox in subscribers.iter().filter_map(|subscriber| boxes.get(subscriber)) {
                    let mut inner = mailbox.inner.borrow_mut();
                    inner.marker = None;
                    inner.standing = Standing::Gap(Gap { reason: reason.clone(), is_final });
                    mailbox.cell.summon();
                }
            }
        }
    }
}

/// A client's hold on its mailbox; what the listener was asked for is given up when it is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    mailbox: Rc<Mailbox>,
    place: Arc<Place>,
    worker: usize,
    room: Rc<Mailroom>,
    exchange: Arc<Exchange>,
}

impl Subscription {
    pub(super) fn new(
        pool: &Pool,
        worker: usize,
        room: &Rc<Mailroom>,
        exchange: &Arc<Exchange>,
        cell: &Rc<ClientCell>,
    ) -> Subscription {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mailbox = Rc::new(Mailbox {
            subscriber: NEXT.fetch_add(1, Ordering::Relaxed),
            cell: cell.clone(),
            limit: Cell::new(usize::MAX),
            inner: RefCell::default(),
        });
        room.boxes.borrow_mut().insert(mailbox.subscriber, mailbox.clone());
        let place = Arc::new(Place::of(&pool.target));
        Subscription { mailbox, place, worker, room: room.clone(), exchange: exchange.clone() }
    }

    /// Has the listener hear these channels and no others.
    pub(super) fn want(&self, channels: &BTreeSet<Arc<str>>, pool: &Arc<Pool>, limit: usize) {
        self.mailbox.limit.set(limit);
        let mut inner = self.mailbox.inner.borrow_mut();
        let add: Vec<Arc<str>> = channels.difference(&inner.wanted).cloned().collect();
        let remove: Vec<Arc<str>> = inner.wanted.difference(channels).cloned().collect();
        if add.is_empty() && remove.is_empty() {
            return;
        }
        inner.wanted.clone_from(channels);
        if !remove.is_empty() {
            inner.drop_channels(&remove);
        }
        inner.request = inner.request.wrapping_add(1);
        inner.marker = None;
        let change = Change {
            subscriber: self.mailbox.subscriber,
            worker: self.worker,
            pool: pool.clone(),
            request: inner.request,
            add,
            remove,
        };
        self.exchange.change(&self.place, change);
    }

    /// The channel for markers, if the listener hears all that is wanted.
    pub(super) fn marker(&self) -> Option<Arc<str>> {
        self.mailbox.inner.borrow().marker.clone()
    }

    /// Makes these channels live at the marker that says what is returned.
    pub(super) fn expect(&self, channels: Vec<Arc<str>>) -> String {
        let token = getrandom::u64().unwrap_or(u64::from(self.mailbox.inner.borrow().request));
        self.mailbox.inner.borrow_mut().expected = Some((token, channels));
        format!("{} {token}", self.mailbox.subscriber)
    }

    /// Whether a marker has not come yet.
    pub(super) fn is_expecting(&self) -> bool {
        self.mailbox.inner.borrow().expected.is_some()
    }

    /// Nothing becomes live by a marker that was expected.
    pub(super) fn expect_nothing(&self) {
        self.mailbox.inner.borrow_mut().expected = None;
    }

    /// Makes live at once what waits for its marker: it will not come.
    pub(super) fn expect_no_more(&self) {
        let mut inner = self.mailbox.inner.borrow_mut();
        if let Some((_, channels)) = inner.expected.take() {
            inner.live.extend(channels);
        }
    }

    /// Whether the listener cannot be had at the moment.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self.mailbox.inner.borrow().standing, Standing::Unavailable)
    }

    /// Whether notifications were lost, for the moment.
    pub(super) fn gap(&self) -> Option<Gap> {
        match &self.mailbox.inner.borrow().standing {
            Standing::Gap(gap) => Some(gap.clone()),
            _ => None,
        }
    }

    /// The gap was dealt with.
    pub(super) fn forgive(&self) {
        self.mailbox.inner.borrow_mut().standing = Standing::Fine;
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.mailbox.inner.borrow().waiting.is_empty()
    }

    /// The next notification, which stays.
    pub(super) fn peek(&self) -> Option<Arc<Notification>> {
        self.mailbox.inner.borrow().waiting.front().cloned()
    }

    /// The next notification.
    pub(super) fn take(&self) -> Option<Arc<Notification>> {
        let mut inner = self.mailbox.inner.borrow_mut();
        let next = inner.waiting.pop_front()?;
        inner.bytes -= next.size();
        if inner.waiting.is_empty() {
            inner.waiting = VecDeque::new();
        }
        Some(next)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.room.boxes.borrow_mut().remove(&self.mailbox.subscriber);
        self.exchange.leave(&self.place, self.mailbox.subscriber);
    }
}

impl Mailbox {
    fn put(&self, notification: &Arc<Notification>) {
        let mut inner = self.inner.borrow_mut();
        let is_live = std::str::from_utf8(&notification.channel).is_ok_and(|name| inner.live.contains(name));
        if !is_live {
            return;
        }
        inner.bytes += notification.size();
        inner.waiting.push_back(notification.clone());
        if inner.bytes <= self.limit.get() {
            drop(inner);
            self.cell.summon();
            return;
        }
        let count = inner.waiting.len();
        (inner.waiting, inner.bytes) = (VecDeque::new(), 0);
        inner.live.clear();
        drop(inner);
        tracing::warn!(
            peer = %self.cell.peer(),
            database = &*self.cell.database,
            user = &*self.cell.user,
            notifications = count,
            "client ended: it does not take its notifications (notification_buffer)"
        );
        self.cell.tell(Verdict::End(
            Error::new(
                Kind::TooManyNotifications,
                "too many notifications wait for this client (notification_buffer)",
            )
            .hint("Read from the connection while it listens, keep its transactions short, or raise notification_buffer."),
        ));
    }

    fn confirm(&self, request: u32, marker: Arc<str>) {
        let mut inner = self.inner.borrow_mut();
        if matches!(inner.standing, Standing::Unavailable) {
            inner.standing = Standing::Fine;
        }
        if request == inner.request {
            inner.marker = Some(marker);
            drop(inner);
            self.cell.summon();
        }
    }

    fn pass_marker(&self, token: u64) {
        let mut inner = self.inner.borrow_mut();
        if let Some((_, channels)) = inner.expected.take_if(|(expected, _)| *expected == token) {
            inner.live.extend(channels);
            drop(inner);
            self.cell.summon();
        }
    }
}

impl Inner {
    /// Forgets what has come, or may come, on channels.
    fn drop_channels(&mut self, channels: &[Arc<str>]) {
        let is_one = |name: &[u8]| channels.iter().any(|channel| channel.as_bytes() == name);
        self.live.retain(|name| !is_one(name.as_bytes()));
        if let Some((_, expected)) = &mut self.expected {
            expected.retain(|name| !is_one(name.as_bytes()));
        }
        self.waiting.retain(|notification| !is_one(&notification.channel));
        self.bytes = self.waiting.iter().map(|notification| notification.size()).sum();
    }
}
