//! Names and key words: what they do to the reader, and what has to follow.

use super::resolve::folded;
use super::{Chain, Clause, Expect, Frame, Last, MAX_CTES, Place, Role, Scanner, Unsure};
use crate::session::classify::is;
use crate::session::classify::keywords::Keyword;
use crate::session::classify::names::{self, Word};
use crate::session::lexer::{Kind, MAX_IDENTIFIER, Token};

impl<'a> Scanner<'a, '_> {
    #[inline]
    pub(super) fn name(&mut self, token: Token<'a>) -> Result<(), Unsure> {
        let hash = names::hash(token.text);
        let word = names::look_up(token.text, hash, token.kind == Kind::Quoted);
        match self.last {
            Last::Dot => return self.part(token, word, hash),
            Last::FieldDot => return Err(Unsure),
            _ => self.end_chain()?,
        }
        let labelled = self.last == Last::Keyword(Keyword::As) && self.expect == Expect::Nothing;
        let plain = match self.frame().clause {
            Clause::CteBody => false,
            Clause::ColumnName => true,
            _ => labelled,
        };
        let keyword = if plain { Keyword::None } else { word.keyword };
        if keyword == Keyword::None {
            self.check_name(token, hash)?;
        }
        match self.expect {
            Expect::Nothing if keyword != Keyword::None => return self.keyword(keyword),
            Expect::Nothing => self.plain(token, word, labelled)?,
            Expect::Cte => return self.cte_name(token, keyword),
            Expect::Type if keyword == Keyword::None => self.start_chain(Role::Type, token, word),
            Expect::Read if self.starts_subquery(keyword) => {
                self.expect = Expect::Nothing;
                return self.keyword(keyword);
            }
            Expect::Read | Expect::Write if keyword == Keyword::None => {
                if self.frame().clause == Clause::Start {
                    self.frame().clause = Clause::Joined;
                }
                let role = if self.expect == Expect::Read { Role::Read } else { Role::Write };
                self.start_chain(role, token, word);
            }
            Expect::Read | Expect::Write if keyword == Keyword::Only => {}
            Expect::Read if keyword == Keyword::Lateral => {}
            _ => return Err(Unsure),
        }
        if keyword == Keyword::None {
            self.expect = Expect::Nothing;
            self.last = Last::Name;
        }
        Ok(())
    }

    /// A further part of a qualified name.
    fn part(&mut self, token: Token<'a>, word: Word, hash: u32) -> Result<(), Unsure> {
        self.check_name(token, hash)?;
        let mut buffer = [0; MAX_IDENTIFIER];
        self.chain.calls =
            self.facts.may_be_attribute(hash) && self.facts.is_attribute(folded(token, &mut buffer));
        self.chain.parts = self.chain.parts.saturating_add(1);
        self.chain.qualifier = self.chain.name;
        self.chain.name = token;
        self.chain.flags = word.flags;
        self.last = Last::Name;
        Ok(())
    }

    /// No unsafe relation is named, in whatever place.
    #[inline]
    pub(super) fn check_name(&self, token: Token<'a>, hash: u32) -> Result<(), Unsure> {
        let mut buffer = [0; MAX_IDENTIFIER];
        let named = self.facts.may_be_unsafe(hash) && self.facts.is_unsafe(folded(token, &mut buffer));
        let foreign = self.facts.has_unsafe_non_ascii() && !token.text.is_ascii();
        if named || foreign { Err(Unsure) } else { Ok(()) }
    }

    fn starts_subquery(&self, keyword: Keyword) -> bool {
        let frame = self.frames[self.depth];
        frame.place == Place::Tables
            && frame.clause == Clause::Start
            && matches!(keyword, Keyword::Select | Keyword::Values | Keyword::With | Keyword::Table)
    }

    fn start_chain(&mut self, role: Role, token: Token<'a>, word: Word) {
        self.chain = Chain { role, parts: 1, qualifier: token, name: token, flags: word.flags, calls: false };
    }

    /// A name in an expression, or an alias.
    fn plain(&mut self, token: Token<'a>, word: Word, labelled: bool) -> Result<(), Unsure> {
        let frame = *self.frame();
        if self.last == Last::Keyword(Keyword::With)
            && !(is(token, b"time") || is(token, b"ordinality") || is(token, b"ties"))
        {
            return Err(Unsure);
        }
        let in_from = matches!(frame.clause, Clause::From | Clause::Joined);
        let role = match frame.clause {
            // A name that is followed by nothing of a name.
            Clause::CteBody if is(token, b"materialized") => Role::Plain,
            Clause::CteAs | Clause::CteBody | Clause::CteNext => return Err(Unsure),
            Clause::ColumnName => {
                self.frame().clause = Clause::ColumnType;
                Role::Plain
            }
            Clause::ColumnType => Role::Type,
            _ if labelled || in_from && matches!(self.last, Last::CallClose | Last::Close) => Role::Alias,
            _ => Role::Plain,
        };
        self.leave_start();
        self.start_chain(role, token, word);
        Ok(())
    }

    fn cte_name(&mut self, token: Token<'a>, keyword: Keyword) -> Result<(), Unsure> {
        if is(token, b"recursive") && self.last == Last::Keyword(Keyword::With) {
            self.frame().recursive = true;
            self.last = Last::Other;
            return Ok(());
        }
        let slot = usize::from(self.cte_count);
        if keyword != Keyword::None || slot == MAX_CTES || !token.text.is_ascii() {
            return Err(Unsure);
        }
        self.ctes[slot] = (token, self.frame().recursive);
        self.cte_count += 1;
        self.frame().clause = Clause::CteAs;
        self.expect = Expect::Nothing;
        // Not a name: a parenthesis behind it lists columns.
        self.last = Last::Other;
        Ok(())
    }

    fn keyword(&mut self, keyword: Keyword) -> Result<(), Unsure> {
        let before = self.last;
        self.last = Last::Keyword(keyword);
        let Frame { place, clause, .. } = *self.frame();
        match clause {
            Clause::CteAs if keyword != Keyword::As => return Err(Unsure),
            Clause::CteBody if keyword != Keyword::Not => return Err(Unsure),
            Clause::CteNext if !starts_main(keyword) => return Err(Unsure),
            _ if before == Last::Keyword(Keyword::With) => return Err(Unsure),
            _ => {}
        }
        match keyword {
            Keyword::Select => self.frame().clause = Clause::Targets,
            Keyword::Values | Keyword::Table => {
                if keyword == Keyword::Table {
                    self.expect = Expect::Read;
                }
                if matches!(clause, Clause::Start | Clause::Insert | Clause::CteNext) {
                    self.frame().clause = Clause::Rest;
                }
            }
            Keyword::With if clause == Clause::Start => {
                self.frame().clause = Clause::CteName;
                self.expect = Expect::Cte;
            }
            Keyword::With if clause == Clause::ColumnType => self.last = Last::Other,
            Keyword::Insert | Keyword::Update | Keyword::Delete | Keyword::Merge => {
                return self.change(keyword, before);
            }
            Keyword::From => return self.from(before),
            Keyword::Using => match clause {
                Clause::Delete => self.relations(Clause::From),
                Clause::Merge => self.relations(Clause::Joined),
                _ => {}
            },
            Keyword::Join if matches!(clause, Clause::From | Clause::Joined) => self.expect = Expect::Read,
            Keyword::Join => return Err(Unsure),
            Keyword::Into => match before {
                Last::Keyword(Keyword::Insert | Keyword::Merge) => self.expect = Expect::Write,
                _ => return Err(Unsure),
            },
            Keyword::As if clause == Clause::CteAs => self.frame().clause = Clause::CteBody,
            Keyword::As if place == Place::Cast => self.expect = Expect::Type,
            Keyword::Distinct if matches!(before, Last::Keyword(Keyword::Is | Keyword::Not)) => {
                self.last = Last::Keyword(Keyword::IsDistinct);
            }
            Keyword::Default => self.has_default = true,
            Keyword::EndsFrom if before == Last::Keyword(Keyword::Within) => {}
            Keyword::Returning if !matches!(place, Place::Statement | Place::Body) => return Err(Unsure),
            Keyword::Returning | Keyword::EndsFrom | Keyword::Do | Keyword::For => match clause {
                Clause::Start => self.frame().clause = Clause::Expression,
                Clause::Expression | Clause::ColumnName | Clause::ColumnType => {}
                _ => self.frame().clause = Clause::Rest,
            },
            _ => {}
        }
        if keyword != Keyword::With {
            self.leave_start();
        }
        Ok(())
    }

    fn relations(&mut self, clause: Clause) {
        self.frame().clause = clause;
        self.expect = Expect::Read;
    }

    fn from(&mut self, before: Last) -> Result<(), Unsure> {
        if before == Last::Keyword(Keyword::IsDistinct) {
            return Ok(());
        }
        let Frame { place, clause, .. } = *self.frame();
        match clause {
            Clause::Targets | Clause::Update => self.relations(Clause::From),
            Clause::Delete if before == Last::Keyword(Keyword::Delete) => self.expect = Expect::Write,
            Clause::Start | Clause::Expression if place == Place::Call => {
                self.leave_start();
            }
            _ => return Err(Unsure),
        }
        Ok(())
    }

    /// A statement that changes a relation, or the same word inside another statement.
    fn change(&mut self, keyword: Keyword, before: Last) -> Result<(), Unsure> {
        let Frame { place, clause, .. } = *self.frame();
        let starts = matches!(clause, Clause::Start | Clause::CteNext)
            && matches!(place, Place::Statement | Place::Body);
        if !starts {
            self.last = Last::Keyword(Keyword::Between);
            let inner =
                matches!(before, Last::Keyword(Keyword::Do | Keyword::For | Keyword::Key | Keyword::Then));
            // Rows that MERGE or an upsert makes come with their defaults.
            return if inner { Ok(()) } else { Err(Unsure) };
        }
        self.inserts = matches!(keyword, Keyword::Insert | Keyword::Merge);
        self.frame().clause = match keyword {
            Keyword::Insert => Clause::Insert,
            Keyword::Delete => Clause::Delete,
            Keyword::Merge => Clause::Merge,
            _ => {
                self.expect = Expect::Write;
                Clause::Update
            }
        };
        Ok(())
    }
}

fn starts_main(keyword: Keyword) -> bool {
    use Keyword::{Delete, Insert, Merge, Select, Table, Update, Values};
    matches!(keyword, Select | Values | Table | Insert | Update | Delete | Merge)
}
