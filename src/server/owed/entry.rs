//! The entries of the queue: what one message will be answered with.

use crate::session::Named;

/// What one message sent to the server, or kept from it, will be answered with.
#[derive(Debug)]
pub enum Owed {
    /// A client's Query: replies up to ReadyForQuery. With the unnamed statement that it destroys, unless it is skipped.
    Query(Option<Box<Named>>),
    /// A Query of pgvalet's own that brings the client's settings into force.
    Settings,
    /// A Query of pgvalet's own that puts the client's defaults in force behind a RESET, if that was done.
    Restore,
    /// A Query of pgvalet's own that asks what the session holds.
    Survey,
    /// A Query of pgvalet's own that has the server listen to the client's channels.
    Channels,
    /// A Query of pgvalet's own that is meant to fail, so that the transaction counts as failed.
    Failing,
    /// A Sync: ReadyForQuery.
    Sync,
    /// A FunctionCall: its result and ReadyForQuery.
    FunctionCall,
    /// A client's Parse: ParseComplete.
    Parse(Box<Naming>),
    /// A Parse of pgvalet's own for the statement of this id.
    Prepare(u64),
    /// A Bind: BindComplete.
    Bind,
    /// A Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// A Describe of pgvalet's own of which the client is to have the ParameterDescription only.
    DescribeParameters,
    /// A Describe of a portal: RowDescription or NoData.
    DescribePortal,
    /// An Execute: rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// A client's Close that went to the server: CloseComplete.
    Close,
    /// A Describe of pgvalet's own, of a statement that was just prepared: ParameterDescription, then RowDescription or
    /// NoData.
    Shape(Box<ShapeOf>),
    /// A message of pgvalet's own that is answered with this tag.
    Own(u8),
    /// A message of pgvalet's own that belongs to the question for the client's names, answered with this tag.
    Question(u8),
    /// An Execute of pgvalet's own that lists the statements which have names of the client's: DataRow, CommandComplete.
    Names,
    /// An Execute of pgvalet's own that tells which settings decide how a text is read now: DataRow, CommandComplete.
    InForce,
    /// A Sync of pgvalet's own, where no batch of the client's is open.
    OwnSync,
    /// A Close of pgvalet's own for the statement of this id.
    Evict(u64),
    /// A Close of a client's name, which the server never sees: pgvalet gives its CloseComplete.
    Kept(Box<Naming>),
    /// CopyData, any number in a row: no answer of its own, but if the COPY fails it matters on which side of it a Sync is.
    CopyData,
    /// So many Syncs between CopyData: ignored, unless the data before it has made the COPY fail.
    CopySyncs(usize),
    /// So many Syncs between the data of a COPY that has failed: each is answered or not, depending on where it failed.
    DoubtfulSyncs(usize),
    /// CopyDone or CopyFail: no answer of their own, but they end the stretch in which Sync earns none.
    CopyEnd,
}

/// Whose columns are asked for.
#[derive(Debug)]
pub struct ShapeOf {
    /// Id of the statement.
    pub id: u64,
    /// When it was prepared.
    pub stamp: u64,
    /// Why.
    pub purpose: Purpose,
}

/// Why the columns of a statement are asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The client has just prepared it under this name: these are its columns from now on.
    Prepared(Box<[u8]>),
    /// What needs it waits for the answer.
    Awaited,
    /// Only to know.
    Noted,
}

/// A change of a client's statement names, to be undone if the server never comes to it.
#[derive(Debug)]
pub struct Naming {
    /// The client's name; empty for the unnamed statement.
    pub name: Box<[u8]>,
    /// What the name stood for before.
    pub previous: Option<Named>,
    /// The statement that a Parse sent to the server prepares there under a name of ours.
    pub prepares: Option<u64>,
}

impl Owed {
    /// The change of the client's names that it stands for.
    #[must_use]
    pub fn naming(&self) -> Option<&Naming> {
        match self {
            Owed::Parse(naming) | Owed::Kept(naming) => Some(naming),
            _ => None,
        }
    }

    /// Whether it is a Query, Sync or FunctionCall of the client's: what ends with a ReadyForQuery for it.
    #[inline]
    pub(super) fn is_boundary(&self) -> bool {
        matches!(self, Owed::Query(_) | Owed::Sync | Owed::FunctionCall)
    }

    /// Whether a Sync ends what its error would have the server skip.
    #[inline]
    pub(super) fn ends_skipping(&self) -> bool {
        matches!(self, Owed::Sync | Owed::OwnSync)
    }

    /// Whether its error has the server skip what follows.
    #[inline]
    pub(super) fn can_skip(&self) -> bool {
        !self.is_own_query()
            && !matches!(self, Owed::Query(_) | Owed::FunctionCall | Owed::Sync | Owed::OwnSync)
    }

    /// Whether it is a Query of pgvalet's own: it ends with a ReadyForQuery, and neither opens nor ends a batch.
    #[inline]
    pub(super) fn is_own_query(&self) -> bool {
        matches!(self, Owed::Settings | Owed::Failing | Owed::Restore | Owed::Survey | Owed::Channels)
    }

    /// Whether it puts a statement under the empty name.
    #[inline]
    pub(super) fn puts_unnamed(&self) -> bool {
        match self {
            Owed::Prepare(id) => *id == 0,
            Owed::Parse(naming) => naming.name.is_empty(),
            _ => false,
        }
    }
}

/// How many entries of some kinds a queue holds, so that nobody has to walk it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Query, Sync and FunctionCall of the client's.
    pub(super) boundaries: usize,
    /// Syncs, pgvalet's own included.
    pub(super) syncs: usize,
    /// Those behind the last Sync whose error would have the server skip what follows.
    pub(super) after_sync: usize,
    /// Those that put a statement under the empty name.
    pub(super) unnamed: usize,
}

impl Counts {
    #[inline]
    pub(super) fn add(&mut self, owed: &Owed) {
        self.boundaries += usize::from(owed.is_boundary());
        self.unnamed += usize::from(owed.puts_unnamed());
        if owed.ends_skipping() {
            self.syncs += 1;
            self.after_sync = 0;
        } else {
            self.after_sync += usize::from(owed.can_skip());
        }
    }

    /// Counts an entry in that is no boundary, and whose error has the server skip what follows.
    #[inline]
    pub(super) fn add_skipping(&mut self) {
        self.after_sync += 1;
    }

    /// Counts such an entry out, which is the first.
    #[inline]
    pub(super) fn remove_skipping(&mut self) {
        self.after_sync -= usize::from(self.syncs == 0);
    }

    /// Counts out the first entry.
    #[inline]
    pub(super) fn remove(&mut self, owed: &Owed) {
        self.boundaries -= usize::from(owed.is_boundary());
        self.unnamed -= usize::from(owed.puts_unnamed());
        if owed.ends_skipping() {
            self.syncs -= 1;
        } else if self.syncs == 0 {
            self.after_sync -= usize::from(owed.can_skip());
        }
    }
}
