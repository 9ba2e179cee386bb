//! Whether a name is fine as what it stands for: a call, a type, a relation.

use super::{Chain, Last, Role, Scanner, SettingName, Unsure};
use crate::session::catalog::Write;
use crate::session::classify::names::{FUNCTION, STATEFUL, TYPE};
use crate::session::classify::{fold, is};
use crate::session::footprint::Footprint;
use crate::session::lexer::{Kind, MAX_IDENTIFIER, Token};

impl Scanner<'_, '_> {
    /// The name before a parenthesis is called.
    pub(super) fn call(&mut self) -> Result<(), Unsure> {
        let Chain { parts, qualifier, name, flags, .. } = self.chain;
        let built_in = parts == 2 && is_pg_catalog(qualifier);
        let mut buffer = [0; MAX_IDENTIFIER];
        if !built_in && (parts != 1 || self.facts.shadows(folded(name, &mut buffer))) {
            return Err(Unsure);
        }
        if flags & STATEFUL != 0 {
            let name = folded(name, &mut buffer);
            self.found = self.found.union(stateful(name).ok_or(Unsure)?);
            if name == b"set_config" {
                self.setting = SettingName::Name;
            }
        } else if flags & FUNCTION == 0 {
            return Err(Unsure);
        }
        Ok(())
    }

    /// What comes now does not belong to the name before, if there is one.
    #[inline]
    pub(super) fn end_chain(&mut self) -> Result<(), Unsure> {
        match self.last {
            Last::Name => self.resolve(),
            _ => Ok(()),
        }
    }

    /// The name before is no call: it must be fine as what it stands for.
    #[inline]
    pub(super) fn resolve(&mut self) -> Result<(), Unsure> {
        if self.chain.flags & STATEFUL != 0 {
            return Err(Unsure);
        }
        match std::mem::replace(&mut self.chain.role, Role::Plain) {
            Role::Plain | Role::Alias if self.chain.calls => Err(Unsure),
            Role::Plain | Role::Alias => Ok(()),
            Role::Type => self.end_type(),
            role => self.end_relation(role),
        }
    }

    fn end_type(&self) -> Result<(), Unsure> {
        let Chain { parts, qualifier, name, flags, .. } = self.chain;
        let built_in = flags & TYPE != 0 && (parts == 1 || is_pg_catalog(qualifier));
        let mut buffer = [0; MAX_IDENTIFIER];
        if built_in || name.text.is_ascii() && self.facts.type_known(folded(name, &mut buffer)) {
            Ok(())
        } else {
            Err(Unsure)
        }
    }

    fn end_relation(&mut self, role: Role) -> Result<(), Unsure> {
        let Chain { parts, name, .. } = self.chain;
        if !name.text.is_ascii() {
            // Its bytes depend on the client's encoding.
            return Err(Unsure);
        }
        let mut buffer = [0; MAX_IDENTIFIER];
        let folded_name = folded(name, &mut buffer);
        if role == Role::Read {
            let clean = parts == 1 && self.is_cte(folded_name) || self.facts.reads_clean(folded_name);
            return if clean { Ok(()) } else { Err(Unsure) };
        }
        match self.facts.writes(folded_name) {
            Write::Unclean => return Err(Unsure),
            Write::Sequence if self.inserts => self.found = self.found.union(Footprint::SEQUENCES),
            Write::Sequence => self.has_sequence = true,
            Write::Clean => {}
        }
        Ok(())
    }

    fn is_cte(&self, name: &[u8]) -> bool {
        let known = &self.ctes[..usize::from(self.cte_count)];
        known.iter().any(|&(cte, visible)| {
            let mut buffer = [0; MAX_IDENTIFIER];
            visible && folded(cte, &mut buffer) == name
        })
    }
}

fn is_pg_catalog(token: Token<'_>) -> bool {
    is(token, b"pg_catalog") || token.kind == Kind::Quoted && token.text == b"pg_catalog"
}

/// The name that PostgreSQL looks up.
pub(super) fn folded<'b>(token: Token<'_>, buffer: &'b mut [u8; MAX_IDENTIFIER]) -> &'b [u8] {
    if token.kind == Kind::Word {
        return fold(token.text, buffer);
    }
    let Some(exact) = buffer.get_mut(..token.text.len()) else { return b"" };
    exact.copy_from_slice(token.text);
    exact
}

/// What a built-in function leaves behind that has a reset of its own.
fn stateful(name: &[u8]) -> Option<Footprint> {
    match name {
        b"nextval" | b"setval" => Some(Footprint::SEQUENCES.union(Footprint::NEXTVAL)),
        b"currval" | b"lastval" => Some(Footprint::CURRVAL),
        b"set_config" => Some(Footprint::SETTINGS),
        b"pg_advisory_lock"
        | b"pg_advisory_lock_shared"
        | b"pg_try_advisory_lock"
        | b"pg_try_advisory_lock_shared"
        | b"pg_advisory_unlock"
        | b"pg_advisory_unlock_shared"
        | b"pg_advisory_unlock_all" => Some(Footprint::LOCKS),
        _ => None,
    }
}
