//! What a server owes: one entry for each message sent to it that will be answered.
//!
//! The queue says for every reply whether it goes to the client or was caused by pgvalet itself, keeps the replies that
//! are given without asking the server in their place, and knows when nothing more will come. It follows PostgreSQL's
//! rules for errors (everything up to Sync is skipped, a Query included) and for COPY (Sync is ignored during copy-in).
//! Pure: tags in, decisions out.

mod copy;
mod entry;

pub use copy::CopyWait;
pub use entry::{Naming, Owed, Purpose, ShapeOf};

use crate::session::Named;
use crate::session::statements::key;
use copy::CopyIn;
use entry::Counts;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};

/// What becomes of a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the client's.
    Forward,
    /// It answers pgvalet itself.
    Swallow,
    /// Nothing that was sent can be answered like this: the server is out of step.
    Violation,
}

/// The queue.
#[derive(Debug, Default)]
pub struct OwedQueue {
    queue: VecDeque<Owed>,
    counts: Counts,
    /// A message of the extended protocol was sent after the last Query, Sync or FunctionCall.
    unsynced: bool,
    /// The server skips everything up to the next Sync, which has not been sent yet.
    skipping: bool,
    copy: CopyIn,
    /// The COPY data that were sent last may have a Sync between them; whether they still have, the end of the queue says.
    sync_amid: bool,
    /// How many entries in the queue change a client's names.
    namings: usize,
    /// How many of them, the last ones, belong to the batch that is being sent.
    open_namings: usize,
    /// The statements that entries in the queue close, with how many do.
    evicted: HashMap<u64, usize, RandomState>,
    /// Counts the batches that a Sync has ended.
    batch: u32,
    /// The error of what pgvalet sent in front of the client's next request was given to the client in answer to it: of
    /// its own answer only ReadyForQuery is passed on.
    answered: bool,
}

/// Entries beyond which nothing more is to be sent before some are answered.
const MOST: usize = 1 << 16;
/// Entries for which the queue keeps its memory.
const USUAL: usize = 256;

impl OwedQueue {
    /// Notes that a message was sent (or, for [`Owed::Kept`], kept). Returns it if the server will not come to it,
    /// because it is skipping to a Sync.
    #[inline]
    pub fn push(&mut self, owed: Owed) -> Option<Owed> {
        if let Owed::Bind | Owed::DescribePortal | Owed::Execute = owed
            && !self.skipping
        {
            self.unsynced = true;
            self.counts.add_skipping();
            self.queue.push_back(owed);
            return None;
        }
        self.push_other(owed)
    }

    fn push_other(&mut self, owed: Owed) -> Option<Owed> {
        match owed {
            Owed::Sync => {
                if self.copy == CopyIn::Open {
                    self.sync_in_copy();
                    return None;
                }
                self.unsynced = false;
                self.skipping = false;
                self.open_namings = 0;
                self.batch = self.batch.wrapping_add(1) & (u32::MAX >> 1);
            }
            _ if self.skipping => return Some(owed),
            Owed::Query(_) | Owed::FunctionCall => self.unsynced = false,
            _ if owed.is_own_query() => {}
            Owed::OwnSync => self.unsynced = false,
            Owed::CopyData => {
                if matches!(self.queue.back(), None | Some(Owed::CopyData)) {
                    return None;
                }
                self.note_sync_amid();
                self.merge_copy_syncs();
            }
            Owed::CopyEnd => {
                if self.copy == CopyIn::Open {
                    self.copy = CopyIn::Closing;
                } else if self.queue.is_empty() {
                    return None;
                }
                self.note_sync_amid();
            }
            _ => self.unsynced = true,
        }
        if let Owed::Evict(id) = owed {
            *self.evicted.entry(id).or_default() += 1;
        }
        let names = usize::from(owed.naming().is_some());
        self.namings += names;
        self.open_namings += names;
        self.append(owed);
        None
    }

    #[inline]
    fn append(&mut self, owed: Owed) {
        self.counts.add(&owed);
        self.queue.push_back(owed);
    }

    #[inline]
    fn take_first(&mut self) -> Option<Owed> {
        let owed = self.queue.pop_front()?;
        self.counts.remove(&owed);
        Some(owed)
    }

    /// Counts anew after entries were taken out of the middle.
    fn recount(&mut self) {
        self.counts = Counts::default();
        self.queue.iter().for_each(|owed| self.counts.add(owed));
    }

    /// The number of the batch that is being sent. Never 0.
    #[must_use]
    pub fn batch(&self) -> u32 {
        self.batch + 1
    }

    /// Whether a batch that has ended, and is not answered yet, may or may not change what the client calls `name`.
    /// The last such change, with `true` if the server itself will tell how it ended.
    #[must_use]
    pub fn unsettled(&self, name: &[u8]) -> Option<(&Naming, bool)> {
        if self.namings == self.open_namings {
            // Nothing to be found, however long the queue is.
            return None;
        }
        let is_change = |owed: &&Owed| owed.naming().is_some_and(|naming| key(&naming.name) == key(name));
        let at = self.queue.iter().rposition(|owed| is_change(&owed))?;
        if !self.queue.range(at..).any(|owed| matches!(owed, Owed::Sync)) {
            // If it is skipped, so is what comes now.
            return None;
        }
        let last = &self.queue[at];
        let naming = last.naming()?;
        let mut earlier = self.queue.range(..at).filter(is_change);
        // Only if it is the first that the name stands for: else the name falls back to what it stood for before.
        let told = matches!(last, Owed::Parse(_)) && naming.prepares.is_some() && naming.previous.is_none();
        Some((naming, told && earlier.next().is_none()))
    }

    /// The statement that a ParseComplete now confirms to be on the server.
    #[must_use]
    pub fn confirming(&self) -> Option<u64> {
        match self.queue.front() {
            Some(Owed::Prepare(id)) => Some(*id),
            Some(Owed::Parse(naming)) => naming.prepares,
            _ => None,
        }
    }

    /// Whether what comes answers a Query of the client's whose answer was given already.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered && matches!(self.queue.front(), Some(Owed::Query(_)))
    }

    /// Whether all that may come of a Describe, an Execute or a Sync is its answer.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.skipping && !self.sync_amid && self.copy == CopyIn::None && self.queue.len() <= MOST
    }

    /// Whether so much is unanswered that nothing more is to be sent; `still`: it was so before, and not enough of it has
    /// been answered since.
    #[must_use]
    pub fn is_long(&self, still: bool) -> bool {
        // A server that reads COPY data answers nothing meanwhile.
        self.copy == CopyIn::None && self.queue.len() > if still { MOST / 2 } else { MOST }
    }

    /// Whether the server ignores everything up to a Sync that has not been sent yet.
    #[inline]
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Forgets all that is owed, because nobody will pay it; what it was, the latest first.
    pub fn write_off(&mut self) -> impl Iterator<Item = Owed> + use<> {
        std::mem::take(self).queue.into_iter().rev()
    }

    /// How many changes of the client's names wait for their turn.
    #[inline]
    #[must_use]
    pub fn namings(&self) -> usize {
        self.namings
    }

    /// Whether nothing was sent behind what is being answered.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.queue.len() <= 1 && !self.unsynced
    }

    /// Whether a batch is open.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Whether a Sync of pgvalet's own would end nothing of the client's: no batch is open, and no message is unanswered
    /// whose error would have the server skip what follows, up to that Sync.
    #[must_use]
    pub fn may_sync(&self) -> bool {
        // A server that reads COPY data ignores it.
        !self.unsynced && self.counts.after_sync == 0 && self.copy == CopyIn::None
    }

    /// Whether everything sent has been answered and no batch is open: with status `I`, the server is free.
    #[inline]
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.queue.is_empty() && !self.unsynced
    }

    /// Whether nothing is outstanding, though a batch may be open.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the server reads COPY data and was not sent the end of it: it takes any other message for an error that
    /// ends the connection.
    #[inline]
    #[must_use]
    pub fn expects_copy_data(&self) -> bool {
        self.copy == CopyIn::Open
    }

    /// Whether the server reads COPY data.
    #[must_use]
    pub fn copying_in(&self) -> bool {
        self.copy != CopyIn::None
    }

    /// Whether the server will say nothing more before it is sent more: it reads COPY data, or no Sync was sent.
    #[must_use]
    pub fn waits_for_client(&self) -> bool {
        self.copy == CopyIn::Open || (self.boundaries() == 0 && !self.queue.is_empty())
    }

    /// How many Query, Sync and FunctionCall of the client's are unanswered.
    #[must_use]
    pub fn boundaries(&self) -> usize {
        self.counts.boundaries
    }

    /// Whether the server is at a Query of pgvalet's own, or about to be.
    #[must_use]
    pub fn is_at_own_query(&self) -> bool {
        self.queue.front().is_some_and(Owed::is_own_query)
    }

    /// Whether what comes next answers pgvalet itself.
    #[inline]
    #[must_use]
    pub fn swallowing(&self) -> bool {
        let is_ours = |owed: &Owed| {
            owed.is_own_query()
                || matches!(
                    owed,
                    Owed::Prepare(_)
                        | Owed::Evict(_)
                        | Owed::Shape(_)
                        | Owed::Own(_)
                        | Owed::Question(_)
                        | Owed::Names
                        | Owed::InForce
                        | Owed::OwnSync
                )
        };
        self.queue.front().is_some_and(is_ours)
            || self.answered && matches!(self.queue.front(), Some(Owed::Query(_)))
    }

    /// Every named statement that was there before is gone. Gives the names and ids of those that messages which are
    /// still unanswered make.
    pub fn statements_gone(&mut self) -> (Vec<Box<[u8]>>, Vec<u64>) {
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for owed in &mut self.queue {
            match owed {
                Owed::Parse(naming) | Owed::Kept(naming) => {
                    ids.extend(naming.prepares);
                    if !naming.name.is_empty() && !names.contains(&naming.name) {
                        naming.previous = None;
                        names.push(naming.name.clone());
                    }
                }
                Owed::Prepare(id) if *id != 0 => ids.push(*id),
                _ => {}
            }
        }
        (names, ids)
    }

    /// Whether a CloseComplete is due now that the server knows nothing of; it is then given.
    #[inline]
    pub fn next_kept(&mut self) -> bool {
        let due = self.namings > 0 && matches!(self.queue.front(), Some(Owed::Kept(_)));
        if due {
            self.pop();
            self.drop_stale_copy();
        }
        due
    }

    /// Whether what comes now, RowDescription, NoData or DataRow, tells pgvalet itself something.
    #[inline]
    #[must_use]
    pub fn wants_whole(&self, tag: u8) -> bool {
        match self.queue.front() {
            Some(Owed::Shape(_)) => matches!(tag, b'T' | b'n'),
            Some(Owed::Names | Owed::InForce | Owed::Survey) => tag == b'D',
            _ => false,
        }
    }

    /// Whether what comes now lists the statements that have names of the client's.
    #[inline]
    #[must_use]
    pub fn is_listing(&self) -> bool {
        matches!(self.queue.front(), Some(Owed::Names))
    }

    /// Whether what comes now tells how a text is read.
    #[inline]
    #[must_use]
    pub fn tells_reading(&self) -> bool {
        matches!(self.queue.front(), Some(Owed::InForce))
    }

    /// Whether what comes now answers a survey.
    #[inline]
    #[must_use]
    pub fn is_survey(&self) -> bool {
        matches!(self.queue.front(), Some(Owed::Survey))
    }

    /// Whether what comes now answers the Query that brings the client's settings into force.
    #[inline]
    #[must_use]
    pub fn is_setting(&self) -> bool {
        matches!(self.queue.front(), Some(Owed::Settings))
    }

    /// Whether the columns of the statement of this id are asked for.
    #[must_use]
    pub fn awaits(&self, id: u64) -> bool {
        self.queue
            .iter()
            .any(|owed| matches!(owed, Owed::Shape(of) if of.id == id && of.purpose == Purpose::Awaited))
    }

    /// Whether what comes now answers the Query that puts a client's defaults in force.
    #[inline]
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        matches!(self.queue.front(), Some(Owed::Restore))
    }

    /// Whether a Close of pgvalet's own for the statement of this id was sent: it is not known yet whether it takes effect.
    #[must_use]
    pub fn evicts(&self, id: u64) -> bool {
        !self.evicted.is_empty() && self.evicted.contains_key(&id)
    }

    /// Whose columns have just been told.
    pub fn take_shape(&mut self) -> Option<Box<ShapeOf>> {
        if !matches!(self.queue.front(), Some(Owed::Shape(_))) {
            return None;
        }
        let shape = match self.take_first() {
            Some(Owed::Shape(of)) => Some(of),
            _ => None,
        };
        self.drop_stale_copy();
        shape
    }

    /// Takes a reply that is the client's and concerns nothing but the queue, if this is one: most are. Else it is to be
    /// judged by [`OwedQueue::reply`].
    #[inline]
    pub fn take_usual(&mut self, tag: u8) -> bool {
        if self.copy != CopyIn::None || self.namings > 0 {
            return false;
        }
        match (self.queue.front(), tag) {
            (Some(Owed::Query(_)), b'D' | b'T' | b'C' | b'd') => !self.answered,
            (Some(Owed::Execute), b'D' | b'd') => true,
            (Some(Owed::Bind), b'2')
            | (Some(Owed::DescribePortal), b'T' | b'n')
            | (Some(Owed::Execute), b'C') => {
                self.queue.pop_front();
                self.counts.remove_skipping();
                self.drop_stale_copy();
                true
            }
            _ => false,
        }
    }

    /// Judges a reply other than ErrorResponse and ReadyForQuery, by its tag.
    pub fn reply(&mut self, tag: u8) -> Verdict {
        if tag == b'3' {
            self.settle_doubt();
        }
        let Some(head) = self.queue.front() else { return Verdict::Violation };
        let (fits, ends) = match (head, tag) {
            (head, b'T' | b'D' | b'I' | b'H' | b'd' | b'c' | b'G' | b'W' | b'C')
                if matches!(head, Owed::Query(_)) || head.is_own_query() =>
            {
                (true, false)
            }
            (Owed::Execute, b'D' | b'H' | b'd' | b'c' | b'G' | b'W') => (true, false),
            (Owed::Execute, b'C' | b'I' | b's') => (true, true),
            (Owed::Parse(_) | Owed::Prepare(_), b'1') | (Owed::Bind, b'2') => (true, true),
            (Owed::Close | Owed::Evict(_), b'3') => (true, true),
            (Owed::DescribeParameters, b't') => (true, false),
            (Owed::DescribeParameters, b'T' | b'n') => (true, true),
            (Owed::Own(expected) | Owed::Question(expected), tag) if *expected == tag => (true, true),
            (Owed::Own(b'C'), b'D') => (true, false),
            (Owed::Names | Owed::InForce, b'D') => (true, false),
            (Owed::Names | Owed::InForce, b'C') => (true, true),
            (Owed::DescribeStatement | Owed::Shape(_), b't') | (Owed::FunctionCall, b'V') => (true, false),
            (Owed::DescribeStatement | Owed::DescribePortal, b'T' | b'n') => (true, true),
            _ => (false, false),
        };
        if !fits {
            return Verdict::Violation;
        }
        let is_ours = self.swallowing() || tag != b't' && matches!(head, Owed::DescribeParameters);
        let verdict = if is_ours { Verdict::Swallow } else { Verdict::Forward };
        match tag {
            b'G' => self.copy_in_begins(),
            b'C' | b'I' | b's' if self.copy != CopyIn::None => _ = self.copy_in_ends(false),
            _ => {}
        }
        if ends {
            self.pop();
            self.drop_stale_copy();
        }
        verdict
    }

    /// Judges a ReadyForQuery.
    #[inline]
    pub fn ready(&mut self) -> Verdict {
        if !matches!(self.copy, CopyIn::Doubted(_)) {
            self.copy = CopyIn::None;
        }
        let verdict = match self.queue.front() {
            Some(Owed::Query(_) | Owed::Sync | Owed::FunctionCall) => {
                self.answered = false;
                Verdict::Forward
            }
            Some(owed) if owed.is_own_query() || matches!(owed, Owed::OwnSync) => Verdict::Swallow,
            Some(Owed::DoubtfulSyncs(_)) => return self.doubtful_ready(),
            _ => return Verdict::Violation,
        };
        self.take_first();
        self.drop_stale_copy();
        if self.queue.is_empty() && self.queue.capacity() > USUAL {
            // A pipeline was long: the memory goes back.
            self.queue = VecDeque::new();
            self.evicted = HashMap::default();
        }
        verdict
    }

    /// Judges an ErrorResponse. What the server now skips is given to `skipped`, the latest first; the first argument
    /// is true for the message that failed itself.
    pub fn error(&mut self, skipped: impl FnMut(bool, Owed)) -> Verdict {
        if let CopyIn::Doubted(_) = self.copy {
            // Nothing that can fail was sent.
            return Verdict::Violation;
        }
        let doubtful = self.copy_in_ends(true);
        if self.queue.len() > 2 * MOST {
            return Verdict::Violation;
        }
        if doubtful > 0 && !self.queue.iter().skip(1).all(|owed| matches!(owed, Owed::Sync)) {
            return Verdict::Violation;
        }
        let verdict = self.judge_error(skipped);
        if doubtful > 0 {
            self.doubt(doubtful);
        }
        verdict
    }

    fn judge_error(&mut self, mut skipped: impl FnMut(bool, Owed)) -> Verdict {
        let verdict = match self.queue.front() {
            None => return Verdict::Violation,
            // The error of a statement that pgvalet prepared for a Bind is the Bind's.
            Some(Owed::Query(_)) if self.answered => return Verdict::Swallow,
            Some(Owed::Query(_) | Owed::Sync | Owed::FunctionCall) => return Verdict::Forward,
            Some(Owed::Failing | Owed::Restore | Owed::Survey) => return Verdict::Swallow,
            // Nothing is left that could fail.
            Some(Owed::OwnSync) => return Verdict::Violation,
            // Settings that were in force before and are refused now: nothing may run without them. Nor without channels.
            Some(Owed::Settings | Owed::Channels) => return Verdict::Violation,
            Some(_) => Verdict::Forward,
        };
        let ends = |owed: &Owed| matches!(owed, Owed::Sync | Owed::OwnSync);
        let end = self.queue.iter().position(ends).unwrap_or(self.queue.len());
        let mut is_ours = false;
        if let Some(Owed::OwnSync) = self.queue.get(end) {
            // A question in between concerns nobody but pgvalet; else it is the client's next Query that has failed.
            is_ours = self.queue.range(..end).any(|owed| matches!(owed, Owed::Names));
            self.answered = !is_ours;
        }
        if end == self.queue.len() {
            self.skipping = true;
            self.unsynced = true;
        }
        let mut gone: Vec<Owed> = self.queue.drain(..end).collect();
        gone.iter().for_each(|owed| self.counts.remove(owed));
        self.namings -= gone.iter().filter(|owed| owed.naming().is_some()).count();
        for owed in &gone {
            if let Owed::Evict(id) = owed {
                self.evicted_once(*id);
            }
        }
        self.open_namings = self.open_namings.min(self.namings);
        while let Some(owed) = gone.pop() {
            skipped(gone.is_empty(), owed);
        }
        if is_ours { Verdict::Swallow } else { verdict }
    }

    #[inline]
    fn pop(&mut self) {
        match self.take_first() {
            Some(Owed::Parse(_) | Owed::Kept(_)) => {
                self.namings -= 1;
                self.open_namings = self.open_namings.min(self.namings);
            }
            Some(Owed::Evict(id)) => self.evicted_once(id),
            _ => {}
        }
    }

    fn evicted_once(&mut self, id: u64) {
        if let Some(count) = self.evicted.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.evicted.remove(&id);
            }
        }
    }

    /// Tells the first change still to come of what the client calls `name` what it stands for before that. Gives it back
    /// if there is none.
    pub fn hand_on(&mut self, name: &[u8], previous: Option<Named>) -> Option<Option<Named>> {
        for owed in &mut self.queue {
            match owed {
                Owed::Parse(naming) | Owed::Kept(naming) if key(&naming.name) == key(name) => {
                    naming.previous = previous;
                    return None;
                }
                Owed::Query(unnamed) if name.is_empty() => {
                    *unnamed = previous.map(Box::new);
                    return None;
                }
                _ => {}
            }
        }
        Some(previous)
    }

    /// Whether a Query that is not answered yet destroys the client's unnamed statement, unless it is skipped.
    #[must_use]
    pub fn may_destroy_unnamed(&self) -> bool {
        self.queue.iter().any(|owed| matches!(owed, Owed::Query(Some(_))))
    }

    /// Whether a batch that has ended, and is not answered yet, may or may not put the client's unnamed statement on the
    /// server, and nothing in the batch being sent does.
    #[must_use]
    pub fn unnamed_is_unsettled(&self) -> bool {
        if self.counts.unnamed == 0 || self.counts.syncs == 0 {
            return false;
        }
        let mut ended = false;
        for owed in self.queue.iter().rev() {
            match owed {
                Owed::Sync => ended = true,
                Owed::Prepare(0) => return ended,
                Owed::Parse(naming) if naming.name.is_empty() => return ended,
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(name: &str) -> Box<Naming> {
        Box::new(Naming { name: name.as_bytes().into(), previous: None, prepares: None })
    }

    fn queue(sent: impl IntoIterator<Item = Owed>) -> OwedQueue {
        let mut queue = OwedQueue::default();
        for owed in sent {
            assert!(queue.push(owed).is_none());
        }
        queue
    }

    #[test]
    fn a_simple_query_is_owed_until_ready_for_query() {
        let mut owed = queue([Owed::Query(None)]);
        for tag in *b"TDDC" {
            assert_eq!(owed.reply(tag), Verdict::Forward);
            assert!(!owed.at_rest());
        }
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn what_pgvalet_sent_itself_is_swallowed_in_its_place() {
        let mut owed =
            queue([Owed::Settings, Owed::Evict(3), Owed::Prepare(4), Owed::Bind, Owed::Execute, Owed::Sync]);
        for (tag, verdict) in [
            (b'T', Verdict::Swallow),
            (b'D', Verdict::Swallow),
            (b'C', Verdict::Swallow),
            (b'Z', Verdict::Swallow),
            (b'3', Verdict::Swallow),
            (b'1', Verdict::Swallow),
            (b'2', Verdict::Forward),
            (b'D', Verdict::Forward),
            (b'C', Verdict::Forward),
            (b'Z', Verdict::Forward),
        ] {
            assert_eq!(if tag == b'Z' { owed.ready() } else { owed.reply(tag) }, verdict, "{}", tag as char);
        }
        assert!(owed.at_rest());
    }

    #[test]
    fn an_open_batch_keeps_the_server_even_when_nothing_is_outstanding() {
        let mut owed = queue([Owed::Bind]);
        assert_eq!(owed.reply(b'2'), Verdict::Forward);
        assert!(owed.is_empty() && !owed.at_rest());
        owed.push(Owed::Sync);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn an_error_skips_to_sync_and_tells_what_was_skipped_latest_first() {
        let mut owed = queue([
            Owed::Parse(naming("a")),
            Owed::Bind,
            Owed::Kept(naming("b")),
            Owed::Sync,
            Owed::Query(None),
        ]);
        let mut skipped = Vec::new();
        assert_eq!(owed.error(|failed, owed| skipped.push((failed, owed))), Verdict::Forward);
        assert!(matches!(skipped[..], [(false, Owed::Kept(_)), (false, Owed::Bind), (true, Owed::Parse(_))]));
        assert_eq!(owed.ready(), Verdict::Forward);
        assert_eq!(owed.boundaries(), 1);
    }

    #[test]
    fn after_an_error_a_query_before_sync_earns_nothing() {
        let mut owed = queue([Owed::Bind, Owed::Query(None)]);
        assert_eq!(owed.error(|_, _| {}), Verdict::Forward);
        assert!(owed.is_empty() && !owed.at_rest());
        assert!(owed.push(Owed::Query(None)).is_some());
        assert!(owed.push(Owed::Execute).is_some());
        assert!(!owed.at_rest());
        assert!(owed.push(Owed::Sync).is_none());
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn an_error_in_a_simple_query_skips_nothing() {
        let mut owed = queue([Owed::Query(None), Owed::Query(None)]);
        assert_eq!(owed.error(|_, _| panic!("nothing is skipped")), Verdict::Forward);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn a_sync_during_copy_in_earns_nothing() {
        // libpq: Execute and Sync together, then the data, then CopyDone and another Sync.
        let mut owed = queue([Owed::Bind, Owed::Execute, Owed::Sync]);
        assert_eq!(owed.reply(b'2'), Verdict::Forward);
        assert_eq!(owed.reply(b'G'), Verdict::Forward);
        assert!(owed.copying_in());
        assert!(owed.push(Owed::Sync).is_none());
        owed.push(Owed::CopyEnd);
        owed.push(Owed::Sync);
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn two_copies_in_one_query_each_have_their_end() {
        let mut owed = queue([Owed::Query(None), Owed::CopyEnd, Owed::CopyEnd]);
        for tag in *b"GCGC" {
            assert_eq!(owed.reply(tag), Verdict::Forward);
        }
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn the_end_of_copy_data_after_an_error_is_nobodys() {
        let mut owed = queue([Owed::Query(None)]);
        assert_eq!(owed.reply(b'G'), Verdict::Forward);
        assert_eq!(owed.error(|_, _| {}), Verdict::Forward);
        owed.push(Owed::CopyEnd);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
        owed.push(Owed::CopyEnd);
        assert!(owed.at_rest());
    }

    #[test]
    fn what_the_server_never_saw_is_answered_in_its_place_only() {
        let mut owed = queue([Owed::Bind, Owed::Kept(naming("a")), Owed::Sync]);
        assert!(!owed.next_kept());
        assert_eq!(owed.reply(b'2'), Verdict::Forward);
        assert!(owed.next_kept());
        assert!(!owed.next_kept());
        assert_eq!(owed.ready(), Verdict::Forward);
    }

    #[test]
    fn a_name_is_unsettled_while_a_batch_that_has_ended_may_change_it() {
        let parse =
            Owed::Parse(Box::new(Naming { name: b"a"[..].into(), previous: None, prepares: Some(7) }));
        let mut owed = queue([parse]);
        assert!(owed.unsettled(b"a").is_none(), "what follows in the same batch fails together with it");
        owed.push(Owed::Sync);
        assert!(owed.unsettled(b"a").is_some_and(|(naming, told)| naming.prepares == Some(7) && told));
        assert!(owed.unsettled(b"b").is_none());
        owed.push(Owed::Kept(naming("b")));
        owed.push(Owed::Sync);
        assert!(owed.unsettled(b"b").is_some_and(|(_, told)| !told));
        assert_eq!(owed.confirming(), Some(7));
        assert_eq!(owed.reply(b'1'), Verdict::Forward);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.unsettled(b"a").is_none());
        assert!(owed.next_kept());
        assert_eq!((owed.ready(), owed.namings), (Verdict::Forward, 0));
    }

    #[test]
    fn a_question_of_pgvalets_own_that_fails_is_no_news_to_the_client() {
        let mut owed = queue([
            Owed::Question(b'1'),
            Owed::Question(b'2'),
            Owed::Names,
            Owed::Question(b'3'),
            Owed::OwnSync,
            Owed::Query(None),
        ]);
        assert_eq!(owed.reply(b'1'), Verdict::Swallow);
        assert_eq!(owed.reply(b'2'), Verdict::Swallow);
        let mut undone = Vec::new();
        let verdict = owed.error(|failed, owed| undone.push((failed, matches!(owed, Owed::Names))));
        assert_eq!((verdict, &undone[..]), (Verdict::Swallow, &[(false, false), (true, true)][..]));
        assert_eq!(owed.ready(), Verdict::Swallow);
        assert_eq!(owed.reply(b'C'), Verdict::Forward);
        assert_eq!(owed.ready(), Verdict::Forward);
        assert!(owed.at_rest());
    }

    #[test]
    fn a_reply_that_nothing_asked_for_is_a_violation() {
        assert_eq!(OwedQueue::default().reply(b'D'), Verdict::Violation);
        assert_eq!(OwedQueue::default().ready(), Verdict::Violation);
        assert_eq!(queue([Owed::Bind]).reply(b'1'), Verdict::Violation);
        assert_eq!(queue([Owed::Bind]).ready(), Verdict::Violation);
        assert_eq!(OwedQueue::default().error(|_, _| {}), Verdict::Violation);
    }
}
