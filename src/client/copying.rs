//! A client's messages where its server skips to a Sync, reads COPY data, or owes very many replies.
//!
//! What PostgreSQL does with them depends on whether a COPY has failed that pgvalet has not heard of yet. Where that decides
//! what is answered, the client's messages wait until it is known.

use crate::client::relay::{Body, End, Relay};
use crate::client::upstream::Step;
use crate::error::{Error, Kind};
use crate::protocol::{ErrorFields, Header, frontend};
use crate::server::owed::{CopyWait, Owed};

/// The reason that a server is given when a COPY is ended in the client's place.
const BROKEN_OFF: &str = "pgvalet: the client has sent something that is no data";
/// The name of a statement that is nowhere.
const NOBODY: &[u8] = b"pgvalet_nobody";

impl Relay {
    /// A message where the server does not just do what it is told. `None` if it is like any other here.
    pub(super) fn special_message(&mut self, header: Header) -> Result<Option<Step>, End> {
        let Some(lease) = self.lease.as_mut() else { return Ok(None) };
        if header.tag == b'X' {
            return Ok(None);
        }
        if !lease.owed.is_skipping() && lease.owed.is_long(self.asked_for_replies) {
            self.ask_for_replies();
            return Ok(Some(Step::NeedReplies));
        }
        let wait = lease.owed.waits_for_copy();
        if wait != CopyWait::Answer && lease.owed.is_skipping() && header.tag != b'S' {
            // The server would ignore it.
            self.request = Body::Discard(header.total());
            self.continue_request();
            return Ok(Some(Step::Done));
        }
        let is_data = matches!(header.tag, b'd' | b'c' | b'f' | b'H' | b'S');
        let (is_open, may_have_failed) = (lease.owed.expects_copy_data(), lease.owed.copy_data_sent());
        match wait {
            CopyWait::Answer => return Ok(Some(Step::NeedReplies)),
            CopyWait::OutcomeUnlessData if is_data => return Ok(None),
            CopyWait::OutcomeUnlessData if is_open => self.break_off(),
            CopyWait::Outcome | CopyWait::OutcomeUnlessData => self.ask_for_replies(),
            CopyWait::No if is_data || !is_open => return Ok(None),
            CopyWait::No if may_have_failed => return self.leave_copy(header).map(Some),
            CopyWait::No => {
                // The server reads no further than its type, says so, and ends the connection.
                self.spoiled = true;
                self.pass(header);
                return Ok(Some(Step::Done));
            }
        }
        Ok(Some(Step::NeedReplies))
    }

    /// Something that is no data where the server reads data: it goes on if the COPY has failed already; else the server
    /// says what it thinks of that, and ends the connection.
    fn leave_copy(&mut self, header: Header) -> Result<Step, End> {
        if !self.is_ready(header) {
            return Ok(Step::NeedMore);
        }
        let step = self.forward_request(header)?;
        let Some(lease) = self.lease.as_mut() else { return Ok(step) };
        match step {
            // Nothing was sent that the server answers: no reply might ever come.
            Step::NeedReplies if lease.owed.ends_in_data() => self.break_off(),
            Step::Done | Step::NeedReplies => lease.owed.leave_copy(),
            Step::NeedMore | Step::NeedServer => {}
        }
        Ok(step)
    }

    /// Ends the COPY in the client's place, which has broken the protocol unless the COPY has failed already. What the
    /// server says then tells which.
    fn break_off(&mut self) {
        frontend::copy_fail(self.to_server.insert(&mut self.from_client), BROKEN_OFF);
        self.owe(Owed::CopyEnd);
    }

    /// What becomes of a client whose COPY was ended in its place, if this is the error of that.
    pub(super) fn is_broken_off(&self, error: &[u8]) -> Option<End> {
        let fields = ErrorFields::new(error);
        let reason = fields.get(b'M').filter(|_| fields.code() == b"57014")?;
        if !reason.windows(BROKEN_OFF.len()).any(|window| window == BROKEN_OFF.as_bytes()) {
            return None;
        }
        let tag = self.input().first().copied().unwrap_or_default();
        let text = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
        Some(End::Fatal(Error::new(Kind::ProtocolViolation, text)))
    }

    /// Asks the server, if a COPY has failed between whose data there are Syncs, something that it answers in any case.
    pub(super) fn ask_which_syncs_count(&mut self) {
        if self.request != Body::None {
            return;
        }
        let Some(behind_sync) = self.lease.as_mut().and_then(|lease| lease.owed.take_question()) else {
            return;
        };
        let out = self.to_server.insert(&mut self.from_client);
        if behind_sync {
            frontend::sync(out);
        }
        frontend::close_statement(out, NOBODY);
        frontend::sync(out);
    }
}
