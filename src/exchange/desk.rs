//! The thread of the exchange: who listens to which database, and which worker's post goes where.

use super::listener::{self, Listener};
use super::{Ask, Card, Place, Post, Resolve};
use crate::server::open::Means;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What all listeners share.
pub(super) struct Desk {
    pub(super) means: Arc<Means>,
    pub(super) resolve: Resolve,
    cards: Arc<Mutex<Vec<Arc<Card>>>>,
    /// Where the post of each worker goes.
    workers: RefCell<HashMap<usize, UnboundedSender<Post>>>,
    /// The listeners at work.
    listeners: RefCell<HashMap<Arc<Place>, UnboundedSender<Ask>>>,
}

/// Starts the thread; it ends when nobody can ask any more.
pub(super) fn start(
    asks: UnboundedReceiver<Ask>,
    means: Arc<Means>,
    resolve: Resolve,
    cards: Arc<Mutex<Vec<Arc<Card>>>>,
) -> std::io::Result<()> {
    let runtime = || {
        Builder::new_current_thread()
            .enable_all()
            .thread_name("listen-blocking")
            .max_blocking_threads(2)
            .build_local(LocalOptions::default())
    };
    let work = move || match runtime() {
        Ok(runtime) => runtime.block_on(run(asks, means, resolve, cards)),
        Err(error) => tracing::error!(%error, "the thread that listens got no runtime"),
    };
    std::thread::Builder::new().name("listen".into()).spawn(work).map(drop)
}

async fn run(
    mut asks: UnboundedReceiver<Ask>,
    means: Arc<Means>,
    resolve: Resolve,
    cards: Arc<Mutex<Vec<Arc<Card>>>>,
) {
    let desk =
        Rc::new(Desk { means, resolve, cards, workers: RefCell::default(), listeners: RefCell::default() });
    while let Some(ask) = asks.recv().await {
        let place = match &ask {
            Ask::Worker(..) => None,
            Ask::Change(place, _) | Ask::Leave(place, _) => Some(place.clone()),
        };
        match (ask, place) {
            (Ask::Worker(worker, post), _) => drop(desk.workers.borrow_mut().insert(worker, post)),
            (ask @ Ask::Change(..), Some(place)) => desk.pass(place, ask),
            // Who is not known anywhere need not be forgotten.
            (ask, Some(place)) => {
                if let Some(listener) = desk.listeners.borrow().get(&place) {
                    let _ = listener.send(ask);
                }
            }
            _ => {}
        }
    }
}

impl Desk {
    fn pass(self: &Rc<Desk>, place: Arc<Place>, ask: Ask) {
        let mut listeners = self.listeners.borrow_mut();
        let listener = listeners.entry(place.clone()).or_insert_with(|| {
            let (sender, asks) = unbounded_channel();
            let card = self.card(&place);
            tokio::task::spawn_local(listener::run(Listener::new(self.clone(), place, card), asks));
            sender
        });
        let _ = listener.send(ask);
    }

    /// Puts something into the post of a worker.
    pub(super) fn post(&self, worker: usize, post: Post) {
        if let Some(sender) = self.workers.borrow().get(&worker) {
            let _ = sender.send(post);
        }
    }

    /// A listener ends.
    pub(super) fn close(&self, place: &Place) {
        self.listeners.borrow_mut().remove(place);
    }

    fn card(&self, place: &Place) -> Arc<Card> {
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = cards.iter().find(|card| card.place == *place) {
            return card.clone();
        }
        let card = Arc::new(Card::new(place));
        cards.push(card.clone());
        card
    }
}
