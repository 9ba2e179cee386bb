//! COPY FROM STDIN in the queue: which Syncs count, and where the data ends.
//!
//! While a server reads COPY data it ignores a Sync. If the data makes the COPY fail, what was sent into it before the
//! failure is discarded, and a Sync behind that counts like any other.
//!
//! Where a Sync stands between data and the COPY fails, nobody but the server knows on which side of that Sync it did. Then
//! nothing more is sent until it is known ([`OwedQueue::waits_for_copy`]): the server is asked something that it answers in
//! any case, and the ReadyForQuery that come before that answer are counted ([`OwedQueue::take_question`]).

use super::{MOST, Owed, OwedQueue, Verdict};

/// Where a COPY FROM STDIN stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum CopyIn {
    #[default]
    None,
    /// The server reads data; a Sync sent now is ignored.
    Open,
    /// The client has sent something that is no data: the COPY has failed before that, or the server ends the connection.
    Left,
    /// The client has sent the end of its data; the server has not answered it yet.
    Closing,
    /// The COPY has failed, and how many of the Syncs between its data count is found out.
    Doubted(Question),
}

/// How far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Still to be asked; `behind_sync`: behind a Sync, since a server that skips says nothing.
    Due {
        behind_sync: bool,
    },
    Asked,
}

/// What a client's next message has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyWait {
    /// Nothing.
    No,
    /// The outcome of the COPY: the client has sent the end of data that have a Sync between them.
    Outcome,
    /// The same, unless the message belongs to the data.
    OutcomeUnlessData,
    /// How many Syncs count.
    Answer,
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
            *owed = Owed::CopySyncs(1);
            changed = true;
        }
        self.copy = match self.queue.get(end) {
            None => CopyIn::Open,
            Some(Owed::CopyEnd) => CopyIn::Closing,
            Some(_) => CopyIn::Left,
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
        let is_inside = |owed: &&Owed| matches!(owed, Owed::Sync | Owed::CopySyncs(_) | Owed::CopyData);
        // A server can have ended the COPY in a way that no COPY ends: then there may be nothing.
        (1 + self.queue.iter().skip(1).take_while(is_inside).count()).min(self.queue.len())
    }

    /// Whether data were sent into the COPY: it may have failed.
    #[must_use]
    pub fn copy_data_sent(&self) -> bool {
        matches!(self.queue.get(1), Some(Owed::CopyData))
    }

    /// Notes a Sync where the server reads data.
    pub(super) fn sync_in_copy(&mut self) {
        if let Some(Owed::CopySyncs(count)) = self.queue.back_mut() {
            *count += 1;
        } else if self.copy_data_sent() {
            // In front of all data nothing can fail.
            self.append(Owed::CopySyncs(1));
        }
    }

    /// Makes room for data behind Syncs: all that are between data are in the same doubt, however many stretches of data
    /// there are.
    pub(super) fn merge_copy_syncs(&mut self) {
        let length = self.queue.len();
        if length < 4 {
            return;
        }
        let tail = [&self.queue[length - 3], &self.queue[length - 2], &self.queue[length - 1]];
        if let [Owed::CopySyncs(_), Owed::CopyData, Owed::CopySyncs(more)] = tail {
            let more = *more;
            self.queue.truncate(length - 2);
            if let Some(Owed::CopySyncs(count)) = self.queue.back_mut() {
                *count += more;
            }
            self.recount();
        }
    }

    /// Whether what was sent last belongs to a COPY.
    #[must_use]
    pub fn ends_in_data(&self) -> bool {
        matches!(self.queue.back(), Some(Owed::CopyData | Owed::CopySyncs(_)))
    }

    /// Notes that something else was sent where the server reads data, as far as is known.
    pub fn leave_copy(&mut self) {
        if self.copy == CopyIn::Open {
            self.copy = CopyIn::Left;
        }
    }

    /// Notes whether data, or the end of data, that are sent now have a Sync between them and other data.
    pub(super) fn note_sync_amid(&mut self) {
        let mut behind_sync = false;
        for owed in self.queue.iter().rev() {
            match owed {
                Owed::Sync | Owed::CopySyncs(_) => behind_sync = true,
                Owed::CopyData if behind_sync => {
                    self.sync_amid = true;
                    return;
                }
                Owed::CopyData => {}
                _ => return,
            }
        }
    }

    /// What the next message has to wait for.
    pub fn waits_for_copy(&mut self) -> CopyWait {
        if let CopyIn::Doubted(_) = self.copy {
            return CopyWait::Answer;
        }
        let wait = match self.queue.back() {
            _ if !self.sync_amid => CopyWait::No,
            Some(Owed::CopyEnd) => CopyWait::Outcome,
            Some(Owed::CopyData | Owed::CopySyncs(_) | Owed::Sync) => CopyWait::OutcomeUnlessData,
            _ => CopyWait::No,
        };
        self.sync_amid = wait != CopyWait::No;
        wait
    }

    /// The COPY is over. How many of its Syncs may count or not.
    pub(super) fn copy_in_ends(&mut self, failed: bool) -> usize {
        if self.copy == CopyIn::None {
            return 0;
        }
        let end = self.copy_stretch();
        let closing = self.copy == CopyIn::Closing;
        let last_data = self.queue.range(..end).rposition(|owed| matches!(owed, Owed::CopyData)).unwrap_or(0);
        let (mut at, mut doubtful, mut certain) = (0, 0, 0);
        let had_syncs = self.queue.iter().any(|owed| matches!(owed, Owed::CopySyncs(_)));
        self.queue.retain(|owed| {
            at += 1;
            match owed {
                // Those behind all data that have made the COPY fail are like any others.
                Owed::CopySyncs(count) if !closing && at > last_data + 1 => {
                    certain += count;
                    false
                }
                Owed::CopySyncs(count) => {
                    doubtful += count;
                    false
                }
                Owed::CopyData => at > end,
                Owed::CopyEnd if closing => at != end + 1,
                _ => true,
            }
        });
        if failed {
            // More than can be owed: it is given up.
            (0..certain.min(2 * MOST + 1)).for_each(|_| self.queue.insert(1, Owed::Sync));
        }
        self.copy = CopyIn::None;
        self.recount();
        if had_syncs {
            self.judge_batch();
        }
        if failed { doubtful } else { 0 }
    }

    /// The COPY has failed, and so many Syncs may count or not: the server is to be asked.
    pub(super) fn doubt(&mut self, syncs: usize) {
        // The client's own skipping goes on if none of them counts: then it is pgvalet that skips.
        let behind_sync = self.skipping;
        if behind_sync {
            self.append(Owed::OwnSync);
        }
        self.append(Owed::DoubtfulSyncs(syncs));
        self.append(Owed::Own(b'3'));
        self.append(Owed::OwnSync);
        self.copy = CopyIn::Doubted(Question::Due { behind_sync });
    }

    /// Whether the server is to be sent a Close of something that is not there, and a Sync; with `true` if a Sync is to
    /// be in front of it. They are counted already.
    pub fn take_question(&mut self) -> Option<bool> {
        let CopyIn::Doubted(Question::Due { behind_sync }) = self.copy else { return None };
        self.copy = CopyIn::Doubted(Question::Asked);
        Some(behind_sync)
    }

    /// A ReadyForQuery came where Syncs are in doubt: one of them counts.
    pub(super) fn doubtful_ready(&mut self) -> Verdict {
        match self.queue.front_mut() {
            Some(Owed::DoubtfulSyncs(left)) if *left > 0 => *left -= 1,
            _ => return Verdict::Violation,
        }
        (self.skipping, self.unsynced) = (false, false);
        Verdict::Forward
    }

    /// The answer to the question has come: no other Sync counts.
    pub(super) fn settle_doubt(&mut self) {
        if let Some(Owed::DoubtfulSyncs(_)) = self.queue.front() {
            self.take_first();
            self.copy = CopyIn::None;
        }
    }

    /// Finds out whether a batch is open after the queue has lost a Sync.
    fn judge_batch(&mut self) {
        let says = |owed: &Owed| match owed {
            Owed::Query(_) | Owed::Sync | Owed::FunctionCall | Owed::OwnSync => Some(false),
            Owed::CopyData | Owed::CopySyncs(_) | Owed::CopyEnd => None,
            _ if owed.is_own_query() => None,
            _ => Some(true),
        };
        self.unsynced = self.queue.iter().rev().find_map(says).unwrap_or(false);
    }

    /// What was sent into a COPY that the server does not know of, or does not any more: it ignores that.
    #[inline]
    pub(super) fn drop_stale_copy(&mut self) {
        while let Some(Owed::CopyEnd | Owed::CopyData | Owed::CopySyncs(_)) = self.queue.front() {
            self.take_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(sent: impl IntoIterator<Item = Owed>) -> OwedQueue {
        let mut queue = OwedQueue::default();
        for owed in sent {
            assert!(queue.push(owed).is_none());
        }
        queue
    }

    /// A COPY of which the server has said that it reads, and what is sent then.
    fn copying(head: Owed, sent: impl IntoIterator<Item = Owed>) -> OwedQueue {
        let mut queue = queue([head]);
        assert_eq!(queue.reply(b'G'), Verdict::Forward);
        for owed in sent {
            assert!(queue.push(owed).is_none());
        }
        queue
    }

    #[test]
    fn what_comes_behind_a_copy_that_has_failed_unnoticed_is_answered() {
        let mut owed = copying(Owed::Query(None), [Owed::CopyData, Owed::Sync]);
        assert!(owed.expects_copy_data() && owed.copy_data_sent());
        assert_eq!(owed.waits_for_copy(), CopyWait::No);
        owed.push(Owed::Query(None));
        owed.leave_copy();
        owed.push(Owed::Sync);
        assert_eq!(owed.error(|_, _| panic!("nothing is skipped")), Verdict::Forward);
        for _ in 0..2 {
            assert_eq!(owed.ready(), Verdict::Forward);
        }
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        for _ in 0..2 {
            assert_eq!(owed.ready(), Verdict::Forward);
        }
        assert!(owed.at_rest());
        assert_eq!(owed.ready(), Verdict::Violation);
    }

    #[test]
    fn the_syncs_between_data_that_count_are_those_answered_before_the_question() {
        for count in 0..=2 {
            for head in [Owed::Query(None), Owed::Execute] {
                let skips = matches!(head, Owed::Execute);
                let sent = [Owed::CopyData, Owed::Sync, Owed::CopyData, Owed::Sync, Owed::CopyEnd];
                let mut owed = copying(head, sent);
                assert_eq!(owed.waits_for_copy(), CopyWait::Outcome);
                assert_eq!(owed.error(|failed, _| assert!(failed)), Verdict::Forward);
                assert_eq!(owed.waits_for_copy(), CopyWait::Answer);
                assert_eq!(owed.take_question(), Some(skips));
                assert_eq!(owed.take_question(), None);
                let own = if skips { Verdict::Swallow } else { Verdict::Forward };
                assert_eq!(owed.ready(), own, "the Sync of the question, or the Query's");
                for _ in 0..count {
                    assert_eq!(owed.ready(), Verdict::Forward);
                }
                assert_eq!(owed.reply(b'3'), Verdict::Swallow);
                assert_eq!(owed.ready(), Verdict::Swallow);
                assert_eq!(owed.is_skipping(), skips && count == 0);
                assert_eq!(owed.at_rest(), !skips || count > 0);
                assert_eq!(owed.waits_for_copy(), CopyWait::No);
                if owed.is_skipping() {
                    assert!(owed.push(Owed::Execute).is_some());
                    owed.push(Owed::Sync);
                    assert_eq!(owed.ready(), Verdict::Forward);
                }
                assert!(owed.at_rest() && owed.is_plain());
            }
        }
    }

    #[test]
    fn a_sync_behind_all_data_of_a_failed_copy_is_certain() {
        let mut owed =
            copying(Owed::Execute, [Owed::CopyData, Owed::Sync, Owed::CopyData, Owed::Sync, Owed::Sync]);
        assert_eq!(owed.waits_for_copy(), CopyWait::OutcomeUnlessData);
        assert_eq!(owed.error(|failed, _| assert!(failed)), Verdict::Forward);
        assert_eq!(owed.take_question(), Some(false));
        for _ in 0..3 {
            assert_eq!(owed.ready(), Verdict::Forward, "two that are certain, and the one between the data");
        }
        assert_eq!(owed.ready(), Verdict::Violation);
    }

    /// What no PostgreSQL does; found by fuzzing.
    #[test]
    fn a_copy_that_ends_like_no_copy_is_over_too() {
        for end in [b'I', b's'] {
            let mut owed = queue([Owed::Execute]);
            assert_eq!(owed.reply(b'G'), Verdict::Forward);
            assert_eq!(owed.reply(end), Verdict::Forward);
            assert!(owed.is_plain());
            assert_eq!(owed.error(|_, _| {}), Verdict::Violation);
        }
    }

    #[test]
    fn data_without_a_copy_hold_nothing_up_for_long() {
        let sent = [Owed::Query(None), Owed::CopyData, Owed::Sync, Owed::CopyData, Owed::CopyEnd];
        let mut owed = queue(sent);
        assert_eq!(owed.waits_for_copy(), CopyWait::Outcome);
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        for _ in 0..2 {
            assert_eq!(owed.ready(), Verdict::Forward);
        }
        assert_eq!(owed.waits_for_copy(), CopyWait::No);
        assert!(owed.at_rest() && owed.is_plain());
    }

    #[test]
    fn syncs_between_data_take_no_memory() {
        let mut owed = copying(Owed::Query(None), [Owed::CopyData]);
        for _ in 0..1000 {
            owed.push(Owed::Sync);
            owed.push(Owed::CopyData);
        }
        assert_eq!(owed.queue.len(), 4);
        owed.push(Owed::Sync);
        assert_eq!(owed.error(|_, _| {}), Verdict::Forward);
        assert_eq!(owed.take_question(), Some(false));
        for _ in 0..1002 {
            assert_eq!(owed.ready(), Verdict::Forward);
        }
        assert_eq!(owed.ready(), Verdict::Violation);
    }

    #[test]
    fn more_than_enough_is_unanswered() {
        let mut owed = queue((0..=MOST).map(|_| Owed::Bind));
        assert!(owed.is_long(false) && !owed.is_plain());
        for _ in 0..MOST / 2 {
            assert_eq!(owed.reply(b'2'), Verdict::Forward);
            assert!(owed.is_long(true));
        }
        assert_eq!(owed.reply(b'2'), Verdict::Forward);
        assert!(!owed.is_long(true) && owed.is_plain());
    }

    #[test]
    fn a_copy_that_ends_well_takes_its_syncs_along() {
        let mut owed = copying(Owed::Execute, [Owed::CopyData, Owed::Sync, Owed::CopyData, Owed::CopyEnd]);
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        assert_eq!(owed.waits_for_copy(), CopyWait::No);
        assert!(owed.is_empty() && owed.is_unsynced() && owed.is_plain());
    }
}
