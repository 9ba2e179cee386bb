//! Logins take turns with everybody else on their worker.
//!
//! A TLS handshake takes a worker longer than hundreds of turns of the relay, and clients that log in at the same moment are
//! woken at the same moment. So logins get a share of each turn of the worker; what is beyond it waits for the next one, in the
//! order in which it came. Invariant: however many log in, whoever is served waits for that share and one step of a login.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What logins may take of one turn.
const SHARE: Duration = Duration::from_micros(250);
/// When no login has done anything for so long it is another turn, whatever the worker has done meanwhile.
const TURN: Duration = Duration::from_millis(1);
/// Most logins that are woken for one turn.
const MOST: u32 = 64;

/// The logins of one worker.
#[derive(Debug)]
pub struct Turns {
    /// When the last step ended.
    ended: Cell<Instant>,
    spent: Cell<Duration>,
    /// What a step takes, on average over the last ones.
    step: Cell<Duration>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            ended: Cell::new(Instant::now()),
            spent: Cell::default(),
            step: Cell::new(SHARE),
            waiting: RefCell::default(),
        }
    }
}

impl Turns {
    /// Runs a login, or a part of one, whose every step takes its turn.
    pub async fn take<F: Future>(self: &Rc<Turns>, mut login: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let began = Instant::now();
            if !self.has_room(began) {
                self.wait(cx);
                return Poll::Pending;
            }
            let outcome = login.as_mut().poll(cx);
            let ended = Instant::now();
            let step = ended.saturating_duration_since(began);
            self.spent.set(self.spent.get() + step);
            self.step.set((self.step.get() * 7 + step) / 8);
            self.ended.set(ended);
            outcome
        })
        .await
    }

    fn has_room(&self, now: Instant) -> bool {
        if now.saturating_duration_since(self.ended.get()) > TURN {
            self.spent.set(Duration::ZERO);
        }
        self.spent.get() < SHARE
    }

    fn wait(self: &Rc<Turns>, cx: &Context<'_>) {
        let is_first = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.push_back(cx.waker().clone());
            waiting.len() == 1
        };
        if is_first {
            let turns = self.clone();
            tokio::task::spawn_local(async move { turns.wake().await });
        }
    }

    /// Begins turn after turn until nobody waits.
    async fn wake(&self) {
        loop {
            // Comes back when everybody else who is ready, and every socket, had a turn.
            tokio::task::yield_now().await;
            self.spent.set(Duration::ZERO);
            // As many as will find room.
            let fit = SHARE.as_nanos() / self.step.get().as_nanos().max(1);
            let fit = fit.clamp(1, MOST.into()) as usize;
            let next: Vec<Waker> = {
                let mut waiting = self.waiting.borrow_mut();
                let count = waiting.len().min(fit);
                waiting.drain(..count).collect()
            };
            let is_last = self.waiting.borrow().is_empty();
            next.into_iter().for_each(Waker::wake);
            if is_last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    fn run(future: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, future);
    }

    /// Keeps the worker as long as a step of a handshake does.
    fn work() {
        let began = Instant::now();
        while began.elapsed() < SHARE {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn others_have_their_turn_between_the_steps_of_logins() {
        run(async {
            let (turns, done) = (Rc::new(Turns::default()), Rc::new(Cell::new(0)));
            for _ in 0..20 {
                let (turns, done) = (turns.clone(), done.clone());
                spawn_local(async move {
                    let login = async {
                        work();
                        done.set(done.get() + 1);
                        yield_now().await;
                        work();
                        done.set(done.get() + 1);
                    };
                    turns.take(pin!(login)).await;
                });
            }
            let mut of_others = 0;
            while done.get() < 40 {
                yield_now().await;
                of_others += 1;
            }
            // Without turns it would be two or three; a machine that stalls may end a few turns early.
            assert!(of_others > 10, "{of_others} turns of others");
            assert!(turns.waiting.borrow().is_empty());
        });
    }

    #[test]
    fn a_login_that_was_given_up_while_it_waited_holds_nobody_up() {
        run(async {
            let turns = Rc::new(Turns::default());
            turns.take(pin!(async { work() })).await;
            {
                let nothing = pin!(async {});
                let mut given_up = pin!(turns.take(nothing));
                let is_waiting = poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx).is_pending())).await;
                assert!(is_waiting);
            }
            turns.take(pin!(async {})).await;
        });
    }
}
