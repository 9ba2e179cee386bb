//! COPY FROM STDIN in the queue: which Syncs count, and where the data ends.
//!
//! While a server reads COPY data it ignores a Sync. If the data makes the COPY fail, what was sent into it before the
//! failure is discarded, and a Sync behind that counts like any other.

use super::{Owed, OwedQueue};

/// Where a COPY FROM STDIN stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum CopyIn {
    #[default]
    None,
    /// The server reads data; a Sync sent now is ignored.
    Open,
    /// The client has sent the end of its data; the server has not answered it yet.
    Closing,
}

impl OwedQueue {
    pub(super) fn copy_in_begins(&mut self) {
        // The server reads what follows as data: it ignores a Sync in front of the first of it.
        let mut changed = false;
        while let Some(Owed::Sync) = self.queue.get(1) {
            self.queue.remove(1);
            changed = true;
        }
        let end = self.copy_stretch();
        for owed in self.queue.range_mut(1..end).filter(|owed| matches!(owed, Owed::Sync)) {
            *owed = Owed::CopySync;
            changed = true;
        }
        self.copy = match self.queue.get(end) {
            Some(Owed::CopyEnd) => CopyIn::Closing,
            _ => CopyIn::Open,
        };
        if changed {
            self.recount();
        }
        if changed || self.copy == CopyIn::Open {
            self.judge_batch();
        }
    }

    /// Where in the queue what was sent into the COPY ends.
    fn copy_stretch(&self) -> usize {
        let is_inside = |owed: &&Owed| matches!(owed, Owed::Sync | Owed::CopySync | Owed::CopyData);
        1 + self.queue.iter().skip(1).take_while(is_inside).count()
    }

    pub(super) fn copy_data_sent(&self) -> bool {
        matches!(self.queue.get(1), Some(Owed::CopyData))
    }

    /// Whether an error in COPY FROM leaves open how many Syncs the server will answer: one was sent between the data, and
    /// nobody can tell whether the server came to it before the error or after it.
    #[must_use]
    pub fn is_doubtful_copy(&self) -> bool {
        if self.copy == CopyIn::None {
            return false;
        }
        let end = self.copy_stretch();
        let first = self.queue.iter().take(end).position(|owed| matches!(owed, Owed::CopySync));
        let last_data = self.queue.iter().take(end).rposition(|owed| matches!(owed, Owed::CopyData));
        first.is_some_and(|first| self.copy == CopyIn::Closing || last_data > Some(first))
    }

    pub(super) fn copy_in_ends(&mut self, failed: bool) {
        if self.copy == CopyIn::None {
            return;
        }
        let end = self.copy_stretch();
        let mut at = 0;
        let closing = self.copy == CopyIn::Closing;
        // A Sync behind data that has made the COPY fail is one like any other.
        let syncs_count = failed && !closing;
        let mut had_syncs = false;
        self.queue.retain_mut(|owed| {
            at += 1;
            match owed {
                Owed::CopySync => {
                    had_syncs = true;
                    *owed = Owed::Sync;
                    syncs_count
                }
                Owed::CopyData => at > end,
                Owed::CopyEnd if closing => at != end + 1,
                _ => true,
            }
        });
        self.copy = CopyIn::None;
        self.recount();
        if had_syncs {
            self.judge_batch();
        }
    }

    /// Finds out whether a batch is open after the queue has lost a Sync.
    fn judge_batch(&mut self) {
        let says = |owed: &Owed| match owed {
            Owed::Query(_) | Owed::Sync | Owed::FunctionCall | Owed::OwnSync => Some(false),
            Owed::CopyData | Owed::CopySync | Owed::CopyEnd => None,
            _ if owed.is_own_query() => None,
            _ => Some(true),
        };
        self.unsynced = self.queue.iter().rev().find_map(says).unwrap_or(false);
    }

    /// What was sent into a COPY that the server does not know of, or does not any more: it ignores that.
    #[inline]
    pub(super) fn drop_stale_copy(&mut self) {
        while let Some(Owed::CopyEnd | Owed::CopyData | Owed::CopySync) = self.queue.front() {
            self.take_first();
        }
    }
}
