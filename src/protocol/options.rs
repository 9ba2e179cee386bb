//! The `options` startup parameter: command-line switches for the session, as PostgreSQL splits and reads them.
//!
//! Only the switches that set a parameter are read (`-c name=value`, `-cname=value`, `--name=value`); in names a dash
//! means an underscore.

/// Reads `options` into (name, value) pairs.
///
/// # Errors
/// The switch that is not understood, as PostgreSQL would name it.
pub fn parse(options: &str) -> Result<Vec<(String, String)>, String> {
    let words = split(options);
    let mut words = words.iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let assignment = if let Some(rest) = word.strip_prefix("--") {
            rest
        } else if word == "-c" {
            words.next().ok_or_else(|| word.clone())?
        } else if let Some(rest) = word.strip_prefix("-c") {
            rest
        } else {
            return Err(word.clone());
        };
        let (name, value) = assignment.split_once('=').ok_or_else(|| assignment.to_owned())?;
        if name.is_empty() {
            return Err(assignment.to_owned());
        }
        found.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(found)
}

/// Splits at white space; a backslash makes the next character ordinary.
fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut escaped = false;
    for character in options.chars() {
        if escaped {
            word.get_or_insert_default().push(character);
            escaped = false;
        } else if character == '\\' {
            word.get_or_insert_default();
            escaped = true;
        } else if character.is_ascii_whitespace() || character == '\x0b' {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(character);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<Vec<(String, String)>, String> {
        parse(options)
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn every_way_to_set_a_parameter_is_read() {
        assert_eq!(
            read("-c geqo=off  -cwork_mem=1MB --statement-timeout=5s"),
            Ok(pairs(&[("geqo", "off"), ("work_mem", "1MB"), ("statement_timeout", "5s")]))
        );
    }

    #[test]
    fn backslashes_protect_spaces_and_themselves() {
        assert_eq!(read(r"-c search_path=a,\ b\\c"), Ok(pairs(&[("search_path", r"a, b\c")])));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert_eq!(read("-c"), Err("-c".into()));
        assert_eq!(read("-c="), Err("=".into()));
        assert_eq!(read("-c x"), Err("x".into()));
        assert_eq!(read("-F"), Err("-F".into()));
        assert_eq!(read(""), Ok(vec![]));
    }
}
