//! Reads an `auth_file`: a user and a secret a line, both in double quotes.
//!
//! As pgbouncer reads it: a quote inside quotes is doubled, `;` starts a comment line, what follows the secret is
//! ignored. Unlike pgbouncer, a broken line does not hide the lines below it.

use super::text;

/// A user, or what is wrong with a line.
pub type Line = Result<(String, String), &'static str>;

/// The users of the file with their line numbers.
pub fn read(text: &str) -> impl Iterator<Item = (usize, Line)> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(';'));
    lines.map(|(index, line)| (index + 1, read_line(line)))
}

fn read_line(line: &str) -> Line {
    if text::is_broken(line) {
        return Err(text::NOT_UTF8);
    }
    if line.starts_with('#') {
        return Err("# starts no comment in this file; use ;");
    }
    let (user, rest) = read_quoted(line).ok_or(r#"no user in double quotes; write "user" "secret""#)?;
    let rest = rest.trim_start();
    let (secret, _) = read_quoted(rest).ok_or(r#"no secret in double quotes; write "user" "secret""#)?;
    if user.is_empty() {
        return Err(r#"the user's name is empty; write "user" "secret""#);
    }
    Ok((user, secret))
}

/// The quoted text that `text` starts with, and what follows it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        value.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Vec<(usize, Line)> {
        read(text).collect()
    }

    #[test]
    fn quotes_are_doubled_and_comments_skipped() {
        let read = users("; who\n\n\"al\"\"ice\" \"s\"\"e;c\" anything\r\n  \"bob\"\t\"\"\n");
        assert_eq!(read[0], (3, Ok(("al\"ice".into(), "s\"e;c".into()))));
        assert_eq!(read[1], (4, Ok(("bob".into(), String::new()))));
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn a_broken_line_is_told_and_the_next_one_read() {
        let read = users("alice secret\n\"bob\"\n\"bob\" \"open\n# no\n\"\" \"x\"\n\"carol\" \"x\"");
        let lines: Vec<(usize, bool)> = read.iter().map(|(line, user)| (*line, user.is_ok())).collect();
        assert_eq!(lines, [(1, false), (2, false), (3, false), (4, false), (5, false), (6, true)]);
    }
}
