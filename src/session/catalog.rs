//! What the catalog of a database says about code that runs without being named: triggers, defaults, views, policies,
//! operators, casts, types.
//!
//! Owns the query that asks ([`PROBE_SQL`]) and the facts made of its rows. It does not run the query, and does not know
//! when it is time to ask again. A name is clean only if every relation of that name, in whatever schema, is clean, so
//! the search path does not matter. What is not in the facts is unknown, and unknown is never clean.

use super::classify::names;
use super::lexer::MAX_IDENTIFIER;
use foldhash::fast::RandomState;
use std::collections::{HashMap, HashSet};

/// One query for the simple protocol, for PostgreSQL 14 and later, as any user: rows for [`CatalogFacts::from_rows`].
///
/// Each name and operator in it has its schema, so no search path can make it run someone's code.
pub const PROBE_SQL: &str = include_str!("catalog/probe.sql");

type Names = HashSet<Box<[u8]>, RandomState>;

/// What is known of one database. Immutable.
#[derive(Debug, Clone, Default)]
pub struct CatalogFacts {
    known: bool,
    operators_clean: bool,
    relations: HashMap<Box<[u8]>, Write, RandomState>,
    /// Relations that are not clean to read.
    unsafe_relations: Names,
    /// Functions that a whitelisted name could mean.
    shadows: Names,
    /// Functions that `x.name` could call.
    attributes: Names,
    types: Names,
    unsafe_filter: Filter,
    attribute_filter: Filter,
    non_ascii: bool,
}

/// What writing to a relation can leave behind, if reading it is clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Write {
    Clean,
    /// A default takes a value from a sequence.
    Sequence,
    Unclean,
}

impl CatalogFacts {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> CatalogFacts {
        CatalogFacts::default()
    }

    /// Whether the catalog has been read. A database too large to be read stays unknown.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// What the rows of [`PROBE_SQL`] say; a NULL may come as an empty text. Rows of another form: nothing.
    #[must_use]
    pub fn from_rows(rows: &[Vec<String>]) -> CatalogFacts {
        Builder::read(rows).map_or_else(CatalogFacts::unknown, Builder::finish)
    }

    /// Whether no operator, cast or type can run code that may leave something behind.
    pub(super) fn operators_clean(&self) -> bool {
        self.operators_clean
    }

    /// Whether each relation called `name` is known, and reading it runs nothing unknown. `name` is folded already.
    pub(super) fn reads_clean(&self, name: &[u8]) -> bool {
        self.relations.contains_key(name)
    }

    /// The same for writing.
    pub(super) fn writes(&self, name: &[u8]) -> Write {
        self.relations.get(name).copied().unwrap_or(Write::Unclean)
    }

    /// Whether a user's function called `name` may be meant.
    pub(super) fn shadows(&self, name: &[u8]) -> bool {
        !self.shadows.is_empty() && self.shadows.contains(name)
    }

    /// Whether a user's type called `name` is known.
    pub(super) fn type_known(&self, name: &[u8]) -> bool {
        self.types.contains(name)
    }

    /// Whether [`is_unsafe`](CatalogFacts::is_unsafe) is worth asking for a name with this hash.
    #[inline]
    pub(super) fn may_be_unsafe(&self, hash: u32) -> bool {
        self.unsafe_filter.contains(hash)
    }

    /// Whether `name` is a relation that is not clean to read.
    pub(super) fn is_unsafe(&self, name: &[u8]) -> bool {
        self.unsafe_relations.contains(name)
    }

    /// Whether [`is_attribute`](CatalogFacts::is_attribute) is worth asking for a name with this hash.
    #[inline]
    pub(super) fn may_be_attribute(&self, hash: u32) -> bool {
        self.attribute_filter.contains(hash)
    }

    /// Whether `x.name` can call a user's function.
    pub(super) fn is_attribute(&self, name: &[u8]) -> bool {
        self.attributes.contains(name)
    }

    /// Whether a name that is not ASCII, and so cannot be compared over encodings, may be unsafe.
    pub(super) fn has_unsafe_non_ascii(&self) -> bool {
        self.non_ascii
    }
}

/// Says quickly that most names are not in a small set.
#[derive(Debug, Clone)]
struct Filter([u64; 64]);

impl Default for Filter {
    fn default() -> Filter {
        Filter([0; 64])
    }
}

impl Filter {
    fn insert(&mut self, name: &[u8]) {
        let hash = names::hash(name);
        self.0[hash as usize >> 6 & 63] |= 1 << (hash & 63);
    }

    #[inline]
    fn contains(&self, hash: u32) -> bool {
        self.0[hash as usize >> 6 & 63] >> (hash & 63) & 1 == 1
    }
}

/// A relation while the rows are put together.
#[derive(Debug, Clone)]
struct Relation {
    name: String,
    read_unclean: bool,
    write_unclean: bool,
    sequence: bool,
}

impl Relation {
    fn mark(&mut self, flags: &str) {
        self.read_unclean |= flags.contains('r');
        self.write_unclean |= flags.contains('w');
        self.sequence |= flags.contains('s');
    }
}

#[derive(Default)]
struct Builder {
    facts: CatalogFacts,
    relations: HashMap<u32, Relation, RandomState>,
    marks: Vec<(u32, String)>,
    /// What makes its second unclean, too, if its first is: (from, to, to read as well).
    spread: Vec<(u32, u32, bool)>,
}

impl Builder {
    /// `None`: the rows are not those of the probe, or the database is too large.
    fn read(rows: &[Vec<String>]) -> Option<Builder> {
        let mut builder = Builder::default();
        builder.facts.operators_clean = true;
        for row in rows {
            let [kind, name, id, flags] = row.as_slice() else { return None };
            match kind.as_str() {
                "size" if name == "fits" => builder.facts.known = true,
                "relation" => {
                    let mut relation = Relation {
                        name: name.clone(),
                        read_unclean: false,
                        write_unclean: false,
                        sequence: false,
                    };
                    relation.mark(flags);
                    builder.relations.insert(id.parse().ok()?, relation);
                }
                "mark" => builder.marks.push((id.parse().ok()?, flags.clone())),
                "inherits" => {
                    // Reading and writing reach the children; conditions and keys of a parent reach the parts.
                    let (parent, child) = (id.parse().ok()?, flags.parse().ok()?);
                    builder.spread.extend([(parent, child, true), (child, parent, true)]);
                }
                "cascade" => builder.spread.push((flags.parse().ok()?, id.parse().ok()?, false)),
                "function" => builder.function(name, flags.contains('a')),
                "type" => {
                    builder.facts.types.insert(name.as_bytes().into());
                }
                "dirty" => builder.facts.operators_clean = false,
                _ => return None,
            }
        }
        builder.facts.known.then_some(builder)
    }

    fn function(&mut self, name: &str, attribute: bool) {
        let bytes = name.as_bytes();
        if names::is_keyword(bytes) {
            // A call of it could be taken for syntax.
            self.facts.operators_clean = false;
        }
        if names::is_function(bytes) {
            self.facts.shadows.insert(bytes.into());
        }
        if attribute {
            self.facts.attributes.insert(bytes.into());
            self.facts.attribute_filter.insert(bytes);
            self.facts.non_ascii |= !name.is_ascii();
        }
    }

    fn finish(mut self) -> CatalogFacts {
        for (id, flags) in std::mem::take(&mut self.marks) {
            if let Some(relation) = self.relations.get_mut(&id) {
                relation.mark(&flags);
            }
        }
        self.spread();
        let mut facts = self.facts;
        for relation in self.relations.into_values() {
            let name = relation.name.as_bytes();
            if relation.read_unclean || name.len() > MAX_IDENTIFIER {
                facts.unsafe_relations.insert(name.into());
                facts.unsafe_filter.insert(name);
                facts.non_ascii |= !name.is_ascii();
                continue;
            }
            let write = match relation {
                Relation { write_unclean: true, .. } => Write::Unclean,
                Relation { sequence: true, .. } => Write::Sequence,
                _ => Write::Clean,
            };
            let known = facts.relations.entry(name.into()).or_insert(write);
            *known = write.max(*known);
        }
        let unsafe_relations = &facts.unsafe_relations;
        facts.relations.retain(|name, _| !unsafe_relations.contains(name));
        facts
    }

    /// Lets what is unclean make its neighbours unclean.
    fn spread(&mut self) {
        let mut neighbours: HashMap<u32, Vec<(u32, bool)>, RandomState> = HashMap::default();
        for &(from, to, reads) in &self.spread {
            neighbours.entry(from).or_default().push((to, reads));
        }
        let unclean = |relation: &Relation| relation.read_unclean || relation.write_unclean;
        let mut left: Vec<u32> =
            self.relations.iter().filter(|(_, relation)| unclean(relation)).map(|(&id, _)| id).collect();
        while let Some(from) = left.pop() {
            let Some(relation) = self.relations.get(&from) else { continue };
            let (read, write) = (relation.read_unclean, relation.write_unclean);
            for &(to, reads) in neighbours.get(&from).into_iter().flatten() {
                let Some(next) = self.relations.get_mut(&to) else { continue };
                let before = (next.read_unclean, next.write_unclean);
                next.read_unclean |= reads && read;
                next.write_unclean |= write || read;
                if before != (next.read_unclean, next.write_unclean) {
                    left.push(to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(rows: &[[&str; 4]]) -> CatalogFacts {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect();
        CatalogFacts::from_rows(&rows)
    }

    #[test]
    fn rows_of_another_form_and_large_databases_are_unknown() {
        assert!(!facts(&[]).is_known());
        assert!(!facts(&[["size", "too many", "", ""]]).is_known());
        assert!(!facts(&[["size", "fits", "", ""], ["relation", "t", "x", ""]]).is_known());
        assert!(!facts(&[["size", "fits", "", ""], ["what", "", "", ""]]).is_known());
        assert!(!CatalogFacts::from_rows(&[vec!["size".into()]]).is_known());
        assert!(facts(&[["size", "fits", "", ""]]).is_known());
    }

    #[test]
    fn a_name_is_as_clean_as_the_worst_relation_of_that_name() {
        let facts = facts(&[
            ["size", "fits", "", ""],
            ["relation", "t", "1", ""],
            ["relation", "t", "2", "w"],
            ["relation", "v", "3", "rw"],
            ["relation", "v", "4", ""],
            ["relation", "clean", "5", ""],
            ["mark", "", "5", "s"],
        ]);
        assert!(facts.reads_clean(b"t") && facts.writes(b"t") == Write::Unclean);
        assert!(!facts.reads_clean(b"v") && facts.is_unsafe(b"v") && facts.may_be_unsafe(names::hash(b"V")));
        assert_eq!(facts.writes(b"clean"), Write::Sequence);
        assert!(!facts.reads_clean(b"missing"));
    }

    #[test]
    fn what_is_unclean_spreads_over_partitions_and_cascades() {
        let facts = facts(&[
            ["size", "fits", "", ""],
            ["relation", "top", "1", ""],
            ["relation", "part", "2", ""],
            ["relation", "other_part", "3", ""],
            ["relation", "referenced", "4", ""],
            ["relation", "referencing", "5", ""],
            ["inherits", "", "1", "2"],
            ["inherits", "", "1", "3"],
            ["cascade", "", "4", "1"],
            ["cascade", "", "1", "5"],
            ["mark", "", "2", "w"],
        ]);
        for name in ["top", "part", "other_part", "referenced"] {
            assert!(facts.reads_clean(name.as_bytes()), "{name}");
            assert_eq!(facts.writes(name.as_bytes()), Write::Unclean, "{name}");
        }
        assert_eq!(facts.writes(b"referencing"), Write::Clean);
    }

    #[test]
    fn a_function_named_like_syntax_makes_everything_unknown() {
        assert!(facts(&[["size", "fits", "", ""], ["function", "f", "", "a"]]).operators_clean());
        assert!(!facts(&[["size", "fits", "", ""], ["function", "join", "", ""]]).operators_clean());
        assert!(facts(&[["size", "fits", "", ""], ["function", "lower", "", ""]]).shadows(b"lower"));
    }
}
