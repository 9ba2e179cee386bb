//! Key words by what they do to the classifier.

/// What a key word does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    /// No key word, or one that reads like any name.
    None,
    /// Stands between expressions; a parenthesis behind it is no argument list.
    Between,
    /// Reserved, and ends a FROM list.
    EndsFrom,
    /// `WITHIN GROUP` is not GROUP BY.
    Within,
    /// `DO`: ends a FROM list; `DO UPDATE` is not an UPDATE.
    Do,
    /// `FOR`, `KEY`, `THEN`: what follows may be an UPDATE, INSERT or DELETE that starts no statement.
    For,
    /// See `For`.
    Key,
    /// See `For`.
    Then,
    Is,
    Not,
    Distinct,
    /// The DISTINCT of `IS [NOT] DISTINCT FROM`.
    IsDistinct,
    As,
    Only,
    Lateral,
    Select,
    Values,
    Table,
    With,
    From,
    Join,
    Into,
    Using,
    Insert,
    Update,
    Delete,
    Merge,
    Default,
    Returning,
    Cast,
}

/// Key words with their roles. Where a name can also be used for a column, treating it as a key word must not make the
/// classifier look at less.
pub(super) const KEYWORDS: &[(&str, Keyword)] = &[
    (
        "all and any asymmetric between both by case collate conflict cross else end escape filter full
         ilike in inner like isnull leading notnull of on operator or outer over partition preceding set sets
         similar some symmetric to trailing when rollup",
        Keyword::Between,
    ),
    ("where group having window order limit offset fetch union intersect except", Keyword::EndsFrom),
    ("within", Keyword::Within),
    ("do", Keyword::Do),
    ("for", Keyword::For),
    ("key", Keyword::Key),
    ("then", Keyword::Then),
    ("is", Keyword::Is),
    ("not", Keyword::Not),
    ("distinct", Keyword::Distinct),
    ("as", Keyword::As),
    ("only", Keyword::Only),
    ("lateral", Keyword::Lateral),
    ("select", Keyword::Select),
    ("values", Keyword::Values),
    ("table", Keyword::Table),
    ("with", Keyword::With),
    ("from", Keyword::From),
    ("join", Keyword::Join),
    ("into", Keyword::Into),
    ("using", Keyword::Using),
    ("insert", Keyword::Insert),
    ("update", Keyword::Update),
    ("delete", Keyword::Delete),
    ("merge", Keyword::Merge),
    ("default", Keyword::Default),
    ("returning", Keyword::Returning),
    ("cast", Keyword::Cast),
];
