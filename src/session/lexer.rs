//! A zero-copy lexer for SQL as PostgreSQL reads it (`scan.l`).
//!
//! Owns where tokens begin and end, not what they mean. It gives up ([`Kind::Unknown`]) wherever versions or settings of
//! PostgreSQL could disagree on that: `U&` forms, numbers that run into letters, identifiers that would be cut off. So it
//! does on what depends on settings that the caller is not sure of. After `Unknown` it only says `Unknown`.

/// PostgreSQL cuts identifiers off at this length (`NAMEDATALEN - 1`).
pub const MAX_IDENTIFIER: usize = 63;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted identifier or key word, as written: not folded.
    Word,
    /// A quoted identifier, without its quotes; nothing in it needs unescaping.
    Quoted,
    /// A string, bit string or dollar-quoted string.
    String,
    /// A number.
    Number,
    /// `$1`.
    Param,
    /// An operator, also `*`, `=`, `=>` and `:=`.
    Operator,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// `:` alone, as in a slice.
    Colon,
    /// `::`
    Cast,
    /// What this lexer does not read with certainty.
    Unknown,
    /// The end of the text.
    End,
}

/// A token and its text.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// As written; of a quoted identifier what is between the quotes.
    pub text: &'a [u8],
}

/// Reads tokens from a text that does not include its terminating NUL.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    /// Nothing more can be told.
    lost: bool,
    /// A backslash in a plain string may be an escape.
    unsure: bool,
    /// Identifiers may need unescaping or cutting.
    lenient: bool,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `sql`.
    ///
    /// `unsure`: the client's encoding may have characters whose later bytes can be ASCII (SJIS, BIG5, GBK, UHC,
    /// GB18030, JOHAB, SHIFT_JIS_2004), or `standard_conforming_strings` may be off; any byte above 0x7f is then
    /// `Unknown`, and so is a plain string with a backslash.
    #[must_use]
    pub fn new(sql: &'a [u8], unsure: bool) -> Lexer<'a> {
        Lexer { sql, at: 0, lost: unsure && !sql.is_ascii(), unsure, lenient: false }
    }

    /// The same for callers who unescape and cut identifiers themselves: they come as written, quotes in them doubled. They
    /// must be sure of the encoding, and of `standard_conforming_strings` where the text has a backslash.
    #[must_use]
    pub fn lenient(sql: &'a [u8]) -> Lexer<'a> {
        Lexer { lenient: true, ..Lexer::new(sql, false) }
    }

    /// Where the next token, or the blanks before it, begin.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.sql[self.at..]
    }

    /// The next token.
    #[inline]
    pub fn next_token(&mut self) -> Token<'a> {
        if self.lost || !self.skip_blank() {
            return self.unknown();
        }
        let start = self.at;
        let Some(&first) = self.sql.get(start) else { return Token { kind: Kind::End, text: &[] } };
        match CLASSES[first as usize] {
            Class::Letter => self.word(start),
            Class::Digit => self.number(start),
            Class::Operator => self.operator(start),
            Class::Single(kind) => self.emit(kind, start, start + 1),
            Class::Dot if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) => self.number(start),
            Class::Dot if self.peek(1) == Some(b'.') => self.unknown(),
            Class::Dot => self.emit(Kind::Dot, start, start + 1),
            Class::Colon => match self.peek(1) {
                Some(b':') => self.emit(Kind::Cast, start, start + 2),
                Some(b'=') => self.emit(Kind::Operator, start, start + 2),
                _ => self.emit(Kind::Colon, start, start + 1),
            },
            Class::Quote => self.string(start + 1, false),
            Class::DoubleQuote => self.quoted(start + 1),
            Class::Dollar => self.dollar(start),
            Class::Blank | Class::Other => self.unknown(),
        }
    }

    /// Skips blanks and comments; `false` if a comment does not end.
    #[inline]
    fn skip_blank(&mut self) -> bool {
        loop {
            match self.peek(0) {
                Some(b' ' | b'\t' | b'\n' | b'\r' | b'\x0c') => self.at += 1,
                Some(b'-') if self.peek(1) == Some(b'-') => {
                    let rest = &self.sql[self.at..];
                    let line = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    self.at += line.unwrap_or(rest.len());
                }
                Some(b'/') if self.peek(1) == Some(b'*') => {
                    if !self.skip_comment() {
                        return false;
                    }
                }
                _ => return true,
            }
        }
    }

    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return false,
            }
        }
    }

    #[inline]
    fn word(&mut self, start: usize) -> Token<'a> {
        let rest = &self.sql[start..];
        let length = rest.iter().position(|&byte| !CONTINUES[byte as usize]).unwrap_or(rest.len());
        if length > MAX_IDENTIFIER && !self.lenient {
            return self.unknown();
        }
        if length == 1 {
            // A letter directly before a quote starts another kind of string.
            match (rest[0], rest.get(1), rest.get(2)) {
                (b'e' | b'E', Some(b'\''), _) => return self.string(start + 2, true),
                (b'b' | b'B' | b'x' | b'X', Some(b'\''), _) => return self.string(start + 2, false),
                (b'u' | b'U', Some(b'&'), Some(b'\'' | b'"')) => return self.unknown(),
                _ => {}
            }
        }
        self.emit(Kind::Word, start, start + length)
    }

    /// Digits, at most one point, an exponent. Letters right behind are read differently by different versions.
    fn number(&mut self, start: usize) -> Token<'a> {
        self.skip_digits();
        if self.peek(0) == Some(b'.') {
            self.at += 1;
            self.skip_digits();
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            self.at += 1 + usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if !self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
                return self.unknown();
            }
            self.skip_digits();
        }
        match self.peek(0) {
            Some(byte) if CONTINUES[byte as usize] || byte == b'.' => self.unknown(),
            _ => self.emit(Kind::Number, start, self.at),
        }
    }

    fn skip_digits(&mut self) {
        while self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// As many operator characters as there are, up to a comment.
    fn operator(&mut self, start: usize) -> Token<'a> {
        let mut end = start + 1;
        while let Some(&byte) = self.sql.get(end) {
            let comment = matches!((byte, self.sql.get(end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*')));
            if comment || !matches!(CLASSES[byte as usize], Class::Operator) {
                break;
            }
            end += 1;
        }
        self.emit(Kind::Operator, start, end)
    }

    /// A string whose first byte is at `start`.
    fn string(&mut self, start: usize, escapes: bool) -> Token<'a> {
        let mut at = start;
        loop {
            match self.sql.get(at) {
                Some(b'\'') if self.sql.get(at + 1) == Some(&b'\'') => at += 2,
                Some(b'\'') => return self.emit(Kind::String, start, at + 1),
                Some(b'\\') if escapes => at += 2,
                Some(b'\\') if self.unsure => return self.unknown(),
                Some(0) | None => return self.unknown(),
                Some(_) => at += 1,
            }
        }
    }

    fn quoted(&mut self, start: usize) -> Token<'a> {
        let rest = &self.sql[start..];
        if self.lenient {
            let mut length = 0;
            while rest.get(length).is_some_and(|&byte| byte != b'"') || rest.get(length + 1) == Some(&b'"') {
                length += if rest[length] == b'"' { 2 } else { 1 };
            }
            if length == 0 || length >= rest.len() {
                return self.unknown();
            }
            self.at = start + length + 1;
            return Token { kind: Kind::Quoted, text: &rest[..length] };
        }
        let length = rest.iter().position(|&byte| byte == b'"' || byte == 0);
        match length {
            Some(length @ 1..=MAX_IDENTIFIER)
                if rest[length] == b'"' && rest.get(length + 1) != Some(&b'"') =>
            {
                self.at = start + length + 1;
                Token { kind: Kind::Quoted, text: &rest[..length] }
            }
            _ => self.unknown(),
        }
    }

    /// `$1`, or a dollar-quoted string.
    fn dollar(&mut self, start: usize) -> Token<'a> {
        let rest = &self.sql[start..];
        let length = 1 + rest[1..].iter().take_while(|&&b| CONTINUES[b as usize] && b != b'$').count();
        let tag = &rest[1..length];
        if !tag.is_empty() && tag.iter().all(u8::is_ascii_digit) && rest.get(length) != Some(&b'$') {
            return self.emit(Kind::Param, start, start + length);
        }
        let is_delimiter = rest.get(length) == Some(&b'$') && !tag.first().is_some_and(u8::is_ascii_digit);
        if !is_delimiter || length > MAX_IDENTIFIER {
            return self.unknown();
        }
        let (delimiter, body) = rest.split_at(length + 1);
        match body.windows(delimiter.len()).position(|window| window == delimiter) {
            Some(end) if !body[..end].contains(&0) => {
                self.emit(Kind::String, start, start + 2 * delimiter.len() + end)
            }
            _ => self.unknown(),
        }
    }

    #[inline]
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.get(self.at + ahead).copied()
    }

    #[inline]
    fn emit(&mut self, kind: Kind, start: usize, end: usize) -> Token<'a> {
        self.at = end;
        Token { kind, text: &self.sql[start..end] }
    }

    /// Gives up for good.
    #[cold]
    fn unknown(&mut self) -> Token<'a> {
        self.lost = true;
        Token { kind: Kind::Unknown, text: &[] }
    }
}

#[derive(Clone, Copy)]
enum Class {
    Blank,
    Letter,
    Digit,
    Operator,
    Single(Kind),
    Dot,
    Colon,
    Quote,
    DoubleQuote,
    Dollar,
    Other,
}

static CLASSES: [Class; 256] = classes();
static CONTINUES: [bool; 256] = continues();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => Class::Blank,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' => Class::Operator,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => Class::Operator,
            b'(' => Class::Single(Kind::Open),
            b')' => Class::Single(Kind::Close),
            b'[' => Class::Single(Kind::OpenBracket),
            b']' => Class::Single(Kind::CloseBracket),
            b',' => Class::Single(Kind::Comma),
            b';' => Class::Single(Kind::Semicolon),
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
}

const fn continues() -> [bool; 256] {
    let mut continues = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        continues[byte] =
            matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | b'$' | 0x80..);
        byte += 1;
    }
    continues
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Vec<(Kind, String)> {
        let mut lexer = Lexer::new(sql.as_bytes(), false);
        let mut tokens = Vec::new();
        loop {
            let token = lexer.next_token();
            if token.kind == Kind::End {
                return tokens;
            }
            tokens.push((token.kind, String::from_utf8_lossy(token.text).into_owned()));
            if token.kind == Kind::Unknown {
                return tokens;
            }
        }
    }

    fn kinds(sql: &str) -> Vec<Kind> {
        read(sql).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn comments_nest_and_start_inside_operators() {
        assert_eq!(kinds("/* a /* b */ c */ --x\nx"), [Kind::Word]);
        assert_eq!(kinds("/*/ */ x"), [Kind::Word]);
        assert_eq!(kinds("a <-- b\n c"), [Kind::Word, Kind::Operator, Kind::Word]);
        assert_eq!(kinds("a </* > */ c"), [Kind::Word, Kind::Operator, Kind::Word]);
        assert_eq!(kinds("/* never closed"), [Kind::Unknown]);
    }

    #[test]
    fn strings_end_where_postgresql_ends_them() {
        assert_eq!(kinds("'it''s' x"), [Kind::String, Kind::Word]);
        assert_eq!(kinds(r"e'it\'s' x"), [Kind::String, Kind::Word]);
        assert_eq!(kinds(r"'a\' x"), [Kind::String, Kind::Word]);
        assert_eq!(Lexer::new(br"'a\' x", true).next_token().kind, Kind::Unknown);
        assert_eq!(Lexer::new(br"e'a\' x'", true).next_token().kind, Kind::String);
        assert_eq!(kinds("$$ ; ' $$ x"), [Kind::String, Kind::Word]);
        assert_eq!(kinds("$a$ $b$ $$ $a$ x"), [Kind::String, Kind::Word]);
        assert_eq!(kinds("$a$ $A$ x"), [Kind::Unknown]);
        assert_eq!(kinds("x$a$ y"), [Kind::Word, Kind::Word]);
        assert_eq!(kinds("'never closed"), [Kind::Unknown]);
        assert_eq!(kinds("u&'a'"), [Kind::Unknown]);
        assert_eq!(kinds("u & 'a'"), [Kind::Word, Kind::Operator, Kind::String]);
        assert_eq!(kinds("xe'a'"), [Kind::Word, Kind::String]);
    }

    #[test]
    fn identifiers_are_taken_whole_or_not_at_all() {
        assert_eq!(
            read("\"A b\".c"),
            [(Kind::Quoted, "A b".into()), (Kind::Dot, ".".into()), (Kind::Word, "c".into())]
        );
        assert_eq!(kinds("\"a\"\"b\""), [Kind::Unknown]);
        assert_eq!(kinds("\"\""), [Kind::Unknown]);
        assert_eq!(kinds(&"a".repeat(64)), [Kind::Unknown]);
        assert_eq!(kinds("é"), [Kind::Word]);
    }

    #[test]
    fn numbers_that_run_into_letters_are_not_guessed_at() {
        assert_eq!(kinds("1 1.5 .5 1e10 1.e-5"), [Kind::Number; 5]);
        for sql in ["1from", "0x1f", "1_000", "1e", "1..2", "1.2.3", "1$$a$$"] {
            assert_eq!(kinds(sql).last(), Some(&Kind::Unknown), "{sql}");
        }
        assert_eq!(kinds("$1"), [Kind::Param]);
        assert_eq!(kinds("$1a"), [Kind::Unknown]);
    }

    #[test]
    fn an_unsure_gives_up_on_what_is_not_ascii() {
        assert_eq!(Lexer::new("select 'é'".as_bytes(), true).next_token().kind, Kind::Unknown);
        assert_eq!(Lexer::new(b"select 'e'", true).next_token().kind, Kind::Word);
    }
}
