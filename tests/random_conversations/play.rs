//! Plays a conversation on one side: to PostgreSQL itself, or to a pooler.
//!
//! Steps are sent in the order of the script. Whoever can be answered is waited for before the next step; a client for
//! which no server is free is not, so that the others go on and free one. Nothing here depends on how long anything
//! takes: a reply that does not come within the deadline will never come.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::ledger::Ledger;
use super::script::{Action, Cuts, Leaving, Message, Script, Step, clip};
use super::vocabulary;
use crate::support::backend;
use crate::support::differential::Side;
use crate::support::wire::{Client, Writer};

/// What one client saw.
pub type Transcript = Vec<Entry>;

/// Something in a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Opened,
    /// The replies that follow answer this message.
    Sent(String),
    Received(backend::Message),
    Left,
    /// The connection ended though nobody ended it.
    Ended,
    Failed(String),
}

/// How far a play goes in parallel, and for how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Servers that clients can hold at once.
    pub servers: usize,
    pub deadline: Duration,
    pub cut: bool,
    /// The first so many clients may keep the server on which they have made something.
    pub keepers: usize,
}

/// Plays the script; what each of its clients saw.
pub fn play(script: &Script, side: &Side, limits: Limits) -> Vec<Transcript> {
    let (sender, events) = channel();
    let seats = (0..script.clients).map(|client| Seat::new(client < limits.keepers)).collect();
    let mut player = Player { side, limits, seats, sender, events, broken: false };
    for step in &script.steps {
        player.submit(step.clone());
        player.go_on();
    }
    for client in 0..script.clients {
        let action = Action::Send(vec![
            Message::CopyFail("that was all".into()),
            Message::Sync,
            Message::Query("ROLLBACK".into()),
        ]);
        player.submit(Step { client, action, cuts: Cuts::Whole, eager: false });
    }
    player.go_on();
    player.end();
    player.seats.into_iter().map(|seat| seat.transcript).collect()
}

struct Player<'a> {
    side: &'a Side,
    limits: Limits,
    seats: Vec<Seat>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// Something did not come in time: there is no use in going on.
    broken: bool,
}

/// A client of the script: its session, if it has one at the moment, and all that it saw.
struct Seat {
    session: Option<Session>,
    /// How many sessions it has had.
    generation: usize,
    transcript: Transcript,
    deferred: VecDeque<Step>,
    may_keep: bool,
    /// Sent together with what comes next: alone they would take a server and nobody could see it.
    held_back: Vec<Message>,
}

struct Session {
    writer: Writer,
    ledger: Ledger,
    /// Replies that came before anyone could be sure of them, such as an early error.
    inbox: VecDeque<backend::Message>,
    said_goodbye: bool,
    pid: i32,
    /// It may have something that only its server has.
    keeps: bool,
}

/// What the reader of a session has to tell.
struct Event {
    client: usize,
    generation: usize,
    what: io::Result<Option<backend::Message>>,
}

impl Seat {
    fn new(may_keep: bool) -> Self {
        Self {
            may_keep,
            session: None,
            generation: 0,
            transcript: Vec::new(),
            deferred: VecDeque::new(),
            held_back: Vec::new(),
        }
    }

    /// Whether it waits for a reply. Takes those that have come, and notes which of its messages they answer.
    fn is_waiting(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        let transcript = &mut self.transcript;
        while session
            .ledger
            .is_due(|message| transcript.push(Entry::Sent(clip(&format!("{message:?}"), 160))))
        {
            let Some(reply) = session.inbox.pop_front() else { return true };
            session.ledger.received(&reply);
            transcript.push(Entry::Received(comparable(reply, session.pid)));
        }
        false
    }

    /// The session has ended: whatever it said last counts.
    fn close(&mut self, last: Entry) {
        self.is_waiting();
        let (rest, pid) = self.session.take().map(|session| (session.inbox, session.pid)).unwrap_or_default();
        self.transcript.extend(rest.into_iter().map(|message| Entry::Received(comparable(message, pid))));
        self.held_back.clear();
        self.transcript.push(last);
    }

    fn holds(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.keeps || session.ledger.holds())
    }
}

impl Player<'_> {
    /// Does what the step says, or puts it off until the client has its replies.
    fn submit(&mut self, step: Step) {
        let seat = &mut self.seats[step.client];
        let must_wait = seat.is_waiting() && !(step.eager && matches!(step.action, Action::Send(_)));
        if must_wait || !seat.deferred.is_empty() {
            seat.deferred.push_back(step);
        } else {
            self.start(step);
        }
    }

    fn start(&mut self, step: Step) {
        if self.seats[step.client].session.is_none() {
            self.open(step.client);
        }
        let seat = &mut self.seats[step.client];
        let Some(session) = &mut seat.session else { return };
        match &step.action {
            Action::Send(messages) => {
                seat.held_back.extend(messages.iter().cloned());
                let takes_a_server_unseen = !session.ledger.would_answer(&seat.held_back);
                if takes_a_server_unseen && !session.ledger.holds() {
                    return;
                }
                let messages = std::mem::take(&mut seat.held_back);
                session.keeps |= seat.may_keep && messages.iter().any(may_keep);
                session.ledger.sent(&messages);
                let bytes: Vec<u8> = messages.iter().flat_map(Message::encode).collect();
                let cuts = if self.limits.cut { step.cuts } else { Cuts::Whole };
                // A connection that has ended says so to its reader.
                cuts.cut(&bytes).into_iter().all(|piece| session.writer.send(piece).is_ok());
            }
            Action::Leave(leaving) => {
                if session.ledger.has_undone() {
                    // Let the server come to all that it was sent: what a sequence gives is not taken back.
                    let flush = Step { action: Action::Send(vec![Message::Flush]), ..step.clone() };
                    seat.deferred.push_front(step);
                    self.start(flush);
                    return;
                }
                match leaving {
                    Leaving::Terminate => drop(session.writer.send(&crate::support::frontend::terminate())),
                    Leaving::Close => {}
                    Leaving::Within(message, count) => drop(session.writer.send(&message.encode()[..*count])),
                }
                session.writer.close();
                seat.session = None;
                seat.held_back.clear();
                seat.transcript.push(Entry::Left);
            }
        }
    }

    fn open(&mut self, client: usize) {
        let seat = &mut self.seats[client];
        seat.generation += 1;
        seat.transcript.push(Entry::Opened);
        let mut connection = match Client::login(&self.side.endpoint, &self.side.login) {
            Ok(connection) => connection,
            Err(error) => {
                seat.transcript.push(Entry::Failed(error.to_string()));
                self.broken = true;
                return;
            }
        };
        connection.set_deadline(Duration::from_secs(3600));
        seat.session = Some(Session {
            pid: connection.pid(),
            keeps: false,
            writer: connection.writer(),
            ledger: Ledger::new(),
            inbox: VecDeque::new(),
            said_goodbye: false,
        });
        let (sender, generation) = (self.sender.clone(), seat.generation);
        std::thread::spawn(move || {
            loop {
                let what = connection.try_recv();
                let is_last = !matches!(what, Ok(Some(_)));
                if sender.send(Event { client, generation, what }).is_err() || is_last {
                    return;
                }
            }
        });
    }

    /// Waits for replies, and takes the steps that they make possible, until there is nothing to wait for or nobody is
    /// sure to get a server.
    fn go_on(&mut self) {
        while !self.broken {
            for client in 0..self.seats.len() {
                while !self.seats[client].is_waiting()
                    && let Some(step) = self.seats[client].deferred.pop_front()
                {
                    self.start(step);
                }
            }
            let (mut waiting, mut holding) = (0, 0);
            for seat in &mut self.seats {
                if seat.is_waiting() {
                    waiting += 1;
                } else if seat.holds() {
                    holding += 1;
                }
            }
            if waiting == 0 || holding >= self.limits.servers {
                return;
            }
            self.take_event();
        }
    }

    fn take_event(&mut self) {
        match self.events.recv_timeout(self.limits.deadline) {
            Ok(event) => self.take(event),
            Err(RecvTimeoutError::Timeout) => {
                self.broken = true;
                for seat in &mut self.seats {
                    if seat.is_waiting() {
                        seat.transcript.push(Entry::Failed("nothing came".into()));
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("the player keeps a sender"),
        }
    }

    fn take(&mut self, event: Event) {
        let seat = &mut self.seats[event.client];
        let is_current = seat.session.is_some() && seat.generation == event.generation;
        let Some(session) = seat.session.as_mut().filter(|_| is_current) else { return };
        match event.what {
            Ok(Some(message)) => session.inbox.push_back(message),
            Ok(None) | Err(_) => {
                let was_told = session.said_goodbye;
                seat.close(if was_told { Entry::Left } else { Entry::Ended });
            }
        }
    }

    /// Says goodbye; whatever comes until the connections have ended counts.
    fn end(&mut self) {
        for seat in &mut self.seats {
            if let Some(session) = &mut seat.session {
                session.said_goodbye = true;
                let _ = session.writer.send(&crate::support::frontend::terminate());
            }
        }
        while !self.broken && self.seats.iter().any(|seat| seat.session.is_some()) {
            self.take_event_of_the_end();
        }
        for seat in &mut self.seats {
            if let Some(session) = seat.session.take() {
                session.writer.close();
            }
        }
    }

    fn take_event_of_the_end(&mut self) {
        match self.events.recv_timeout(self.limits.deadline) {
            Ok(event) => self.take(event),
            Err(_) => {
                self.broken = true;
                for seat in self.seats.iter_mut().filter(|seat| seat.session.is_some()) {
                    seat.transcript.push(Entry::Failed("the connection did not end".into()));
                }
            }
        }
    }
}

/// Whether a message may make what keeps its client on a server.
fn may_keep(message: &Message) -> bool {
    matches!(message, Message::Query(sql) | Message::Parse { sql, .. } if vocabulary::may_keep(sql))
}

/// The message without what need not be the same in two plays: the object id of a table that was made anew, and the place
/// in the source of PostgreSQL that an error comes from (a Bind can be refused by the Parse that is sent in front of it). Of
/// who has notified something only stays whether it is the client itself, whose process id is `own`.
fn comparable(mut message: backend::Message, own: i32) -> backend::Message {
    if message.tag == b'A'
        && let Some(pid) = message.body.first_chunk_mut::<4>()
    {
        *pid = i32::from(*pid == own.to_be_bytes()).to_be_bytes();
    }
    if matches!(message.tag, b'E' | b'N') {
        let fields = message.body.split(|byte| *byte == 0);
        let kept = fields.filter(|field| !matches!(field, [b'F' | b'L' | b'R', ..]));
        message.body = kept.collect::<Vec<_>>().join(&0);
    }
    if message.tag == b'T' {
        let mut at = 2;
        while let Some(length) = message.body[at.min(message.body.len())..].iter().position(|byte| *byte == 0)
        {
            let oid = at + length + 1;
            let Some(bytes) = message.body.get_mut(oid..oid + 4) else { break };
            if bytes != [0; 4] {
                bytes.copy_from_slice(&1_u32.to_be_bytes());
            }
            at = oid + 18;
        }
    }
    message
}
