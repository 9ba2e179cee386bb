//! What statements can leave behind in their server's session, and the least that undoes it.
//!
//! Owns the kinds of session state and their reset. It does not know how a statement is judged (`classify`) or how a
//! reset is run. A kind of state that has no exact reset of its own takes the full one.

use std::borrow::Cow;

/// A set of kinds of session state. Sets of several statements are joined with [`union`](Footprint::union).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Footprint(u32);

impl Footprint {
    /// Nothing at all.
    pub const NOTHING: Footprint = Footprint(0);
    /// Any setting.
    pub const SETTINGS: Footprint = Footprint(1 << 0);
    /// A setting that every supported version of PostgreSQL reports when it changes. It follows its client without
    /// anyone reading SQL, so it needs no reset.
    pub const FOLLOWED_SETTINGS: Footprint = Footprint(1 << 1);
    /// What `currval` and `lastval` answer.
    pub const SEQUENCES: Footprint = Footprint(1 << 2);
    /// Temporary objects.
    pub const TEMP: Footprint = Footprint(1 << 3);
    /// Statements made, dropped or run by SQL. Those that are left are known by name.
    pub const STATEMENTS: Footprint = Footprint(1 << 4);
    /// Cursors `WITH HOLD`.
    pub const CURSORS: Footprint = Footprint(1 << 5);
    /// Session-level advisory locks.
    pub const LOCKS: Footprint = Footprint(1 << 6);
    /// Channels listened to.
    pub const LISTEN: Footprint = Footprint(1 << 7);
    /// The role or the session authorization.
    pub const ROLE: Footprint = Footprint(1 << 8);
    /// The catalog may have changed: what was known of it is void once the transaction has committed. No session state.
    pub const DDL: Footprint = Footprint(1 << 9);
    /// Whatever a session can hold: the statement was not understood.
    pub const EVERYTHING: Footprint = Footprint(1 << 10);
    /// A statement runs that was prepared elsewhere: whatever that can leave behind.
    pub const EXECUTES: Footprint = Footprint(1 << 11);
    /// A setting, for the transaction only. No session state.
    pub const LOCAL_SETTINGS: Footprint = Footprint(1 << 12);

    /// `nextval` or `setval` was called by name: the client may ask for `currval` later.
    pub const NEXTVAL: Footprint = Footprint(1 << 13);
    /// `currval` or `lastval` is asked for. No session state.
    pub const CURRVAL: Footprint = Footprint(1 << 14);
    /// What nothing undoes: a library was loaded, the random generator has a seed.
    pub const LASTING: Footprint = Footprint(1 << 15);

    /// Settings that no other server may take: of superusers, set by a role that the session has left since, and such.
    pub const STUCK_SETTINGS: Footprint = Footprint(1 << 16);

    /// What is asked of the server before it goes to others: it alone knows what has come of it.
    pub const SURVEYED: Footprint = Footprint(
        Footprint::SETTINGS.0
            | Footprint::ROLE.0
            | Footprint::EVERYTHING.0
            | Footprint::EXECUTES.0
            | Footprint::TEMP.0
            | Footprint::LOCKS.0
            | Footprint::CURSORS.0
            | Footprint::LISTEN.0,
    );
    /// What such a survey answers for good: nothing of it is left that is not known.
    pub const SETTLED_BY_SURVEY: Footprint =
        Footprint(Footprint::SURVEYED.0 & !Footprint::EVERYTHING.0 & !Footprint::EXECUTES.0)
            .union(Footprint::STUCK_SETTINGS);
    /// State that keeps a client on its server for as long as it lives.
    pub const PINS: Footprint = Footprint(
        Footprint::TEMP.0
            | Footprint::LOCKS.0
            | Footprint::CURSORS.0
            | Footprint::LISTEN.0
            | Footprint::SEQUENCES.0
            | Footprint::LASTING.0
            | Footprint::STUCK_SETTINGS.0,
    );

    /// Where a setting may be in force that no server reports.
    pub const UNREPORTED: Footprint = Footprint(
        Footprint::SETTINGS.0 | Footprint::LOCAL_SETTINGS.0 | Footprint::ROLE.0 | Footprint::EVERYTHING.0,
    );
    /// What needs no reset.
    const STATELESS: Footprint = Footprint(
        Footprint::FOLLOWED_SETTINGS.0
            | Footprint::DDL.0
            | Footprint::LOCAL_SETTINGS.0
            | Footprint::NEXTVAL.0
            | Footprint::CURRVAL.0,
    );

    /// The names that [`reasons`](Footprint::reasons) can give, in its order.
    pub const ALL_REASONS: &'static [&'static str] = &[
        "settings",
        "followed_settings",
        "sequences",
        "temp",
        "statements",
        "cursors",
        "locks",
        "listen",
        "role",
        "ddl",
        "everything",
        "executes",
        "local_settings",
        "nextval",
        "currval",
        "lasting",
        "stuck_settings",
    ];

    /// The set that [`bits`](Footprint::bits) gave; bits without a meaning are dropped.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Footprint {
        Footprint(bits & ((1 << Footprint::ALL_REASONS.len()) - 1))
    }

    /// The set as a number, for caches.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Footprint) -> Footprint {
        Footprint(self.0 | other.0)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub const fn without(self, other: Footprint) -> Footprint {
        Footprint(self.0 & !other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Footprint) -> Footprint {
        Footprint(self.0 & other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn contains(self, other: Footprint) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether anything of `other` is in it.
    #[must_use]
    pub const fn intersects(self, other: Footprint) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the server is as new without any reset.
    #[must_use]
    pub const fn is_stateless(self) -> bool {
        self.0 & !Footprint::STATELESS.0 == 0
    }

    /// Whether what ran can have changed a setting that PostgreSQL reports.
    #[must_use]
    pub const fn can_set(self) -> bool {
        let setters = Footprint::SETTINGS.0
            | Footprint::FOLLOWED_SETTINGS.0
            | Footprint::ROLE.0
            | Footprint::EVERYTHING.0
            | Footprint::EXECUTES.0;
        self.0 & setters != 0
    }

    /// What is in it, as names for metrics and logs.
    pub fn reasons(self) -> impl Iterator<Item = &'static str> {
        let names = Footprint::ALL_REASONS.iter().enumerate();
        names.filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, &name)| name)
    }

    /// The least that makes the server as new.
    #[must_use]
    pub fn reset_plan(self) -> ResetPlan {
        if self.is_stateless() {
            return ResetPlan::Nothing;
        }
        let mut left = self.0 & !Footprint::STATELESS.0;
        let mut statements = Vec::new();
        for &(kind, statement) in COMPONENTS {
            if self.contains(kind) {
                left &= !kind.0;
                statements.push(statement.into());
            }
        }
        if left == 0 { ResetPlan::Components(statements) } else { ResetPlan::Full }
    }
}

/// Kinds of state with a reset that is exact and touches nothing else. `CLOSE` comes first: a cursor can hold on to a
/// temporary table.
const COMPONENTS: &[(Footprint, &str)] = &[
    (Footprint::CURSORS, "CLOSE ALL"),
    (Footprint::LISTEN, "UNLISTEN *"),
    (Footprint::LOCKS, "SELECT pg_catalog.pg_advisory_unlock_all()"),
    (Footprint::TEMP, "DISCARD TEMP"),
    (Footprint::SEQUENCES, "DISCARD SEQUENCES"),
];

/// What makes a server as new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetPlan {
    /// Nothing has to be done.
    Nothing,
    /// These statements, in this order; they may be joined by `;` into one simple Query.
    Components(Vec<Cow<'static, str>>),
    /// The same where they stand for `DISCARD ALL`: a server may be made as new by that instead.
    Sparing(Vec<Cow<'static, str>>),
    /// `DISCARD ALL`, which PostgreSQL takes only in a Query of its own.
    Full,
}

impl ResetPlan {
    /// What `DISCARD ALL` stands for (DISCARD in PostgreSQL's manual) but for prepared statements and their plans, which
    /// clients share.
    #[must_use]
    pub fn sparing() -> ResetPlan {
        let session = ["SET SESSION AUTHORIZATION DEFAULT", "RESET ALL"];
        let components = COMPONENTS.iter().map(|&(_, statement)| statement);
        ResetPlan::Sparing(session.into_iter().chain(components).map(Cow::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_its_client_and_ddl_need_no_reset() {
        let footprint = Footprint::FOLLOWED_SETTINGS.union(Footprint::DDL);
        assert!(footprint.is_stateless());
        assert_eq!(footprint.reset_plan(), ResetPlan::Nothing);
        assert_eq!(Footprint::NOTHING.reset_plan(), ResetPlan::Nothing);
    }

    #[test]
    fn components_are_used_only_if_they_cover_everything() {
        let both = Footprint::SEQUENCES.union(Footprint::LISTEN).union(Footprint::FOLLOWED_SETTINGS);
        assert_eq!(
            both.reset_plan(),
            ResetPlan::Components(vec!["UNLISTEN *".into(), "DISCARD SEQUENCES".into()])
        );
        assert_eq!(both.union(Footprint::SETTINGS).reset_plan(), ResetPlan::Full);
        for alone in [Footprint::SETTINGS, Footprint::ROLE, Footprint::STATEMENTS, Footprint::EVERYTHING] {
            assert_eq!(alone.reset_plan(), ResetPlan::Full);
        }
    }

    #[test]
    fn each_bit_has_its_name() {
        let all = Footprint::from_bits(u32::MAX);
        assert_eq!(all.reasons().collect::<Vec<_>>(), Footprint::ALL_REASONS);
        assert_eq!(Footprint::EVERYTHING.reasons().collect::<Vec<_>>(), ["everything"]);
        assert_eq!(Footprint::SETTINGS.reasons().collect::<Vec<_>>(), ["settings"]);
        assert_eq!(Footprint::DDL.reasons().collect::<Vec<_>>(), ["ddl"]);
    }
}
