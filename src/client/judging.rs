//! What a client's texts can leave behind in its server: asked of `session::classify` before they are sent.
//!
//! Owns no classification. Invariant: what cannot be judged counts as everything.

use crate::client::fault;
use crate::client::relay::Relay;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, frontend};
use crate::session::classify::classify;
use crate::session::resets::Resets;
use crate::session::sql_prepare::may_execute;
use crate::session::{Footprint, Statement};

/// What a text does that may set custom settings.
const MAY_NAME_SETTINGS: Footprint = Footprint::SETTINGS.union(Footprint::EVERYTHING);

impl Relay {
    /// Notes what a Query can leave behind. `false` while what it means depends on replies that have not come yet.
    #[inline]
    pub(super) fn judge_query(&mut self, header: Header) -> bool {
        self.sql_names.turn_away();
        let input = self.input();
        let found = if input.len() < header.total() {
            // Too long to be read whole.
            Footprint::EVERYTHING.union(Footprint::DDL)
        } else {
            let sql = frontend::read_query(&input[..header.total()]);
            fault::strike(sql);
            self.shard.with_facts(|generation, facts| match self.is_unsure() {
                true => classify(sql, facts, true),
                false => {
                    self.shard.shapes.borrow_mut().footprint(sql, generation, || classify(sql, facts, false))
                }
            })
        };
        if found.is_empty() {
            return true;
        }
        if found.contains(Footprint::STATEMENTS) || self.may_execute_by_code(header, found) {
            let sql = frontend::read_query(&self.input()[..header.total()]).to_vec();
            return self.judge_names(&sql, found, true);
        }
        if found.intersects(MAY_NAME_SETTINGS) {
            let end = header.total().min(self.input().len());
            let sql = self.input()[HEADER..end].to_vec();
            self.note_hints(&sql);
        }
        self.note_footprint(found);
        true
    }

    /// Whether code that a Query calls, and that is not known, may execute what the client has prepared: the text says so.
    fn may_execute_by_code(&self, header: Header, found: Footprint) -> bool {
        let input = self.input();
        found.contains(Footprint::EVERYTHING)
            && !self.statements.is_empty()
            && input.len() >= header.total()
            && may_execute(frontend::read_query(&input[..header.total()]))
    }

    /// What a Query that was just judged resets of what the client logged in with.
    #[inline]
    pub(super) fn query_resets(&self, header: Header) -> Option<Resets> {
        let input = self.input();
        if self.startup.is_empty() || !self.footprint.can_set() || input.len() < header.total() {
            return None;
        }
        let resets = self.resets_of(frontend::read_query(&input[..header.total()]), self.footprint);
        (!resets.is_empty()).then_some(resets)
    }

    /// The rest of the judgement of a text that concerns statements of SQL's.
    fn judge_names(&mut self, sql: &[u8], found: Footprint, in_query: bool) -> bool {
        if found.intersects(MAY_NAME_SETTINGS) {
            self.note_hints(sql);
        }
        self.note_prepared_names(sql);
        self.note_executed_hints(sql);
        let met = self.meet_names(sql, found, in_query);
        if met {
            // A portal is executed later: by then the name may stand for something else.
            let resolved = if in_query { self.resolve_executed(sql, found) } else { found };
            self.note_footprint(resolved);
        }
        met
    }

    /// Notes what executing a statement can leave behind. `false` while what it means depends on replies that have not
    /// come yet.
    pub(super) fn judge_statement(&mut self, statement: &Statement) -> bool {
        self.sql_names.turn_away();
        let found = self.shard.with_facts(|generation, facts| match self.is_unsure() {
            true => classify(statement.text(), facts, true),
            false => statement.footprint(generation, |sql| classify(sql, facts, false)),
        });
        if found.is_empty() {
            return true;
        }
        let by_code = || found.contains(Footprint::EVERYTHING) && may_execute(statement.text());
        if found.contains(Footprint::STATEMENTS) || !self.statements.is_empty() && by_code() {
            return self.judge_names(statement.text(), found, false);
        }
        let resets = self.resets_of(statement.text(), found);
        if !resets.is_empty() {
            self.note_bound_resets(resets);
        }
        if found.intersects(MAY_NAME_SETTINGS) {
            self.note_hints(statement.text());
            self.note_bound_names(statement.text());
        }
        self.note_footprint(found);
        true
    }

    /// The Bind that comes next may give set_config the name of a custom setting.
    fn note_bound_names(&mut self, text: &[u8]) {
        let is_setter = |window: &[u8]| window.eq_ignore_ascii_case(b"set_config");
        if !text.windows(10).any(is_setter) {
            return;
        }
        if let Ok(Some(header)) = Header::parse(self.input())
            && header.tag == b'B'
        {
            let end = header.total().min(self.input().len());
            let values = self.input()[HEADER..end].to_vec();
            self.note_bound_values(&values);
        }
    }

    pub(super) fn note_footprint(&mut self, found: Footprint) {
        self.footprint = self.footprint.union(found);
        // It may be the encoding that is set, or what a backslash is: what follows in the pipeline may be in another one.
        if found.can_set() || found.contains(Footprint::LOCAL_SETTINGS) {
            self.doubt_reading();
        }
    }
}
