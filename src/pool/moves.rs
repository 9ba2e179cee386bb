//! When a server moves from one worker to another.
//!
//! Moving one costs about as much as two transactions, and under load it would soon be moved back. Where processors are
//! short a worker is late for all its clients, and a server more is no help: so clients who can count on a server of their
//! own worker wait for a moment, and only few servers move for them.

use crate::moment::Moment;
use std::cell::Cell;
use std::time::Duration;

/// How long a client waits for a server of its own worker before it may have an idle one of another.
const PATIENCE: Duration = Duration::from_millis(1);
/// Pause between two servers that a worker takes from others, or gives away, for clients who have not waited for [`LONG`].
const PAUSE: Duration = Duration::from_millis(10);
/// How long a client waits before it may have one in any case.
const LONG: Duration = Duration::from_millis(20);

/// The moves from and to one worker's shard of a pool, for clients who could have waited for a server of their own worker.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    last: Cell<Option<Moment>>,
}

impl Moves {
    /// Whether an idle server may move for somebody who has waited for `waited`.
    pub(crate) fn is_due(&self, waited: Duration, now: Moment) -> bool {
        waited >= LONG || waited >= PATIENCE && self.pause(now).is_zero()
    }

    /// What is left of the pause after the last move.
    pub(crate) fn pause(&self, now: Moment) -> Duration {
        let last = self.last.get();
        last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(now.saturating_duration_since(last)))
    }

    /// After which time it is worth to look again whether a move is due.
    pub(crate) fn patience(&self, now: Moment) -> Duration {
        self.pause(now).max(PATIENCE)
    }

    /// Notes a move.
    pub(crate) fn note(&self, now: Moment) {
        self.last.set(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn few_servers_move_for_those_who_have_not_waited_for_long() {
        let (moves, start) = (Moves::default(), Moment::now());
        assert!(!moves.is_due(ms(0), start));
        assert!(moves.is_due(ms(1), start));
        assert_eq!(moves.patience(start), ms(1));
        moves.note(start);
        assert!(!moves.is_due(ms(19), start + ms(9)));
        assert_eq!(moves.patience(start + ms(4)), ms(6));
        assert!(moves.is_due(ms(20), start), "whoever has waited for long gets one in any case");
        assert!(moves.is_due(ms(1), start + ms(10)));
        assert_eq!(moves.patience(start + ms(10)), ms(1));
    }
}
