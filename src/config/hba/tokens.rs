//! Fields and tokens of pg_hba.conf and pg_ident.conf, with the files that these include.
//!
//! Owns the syntax that both files share: quotes, commas, comments, lines that go on, `@file`, and the directives
//! `include`, `include_if_exists` and `include_dir`. (PostgreSQL's documentation: "The pg_hba.conf File".) Invariant: it
//! ends for every set of files, whatever they include.

use std::path::{Path, PathBuf};

use super::Files;
use crate::config::problem::{Place, Problem};

/// Files within files; deeper is taken for a mistake, as in PostgreSQL.
const MAX_DEPTH: usize = 10;
/// Files read altogether: a bound for files that include each other many times.
const MAX_FILES: usize = 1000;

/// A word of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it began with a quote: then it is a name, not a keyword.
    pub(super) quoted: bool,
}

impl Token {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// A line that says something: fields, each of one or more tokens with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) fields: Vec<Vec<Token>>,
}

/// The lines of `path` and of all that it includes.
pub(super) fn lines(path: &Path, files: &dyn Files, problems: &mut Vec<Problem>) -> Vec<Line> {
    let mut reader = Reader { files, problems, open: Vec::new(), count: 0 };
    match files.read(path) {
        Ok(text) => reader.text(path, &text),
        Err(error) => {
            let message = format!("cannot read it: {error}");
            reader.problems.push(Place::file(path).problem("", message));
            Vec::new()
        }
    }
}

/// The words of one line that is in no file.
pub(super) fn words(line: &str) -> Result<Vec<Token>, &'static str> {
    let (mut words, mut rest) = (Vec::new(), line);
    loop {
        let (found, after) = next_token(rest)?;
        let Some((token, _)) = found else { return Ok(words) };
        words.push(token);
        rest = after;
    }
}

struct Reader<'a> {
    files: &'a dyn Files,
    problems: &'a mut Vec<Problem>,
    /// The files being read, each included by the one before.
    open: Vec<PathBuf>,
    count: usize,
}

impl Reader<'_> {
    fn text(&mut self, path: &Path, text: &str) -> Vec<Line> {
        self.open.push(path.to_owned());
        let mut lines = Vec::new();
        for (number, text) in logical_lines(text) {
            let place = Place::line(path, number);
            let Some(fields) = self.fields(&place, &text) else { continue };
            match fields.as_slice() {
                [] => {}
                [directive, file] => match (directive.first(), file.first()) {
                    (Some(directive), Some(file)) if is_include(&directive.text) => {
                        lines.extend(self.include(&place, &directive.text, &file.text));
                    }
                    _ => lines.push(Line { place, fields }),
                },
                [directive, ..] if directive.first().is_some_and(|token| is_include(&token.text)) => {
                    let message = "it takes the name of one file; quote a name with spaces or commas";
                    self.problems.push(place.problem(&directive[0].text, message));
                }
                _ => lines.push(Line { place, fields }),
            }
        }
        self.open.pop();
        lines
    }

    fn include(&mut self, place: &Place, directive: &str, name: &str) -> Vec<Line> {
        let path = beside(&place.file, name);
        if directive != "include_dir" {
            return self.included(place, directive, &path).unwrap_or_default();
        }
        match self.files.conf_files(&path) {
            Ok(files) => {
                files.iter().filter_map(|file| self.included(place, directive, file)).flatten().collect()
            }
            Err(error) => {
                let message = format!("cannot read the directory {}: {error}", path.display());
                self.problems.push(place.problem(directive, message));
                Vec::new()
            }
        }
    }

    /// The lines of an included file; `None` if they cannot be had.
    fn included(&mut self, place: &Place, directive: &str, path: &Path) -> Option<Vec<Line>> {
        self.count += 1;
        let message = if self.open.iter().any(|open| open == path) {
            format!("{} includes itself", path.display())
        } else if self.open.len() >= MAX_DEPTH {
            format!("files include each other more than {MAX_DEPTH} deep")
        } else if self.count > MAX_FILES {
            format!("more than {MAX_FILES} files are included")
        } else {
            match self.files.read(path) {
                Ok(text) => return Some(self.text(path, &text)),
                Err(error)
                    if directive == "include_if_exists" && error.kind() == std::io::ErrorKind::NotFound =>
                {
                    return None;
                }
                Err(error) => format!("cannot read {}: {error}", path.display()),
            }
        };
        self.problems.push(place.problem(directive, message));
        None
    }

    /// The fields of a line; `None` if it is broken.
    fn fields(&mut self, place: &Place, line: &str) -> Option<Vec<Vec<Token>>> {
        let mut fields = Vec::new();
        let mut rest = line;
        loop {
            let mut field = Vec::new();
            loop {
                let (found, after) = match next_token(rest) {
                    Ok(found) => found,
                    Err(message) => {
                        self.problems.push(place.problem("", message));
                        return None;
                    }
                };
                rest = after;
                let Some((token, comma)) = found else { break };
                match token.text.strip_prefix('@').filter(|name| !token.quoted && !name.is_empty()) {
                    Some(name) => {
                        let path = beside(&place.file, name);
                        let lines = self.included(place, &token.text, &path)?;
                        field.extend(lines.into_iter().flat_map(|line| line.fields).flatten());
                    }
                    None => field.push(token),
                }
                if !comma {
                    break;
                }
            }
            if field.is_empty() {
                // An @file without names still is a field; it matches nothing.
                if rest.is_empty() {
                    return Some(fields);
                }
                let message = "a field is empty; an included file must name somebody";
                self.problems.push(place.problem("", message));
                return None;
            }
            fields.push(field);
        }
    }
}

fn is_include(text: &str) -> bool {
    matches!(text, "include" | "include_if_exists" | "include_dir")
}

/// `name`, relative to the directory of `file`.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().map_or_else(|| PathBuf::from(name), |directory| directory.join(name))
}

/// Lines with their numbers; one that ends in a backslash goes on in the next.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (line, next) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if goes_on => last.push_str(line),
            _ => lines.push((index + 1, line.to_owned())),
        }
        goes_on = next;
    }
    lines
}

/// A token with whether a comma follows it, if there is one, and the rest of the line.
type Next<'a> = (Option<(Token, bool)>, &'a str);

/// The next token with whether a comma follows it, and the rest of the line; an empty rest after the last.
///
/// A quote may stand in the middle of a word, and two in a row inside quotes are one: `a"b c""d"` is `ab c"d`.
fn next_token(line: &str) -> Result<Next<'_>, &'static str> {
    let line = line.trim_start_matches([' ', '\t', '\r', ',']);
    let (mut text, mut quoted) = (String::new(), false);
    let (mut inside, mut saw_quote) = (false, false);
    let mut characters = line.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if inside && characters.peek().is_some_and(|(_, next)| *next == '"') => {
                characters.next();
                text.push('"');
            }
            '"' => {
                quoted |= text.is_empty() && !saw_quote;
                saw_quote = true;
                inside = !inside;
            }
            _ if inside => text.push(character),
            '#' => return Ok(end(text, quoted, saw_quote, false, "")),
            ' ' | '\t' | '\r' | ',' => {
                return Ok(end(text, quoted, saw_quote, character == ',', &line[at + 1..]));
            }
            _ => text.push(character),
        }
    }
    if inside {
        return Err("a quote is not closed; write another \" at the end of the name");
    }
    Ok(end(text, quoted, saw_quote, false, ""))
}

fn end(text: String, quoted: bool, saw_quote: bool, comma: bool, rest: &str) -> Next<'_> {
    let token = Token { text, quoted };
    ((saw_quote || !token.text.is_empty()).then_some((token, comma)), rest)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;
    use super::*;

    fn read(files: &[(&str, &str)]) -> (Vec<Line>, Vec<Problem>) {
        let mut problems = Vec::new();
        let lines = lines(Path::new("/d/main"), &Memory::new(files), &mut problems);
        (lines, problems)
    }

    fn words(line: &Line) -> Vec<Vec<&str>> {
        line.fields.iter().map(|field| field.iter().map(|token| token.text.as_str()).collect()).collect()
    }

    #[test]
    fn fields_tokens_quotes_and_comments() {
        let (lines, problems) =
            read(&[("/d/main", "a b,c, d # e\n\n# only this\n\"x y\",a\"b \"\"q\"#z\n \t\"\" \"all\"\r\n")]);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(words(&lines[0]), [vec!["a"], vec!["b", "c", "d"]]);
        assert_eq!((words(&lines[1]), lines[1].place.line), (vec![vec!["x y", "ab \"q"]], Some(4)));
        assert!(lines[1].fields[0][0].quoted && !lines[1].fields[0][1].quoted);
        assert_eq!(words(&lines[2]), [[""], ["all"]]);
        assert!(!lines[2].fields[1][0].is("all"), "a quoted keyword is a name");
    }

    #[test]
    fn a_backslash_at_the_end_continues_a_line() {
        let (lines, _) = read(&[("/d/main", "a \\\nb\\\nc\nd\\")]);
        assert_eq!(words(&lines[0]), [["a"], ["bc"]]);
        assert_eq!((words(&lines[1]), lines[1].place.line), (vec![vec!["d"]], Some(4)));
    }

    #[test]
    fn files_are_included_in_their_place() {
        let (lines, problems) = read(&[
            (
                "/d/main",
                "one\ninclude \"sub dir/x\"\ninclude_if_exists none\nall @names,c\ninclude_dir conf\n",
            ),
            ("/d/sub dir/x", "two\n"),
            ("/d/names", "a, b\n# no\n@more\n"),
            ("/d/more", "\"d\"\n"),
            ("/d/conf/2.conf", "four\n"),
            ("/d/conf/1.conf", "three\n"),
            ("/d/conf/.hidden.conf", "no\n"),
            ("/d/conf/readme", "no\n"),
        ]);
        assert!(problems.is_empty(), "{problems:?}");
        let lines: Vec<_> = lines.iter().map(words).collect();
        let expected = [
            vec![vec!["one"]],
            vec![vec!["two"]],
            vec![vec!["all"], vec!["a", "b", "d", "c"]],
            vec![vec!["three"]],
        ];
        assert_eq!(lines[..4], expected);
        assert_eq!(lines[4], [["four"]]);
    }

    #[test]
    fn what_cannot_be_included_is_told_with_its_line() {
        for (text, said) in [
            ("\ninclude nowhere\n", "cannot read /d/nowhere"),
            ("\ninclude main\n", "includes itself"),
            ("\ninclude a b\n", "name of one file"),
            ("\nall @main\n", "includes itself"),
            ("\ninclude_dir nowhere\n", "cannot read the directory"),
            ("\nall \"open\n", "not closed"),
        ] {
            let (_, problems) = read(&[("/d/main", text)]);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert_eq!(problems[0].line, Some(2));
            assert!(problems[0].message.contains(said), "{problems:?}");
        }
    }

    #[test]
    fn deep_and_wide_inclusion_ends() {
        let names: Vec<String> = (0..12).map(|number| format!("/d/{number}")).collect();
        let texts: Vec<String> = (1..13).map(|number| format!("include {number}\n").repeat(40)).collect();
        let mut files: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        files.push(("/d/main", "include 0\n"));
        let (_, problems) = read(&files);
        assert!(problems.iter().any(|problem| problem.message.contains("deep")), "{}", problems.len());
        assert!(problems.iter().any(|problem| problem.message.contains("1000 files")), "{}", problems.len());
    }
}
