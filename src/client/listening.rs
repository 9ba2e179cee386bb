//! A client that listens: its notifications, and how listening goes from its server to the shared listener.
//!
//! LISTEN takes effect on the server that the client has, which brings the notifications itself for a moment. When the
//! survey shows channels there, the shared listener is asked for them; when it hears them, the server is told to put a
//! marker between the notifications. Everything before the marker comes from the server, everything behind it from the
//! listener, so nothing is lost or shown twice; then the server goes back to its pool. From then on each server that the
//! client is lent listens to the same channels for as long as it has it: so LISTEN, UNLISTEN and what functions do of the
//! kind mean what they mean in PostgreSQL, the next survey shows what came of it, and what the client notifies itself is
//! known to be its own.

use crate::client::mailbox::Subscription;
use crate::client::relay::{Body, End, Leaving, Relay};
use crate::config::{Listen, ListenerLost};
use crate::error::{Error, Kind};
use crate::exchange::Notification;
use crate::moment::Moment;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, backend, frontend};
use crate::server::owed::Owed;
use crate::session::Footprint;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

/// Channels beyond which a client keeps its server instead.
const MAX_CHANNELS: usize = 1000;
/// Bytes of notifications that are put together before they are written.
const CHUNK: usize = 64 << 10;
/// How long an answer waits for the client's own notifications.
const HOLD: Duration = Duration::from_secs(1);
/// How long the listener has to see the marker. It never will if it is not connected to the client's server at all, but to
/// another host of the database.
const SIGHT: Duration = Duration::from_secs(5);
/// The client's own notifications that are remembered while they are on their way.
const MAX_OWN: usize = 1000;

/// What may change the channels that a session listens to.
const CHANGES_CHANNELS: Footprint = Footprint::LISTEN.union(Footprint::EVERYTHING).union(Footprint::EXECUTES);

/// A client that listens otherwise than on a server that it keeps.
#[derive(Debug)]
pub(super) struct Listening {
    subscription: Subscription,
    /// What the client listens to.
    channels: BTreeSet<Arc<str>>,
    /// Of these, what the listener brings.
    live: BTreeSet<Arc<str>>,
    handover: Handover,
    /// What the client itself has notified, as its server has shown it, in order.
    own: VecDeque<Own>,
    /// Until when an answer is held back for that.
    held_until: Option<Moment>,
    /// How many answers of the client's ended while it listened like this.
    answered: u64,
    /// The answer by which its server has shown what the listener brought first, if the client has notified that itself.
    shown_by: Option<u64>,
}

/// A notification of the client's server that is not told yet.
#[derive(Debug)]
enum Own {
    /// The listener has yet to bring it.
    Expected(Notification),
    /// It comes behind one that the listener has yet to bring.
    Here(Notification),
}

/// Channels that only the client's server listens to as yet.
#[derive(Debug)]
enum Handover {
    /// There are none.
    None,
    /// The listener was asked for these.
    Asked(Vec<Arc<str>>),
    /// It listens, and the server was told to set a marker.
    Marking {
        channels: Vec<Arc<str>>,
        marker: Arc<str>,
        token: String,
        /// Whether the server has shown it.
        is_set: bool,
        /// What the server has shown behind it: the listener's, if it sees the marker too.
        behind: Vec<Notification>,
        /// Until when it has to.
        until: Moment,
    },
    /// The server would not set one.
    Failed,
}

/// Who listens for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ears {
    /// The shared listener, to everything.
    Shared,
    /// The client's server, until the listener has taken over.
    Moving,
    /// The client's server.
    Own,
}

impl Relay {
    /// Takes note of the channels that the server listens to, which are the client's.
    pub(super) fn note_channels(&mut self, found: Vec<String>) {
        let found: BTreeSet<Arc<str>> = found.into_iter().map(Into::into).collect();
        if found.is_empty() {
            self.listening = None;
            return;
        }
        if self.listening.is_none() {
            if !self.may_share_listener() || found.len() > MAX_CHANNELS {
                return;
            }
            let context = &self.context;
            let subscription = Subscription::new(
                &self.shard.pool,
                context.worker,
                &context.mailroom,
                &context.process.exchange,
                &self.cell,
            );
            self.listening = Some(Box::new(Listening {
                subscription,
                channels: BTreeSet::new(),
                live: BTreeSet::new(),
                handover: Handover::None,
                own: VecDeque::new(),
                held_until: None,
                answered: 0,
                shown_by: None,
            }));
        }
        let Some(listening) = &mut self.listening else { return };
        listening.live.retain(|name| found.contains(name));
        let limit = self.shard.with_policy(|policy| policy.notification_buffer);
        listening.subscription.want(&found, &self.shard.pool, limit);
        listening.channels = found;
        if let Handover::Marking { channels, .. } = &mut listening.handover {
            // First that comes to its end.
            channels.retain(|name| listening.channels.contains(name));
        } else {
            listening.plan_handover();
        }
    }

    /// Whether what a shared listener hears is what the client would: channels and payloads come in UTF-8.
    fn may_share_listener(&self) -> bool {
        let Some(lease) = &self.lease else { return false };
        let of_server = lease.reported.get(b"server_encoding").unwrap_or_default();
        let of_client = self.told.get(b"client_encoding").unwrap_or_default();
        let is_readable = of_client == b"UTF8"
            || of_server == b"SQL_ASCII"
            || of_client == b"SQL_ASCII" && of_server == b"UTF8";
        is_readable && self.shard.with_policy(|policy| policy.listen) == Listen::Shared
    }

    /// Has the server that was just lent listen to what the client listens to.
    #[inline]
    pub(super) fn bring_channels(&mut self) {
        if self.listening.is_some() {
            self.send_channels();
        }
    }

    fn send_channels(&mut self) {
        let (Some(listening), Some(lease)) = (&self.listening, &mut self.lease) else { return };
        let converts = lease.reported.get(b"server_encoding") != Some(b"SQL_ASCII");
        let mut sql = String::new();
        for name in &listening.live {
            let _ = write!(sql, "LISTEN {};", quote(name, converts));
        }
        if sql.is_empty() {
            return;
        }
        frontend::query(self.to_server.insert(&mut self.from_client), &sql);
        lease.owed.push(Owed::Channels);
        self.left = self.left.union(Footprint::LISTEN);
    }

    /// A NotificationResponse of the client's server, complete.
    pub(super) fn notification(&mut self, header: Header) {
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let (Some(lease), Some((pid, channel, payload))) = (&self.lease, backend::read_notification(body))
        else {
            return self.pass_reply(header);
        };
        let is_own = pid == lease.key.pid;
        if let Some(listening) = &mut self.listening
            && listening.is_told_elsewhere(pid, channel, payload, is_own)
        {
            return self.drop_reply(header);
        }
        let told = told_pid(pid, is_own, self.cell.key.pid);
        if told == pid {
            return self.pass_reply(header);
        }
        let (channel, payload) = (channel.to_vec(), payload.to_vec());
        self.drop_reply(header);
        backend::notification(self.to_client.insert(&mut self.from_server), told, &channel, &payload);
    }

    /// A ReadyForQuery of this status is the next message for the client: what was notified goes in front of it. Whether it
    /// has to wait for what the client has notified itself.
    pub(super) fn holds_ready(&mut self, status: TxStatus) -> bool {
        let is_ours = self.lease.as_ref().is_none_or(|lease| lease.owed.swallowing());
        if is_ours {
            return false;
        }
        let holds = self.holds_answer(status);
        if !holds && let Some(listening) = &mut self.listening {
            listening.answered += 1;
        }
        holds
    }

    fn holds_answer(&mut self, status: TxStatus) -> bool {
        let Some(listening) = &self.listening else { return false };
        if status != TxStatus::Idle {
            return false;
        }
        if listening.own.is_empty() && self.footprint.intersects(CHANGES_CHANNELS) {
            // It may not listen any more; the survey shows it.
            return false;
        }
        self.tell_notifications();
        let Some(listening) = &mut self.listening else { return false };
        let is_over = listening.held_until.is_some_and(|until| until <= Moment::now());
        if listening.own.is_empty() || is_over || listening.subscription.gap().is_some() {
            let rest = std::mem::take(&mut listening.own);
            listening.held_until = None;
            self.is_holding = false;
            for own in rest {
                if let Own::Here(notification) = own {
                    self.tell(&notification, self.told_from(&notification));
                }
            }
            return false;
        }
        if listening.held_until.is_none() {
            listening.held_until = Some(Moment::now() + HOLD);
            let cell = self.cell.clone();
            tokio::task::spawn_local(async move {
                crate::alarm::sleep(HOLD).await;
                cell.summon();
            });
        }
        (self.is_holding, self.server_dry) = (true, true);
        true
    }

    /// Passes on what has come for the client, as much as may wait to be written.
    pub(super) fn tell_notifications(&mut self) {
        let mut count = 0;
        while self.to_client.spilled() < CHUNK
            && !self.is_overtaken()
            && let Some(listening) = &mut self.listening
            && let Some(notification) = listening.subscription.take()
        {
            listening.shown_by = None;
            let at = listening.own.iter().position(|own| own.is_expected(&notification));
            if let Some(at) = at {
                listening.own.remove(at);
            }
            self.tell(&notification, told_pid(notification.pid, at.is_some(), self.cell.key.pid));
            count += 1;
            while let Some(listening) = &mut self.listening
                && let Some(Own::Here(_)) = listening.own.front()
                && let Some(Own::Here(notification)) = listening.own.pop_front()
            {
                self.tell(&notification, self.told_from(&notification));
            }
        }
        if count > 0 {
            self.shard.counters().notifications.add(count);
        }
    }

    /// Whether the listener was faster with what comes next than the client's server: a statement of the client's further
    /// behind may have notified that itself, and it is told with the answer to that. If another client did, when it had this
    /// server, the server does not show it with what the client has sent so far.
    fn is_overtaken(&mut self) -> bool {
        let (Some(listening), Some(lease)) = (&mut self.listening, &self.lease) else { return false };
        let Some(next) = listening.subscription.peek().filter(|next| next.pid == lease.key.pid) else {
            return false;
        };
        if listening.own.iter().any(|own| own.is_expected(&next)) {
            return false;
        }
        let last = listening.answered + lease.owed.boundaries() as u64;
        listening.answered + 1 < *listening.shown_by.get_or_insert(last)
    }

    fn tell(&mut self, notification: &Notification, pid: i32) {
        let out = self.to_client.insert(&mut self.from_server);
        backend::notification(out, pid, &notification.channel, &notification.payload);
    }

    /// The process id that the client is told for a notification of its server.
    fn told_from(&self, notification: &Notification) -> i32 {
        let is_own = self.lease.as_ref().is_some_and(|lease| lease.key.pid == notification.pid);
        told_pid(notification.pid, is_own, self.cell.key.pid)
    }

    /// Listens to the listener: there is something to tell, or its standing has changed.
    pub(super) fn hear_listener(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let was_waiting = self.listening.as_ref().is_some_and(|listening| listening.is_waiting());
        self.face_gap()?;
        if self.is_holding {
            // Its ReadyForQuery is looked at once more.
            (self.is_holding, self.server_dry) = (false, false);
            self.flush_client(cx)?;
            self.scan_server()?;
        } else if was_waiting && self.lease.is_some() && self.is_at_rest() {
            // The listener hears what it was asked for, or cannot.
            self.settle()?;
        }
        while self.is_at_rest() && self.has_mail() {
            if !self.to_client.is_empty() {
                self.flush_client(cx)?;
                if !self.to_client.is_empty() {
                    break;
                }
            }
            self.tell_notifications();
        }
        self.face_gap()?;
        if self.is_holding || self.has_mail() || self.has_gap() {
            // Whatever wakes the client next, it looks again.
            self.cell.stay_summoned();
        }
        Ok(())
    }

    /// What came while the server was asked something can be told now.
    pub(super) fn look_for_mail(&self) {
        if self.has_mail() || self.has_gap() {
            self.cell.summon();
        }
    }

    fn has_mail(&self) -> bool {
        self.listening.as_ref().is_some_and(|listening| !listening.subscription.is_empty())
    }

    fn has_gap(&self) -> bool {
        self.listening.as_ref().is_some_and(|listening| listening.subscription.gap().is_some())
    }

    /// Whether PostgreSQL would deliver notifications now: between messages, outside a transaction, with nothing asked.
    fn is_at_rest(&self) -> bool {
        let is_free = match &self.lease {
            Some(lease) => {
                lease.is_free()
                    && self.survey.is_none()
                    && self.request == Body::None
                    && self.to_server.is_empty()
            }
            None => !self.skip_to_sync && self.lost.is_none(),
        };
        is_free && self.reply == Body::None && matches!(self.leaving, Leaving::No | Leaving::Draining)
    }

    /// The listener was lost: what that means for the client.
    fn face_gap(&mut self) -> Result<(), End> {
        let Some(listening) = &mut self.listening else { return Ok(()) };
        let Some(gap) = listening.subscription.gap() else { return Ok(()) };
        let has_lost = !listening.live.is_empty() || matches!(listening.handover, Handover::Marking { .. });
        let keeps = self.shard.with_policy(|policy| policy.listener_lost) == ListenerLost::Keep;
        if has_lost && (gap.is_final || !keeps) {
            if self.is_at_rest() {
                let error = Error::new(
                    Kind::ServerLost,
                    "the connection that listens for this client was lost: it may have missed notifications",
                )
                .detail(&*gap.reason)
                .hint("Reconnect, LISTEN again, then look at what the notifications are about.");
                return Err(End::Fatal(error));
            }
            return Ok(());
        }
        listening.subscription.expect_no_more();
        listening.subscription.forgive();
        if gap.is_final {
            // It has nothing to lose, and its server listens for it.
            self.listening = None;
        }
        Ok(())
    }

    /// Who listens for the client, as things stand. The server is free.
    pub(super) fn ears(&mut self) -> Ears {
        let Some(listening) = &mut self.listening else { return Ears::Own };
        if let Handover::Marking { channels, is_set: true, until, .. } = &mut listening.handover {
            if !listening.subscription.is_expecting() {
                listening.live.extend(std::mem::take(channels));
                listening.plan_handover();
            } else if *until <= Moment::now() {
                self.marker_failed();
                return Ears::Own;
            }
        }
        match &listening.handover {
            Handover::None => Ears::Shared,
            Handover::Marking { .. } => Ears::Moving,
            Handover::Asked(_) if listening.subscription.is_unavailable() => Ears::Own,
            Handover::Asked(_) => Ears::Moving,
            Handover::Failed => Ears::Own,
        }
    }

    /// Has the server set the marker, if the listener is ready for it.
    pub(super) fn move_ears(&mut self) {
        let Some(listening) = &mut self.listening else { return };
        let (Handover::Asked(channels), Some(marker)) =
            (&mut listening.handover, listening.subscription.marker())
        else {
            return;
        };
        let channels = std::mem::take(channels);
        let token = listening.subscription.expect(channels.clone());
        let question = format!("LISTEN {0};NOTIFY {0}, '{token}'", quote(&marker, true));
        let until = Moment::now() + SIGHT;
        listening.handover =
            Handover::Marking { channels, marker, token, is_set: false, behind: Vec::new(), until };
        let cell = self.cell.clone();
        tokio::task::spawn_local(async move {
            crate::alarm::sleep(SIGHT).await;
            cell.summon();
        });
        self.ask_for_marker(question);
    }

    /// The marker is no channel of the client's: the server stops to listen to it once it has shown it.
    pub(super) fn forget_marker(&mut self) {
        let Some(listening) = &self.listening else { return };
        let (Handover::Marking { marker, .. }, Some(lease)) = (&listening.handover, &mut self.lease) else {
            return;
        };
        let sql = format!("UNLISTEN {}", quote(marker, true));
        frontend::query(self.to_server.insert(&mut self.from_client), &sql);
        lease.owed.push(Owed::Channels);
    }

    /// The server would not set the marker, or the listener does not see it.
    pub(super) fn marker_failed(&mut self) {
        if let Some(listening) = &mut self.listening
            && let Handover::Marking { behind, .. } = &mut listening.handover
        {
            let behind = std::mem::take(behind);
            // The listener will not bring them.
            listening.own.retain(|own| !matches!(own, Own::Expected(expected) if behind.contains(expected)));
            listening.subscription.expect_nothing();
            tracing::warn!(
                peer = %self.cell.peer(),
                database = &*self.cell.database,
                user = &*self.cell.user,
                "listening could not be moved to the shared listener: the client keeps its server"
            );
            listening.handover = Handover::Failed;
            for notification in behind {
                self.tell(&notification, self.told_from(&notification));
            }
        }
    }

    /// Whether the client's server listens to something that nobody else does.
    pub(super) fn listens_here(&self) -> bool {
        self.listening.as_ref().is_some_and(|listening| !matches!(listening.handover, Handover::None))
    }
}

impl Own {
    fn is_expected(&self, notification: &Notification) -> bool {
        matches!(self, Own::Expected(expected) if expected == notification)
    }
}

impl Listening {
    /// Whether a notification of the client's server is not to be told now: it is the marker, or the listener brings it, or
    /// it comes behind one that the listener has yet to bring. What the client has notified itself is remembered.
    fn is_told_elsewhere(&mut self, pid: i32, channel: &[u8], payload: &[u8], is_own: bool) -> bool {
        let notification = || Notification { pid, channel: channel.into(), payload: payload.into() };
        if let Handover::Marking { channels, marker, token, is_set, behind, until } = &mut self.handover {
            if channel == marker.as_bytes() {
                *is_set |= payload == token.as_bytes();
                return true;
            }
            if *is_set && channels.iter().any(|name| name.as_bytes() == channel) {
                behind.push(notification());
                if is_own {
                    self.own.push_back(Own::Expected(notification()));
                }
                if behind.len() > MAX_OWN {
                    *until = Moment::now();
                }
                return true;
            }
        }
        if !has(&self.live, channel) {
            let is_behind = !self.own.is_empty();
            if is_behind {
                self.own.push_back(Own::Here(notification()));
            }
            return is_behind;
        }
        if is_own && self.own.len() < MAX_OWN {
            self.own.push_back(Own::Expected(notification()));
        }
        true
    }

    /// What only the server listens to is to go over.
    fn plan_handover(&mut self) {
        let here: Vec<Arc<str>> = self.channels.difference(&self.live).cloned().collect();
        self.handover = if here.is_empty() { Handover::None } else { Handover::Asked(here) };
    }

    /// Whether the listener was asked for something.
    fn is_waiting(&self) -> bool {
        matches!(self.handover, Handover::Asked(_) | Handover::Marking { .. })
    }
}

/// The process id that a client is told: its own for what it has notified itself, which is how libpq tells it, and nobody
/// else's may be taken for that.
fn told_pid(pid: i32, is_own: bool, of_client: i32) -> i32 {
    match () {
        () if is_own => of_client,
        () if pid == of_client => 0,
        () => pid,
    }
}

fn has(channels: &BTreeSet<Arc<str>>, name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| channels.contains(name))
}

/// A channel's name as SQL has it; in ASCII if the server `converts`, since it does not know the client's encoding yet.
fn quote(name: &str, converts: bool) -> String {
    let quoted = name.replace('"', "\"\"");
    if !converts || name.is_ascii() {
        return format!("\"{quoted}\"");
    }
    let mut escaped = String::from("U&\"");
    for character in quoted.chars() {
        let _ = match character {
            '\\' => write!(escaped, "\\\\"),
            character if character.is_ascii() => write!(escaped, "{character}"),
            character => write!(escaped, "\\+{:06X}", u32::from(character)),
        };
    }
    escaped.push('"');
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ascii_where_encodings_matter() {
        assert_eq!(quote("a\"b\\", true), "\"a\"\"b\\\"");
        assert_eq!(quote("\u{e9}\"\\\u{1f600}", true), "U&\"\\+0000E9\"\"\\\\\\+01F600\"");
        assert_eq!(quote("\u{e9}", false), "\"\u{e9}\"");
    }

    #[test]
    fn nobody_elses_notification_looks_like_the_clients_own() {
        assert_eq!(told_pid(4711, true, 3), 3);
        assert_eq!(told_pid(4711, false, 3), 4711);
        assert_eq!(told_pid(3, false, 3), 0);
    }
}
