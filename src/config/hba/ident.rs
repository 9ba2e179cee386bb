//! A line of pg_ident.conf.
//!
//! Owns the meaning of its three fields. (PostgreSQL's documentation: "User Name Maps".)

use super::tokens::{Line, Token};
use super::{MappedUser, Mapping, SystemUser, UserPattern, line, written};

/// Where a matched part of the outer name goes.
const CAPTURE: &str = "\\1";

/// Reads a line.
pub(super) fn mapping(line: &Line) -> Result<Mapping, String> {
    let mut tokens = Vec::new();
    for field in &line.fields {
        match field.as_slice() {
            [token] => tokens.push(token),
            _ => return Err("each field must be a single value; write a line for each".into()),
        }
    }
    let [map, system, user] = tokens[..] else {
        return Err(format!("it has {} fields; a line is: MAP SYSTEM-USER DATABASE-USER", tokens.len()));
    };
    let system = match line::regex(system)? {
        Some(pattern) => SystemUser::Regex(pattern),
        None => SystemUser::Name(system.text.clone()),
    };
    let user = mapped(&system, user)?;
    Ok(Mapping { place: written(&line.place), map: map.text.clone(), system, user })
}

fn mapped(system: &SystemUser, user: &Token) -> Result<MappedUser, String> {
    let (SystemUser::Regex(pattern), Some((before, after))) = (system, user.text.split_once(CAPTURE)) else {
        return line::user(user).map(MappedUser::Pattern);
    };
    if let Some(pattern) = line::regex(user)? {
        return Ok(MappedUser::Pattern(UserPattern::Regex(pattern)));
    }
    if !pattern.has_parentheses() {
        return Err(format!("{CAPTURE} stands for nothing: the expression has no parentheses"));
    }
    Ok(MappedUser::Capture(before.to_owned(), after.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Memory;
    use super::super::{Outcome, Pattern, read};
    use super::*;
    use std::path::Path;

    fn maps(text: &str) -> Outcome {
        let files = Memory::new(&[("/hba", "local all all peer"), ("/ident", text)]);
        read(Path::new("/hba"), Some(Path::new("/ident")), &files)
    }

    #[test]
    fn names_expressions_and_captures_are_read() {
        let outcome = maps("m bob alice\nm /^(.*)@x$ \\1_user\nm \"a b\" +g\nm root all\nm x /^t\n");
        assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        let users: Vec<_> = outcome.hba.maps.iter().map(|line| line.user.clone()).collect();
        let expected = [
            MappedUser::Pattern(UserPattern::Name("alice".into())),
            MappedUser::Capture("".into(), "_user".into()),
            MappedUser::Pattern(UserPattern::Group("g".into())),
            MappedUser::Pattern(UserPattern::All),
            MappedUser::Pattern(UserPattern::Regex(Pattern::new("^t").unwrap())),
        ];
        assert_eq!(users, expected);
        assert_eq!(outcome.hba.maps[2].system, SystemUser::Name("a b".into()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, said) in [
            ("m bob", "it has 2 fields"),
            ("m a b c", "it has 4 fields"),
            ("m a,b c", "single value"),
            ("m /( c", "no regular expression"),
            ("m /^a$ \\1", "no parentheses"),
        ] {
            let outcome = maps(line);
            assert!(outcome.problems[0].message.contains(said), "{line}: {:?}", outcome.problems);
        }
    }
}
