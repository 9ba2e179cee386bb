//! The SASL mechanism OAUTHBEARER (RFC 7628) as a server: a client shows a bearer token.
//!
//! Owns the messages, not what a token is worth. Errors are PostgreSQL's (auth-oauth.c). The exchange:
//!
//! ```text
//! client_first --token is good--> done
//!              --else--> failure is sent --client_last--> the login fails
//! ```

use super::AuthError;
use super::scram::printable;

/// The mechanism's name.
pub const OAUTHBEARER: &str = "OAUTHBEARER";

/// What stands between the parts of a message.
const SEPARATOR: u8 = 1;

/// What a client shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// Nothing: it wants to know where it could get a token.
    Nothing,
    /// Something that no token can be.
    Nonsense,
    /// A token.
    Token(&'a str),
}

/// Reads a client's first message.
///
/// # Errors
/// What breaks the protocol.
pub fn client_first(message: &[u8]) -> Result<Shown<'_>, AuthError> {
    check_length(message)?;
    // Behind the end there is nothing, which PostgreSQL shows as the NUL that ends its strings.
    let at = |index: usize| message.get(index).copied().unwrap_or(0);
    match at(0) {
        b'p' => {
            return Err(malformed(
                "The server does not support channel binding for OAuth, but the client message includes channel \
                 binding data.",
            ));
        }
        b'y' | b'n' if at(1) == b',' => {}
        b'y' | b'n' => return Err(unexpected("Comma expected, but found character", at(1), "")),
        other => return Err(unexpected("Unexpected channel-binding flag", other, "")),
    }
    match at(2) {
        b',' => {}
        b'a' => {
            return Err(AuthError::Unsupported(
                "client uses authorization identity, but it is not supported",
            ));
        }
        other => return Err(unexpected("Unexpected attribute", other, " in client-first-message")),
    }
    if at(3) != SEPARATOR {
        return Err(unexpected("Key-value separator expected, but found character", at(3), ""));
    }
    let value = auth_value(message.get(4..).unwrap_or_default())?;
    Ok(match std::str::from_utf8(value) {
        Ok("") => Shown::Nothing,
        Ok(value) => token(value).map_or(Shown::Nonsense, Shown::Token),
        Err(_) => Shown::Nonsense,
    })
}

/// What a client is told whose token is not good: where it could get another.
#[must_use]
pub fn failure(discovery: &str, scope: &str) -> String {
    let (discovery, scope) = (json(discovery), json(scope));
    format!("{{ \"status\": \"invalid_token\", \"openid-configuration\": {discovery}, \"scope\": {scope} }}")
}

/// Reads a client's answer to that, after which the login fails.
///
/// # Errors
/// It is another one than the only one there is.
pub fn client_last(message: &[u8]) -> Result<(), AuthError> {
    check_length(message)?;
    match message {
        [SEPARATOR] => Ok(()),
        _ => Err(malformed("Client did not send a kvsep response.")),
    }
}

fn check_length(message: &[u8]) -> Result<(), AuthError> {
    if message.is_empty() {
        return Err(malformed("The message is empty."));
    }
    match message.contains(&0) {
        true => Err(malformed("Message length does not match input length.")),
        false => Ok(()),
    }
}

/// The value of `auth` among pairs of keys and values.
fn auth_value(mut rest: &[u8]) -> Result<&[u8], AuthError> {
    let mut auth = None;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == SEPARATOR);
        let end = end.ok_or_else(|| malformed("Message contains an unterminated key/value pair."))?;
        let (pair, after) = (&rest[..end], &rest[end + 1..]);
        if pair.is_empty() {
            let auth = auth.ok_or_else(|| malformed("Message does not contain an auth value."))?;
            return match after {
                [] => Ok(auth),
                _ => Err(malformed("Message contains additional data after the final terminator.")),
            };
        }
        let equals = pair.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or_else(|| malformed("Message contains a key without a value."))?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        if key.is_empty() {
            return Err(malformed("Message contains an empty key name."));
        }
        if !key.iter().all(u8::is_ascii_alphabetic) {
            return Err(malformed("Message contains an invalid key name."));
        }
        if !value.iter().all(|byte| byte.is_ascii_graphic() || b" \t\r\n".contains(byte)) {
            return Err(malformed("Message contains an invalid value."));
        }
        if key == b"auth" && auth.replace(value).is_some() {
            return Err(malformed("Message contains multiple auth values."));
        }
        rest = after;
    }
    Err(malformed("Message did not contain a final terminator."))
}

/// The token in a value such as `Bearer abc`, if it has the form of one (`b64token` of RFC 6750).
fn token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_start_matches(' ');
    let body = token.trim_end_matches('=');
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let is_good = scheme.eq_ignore_ascii_case("Bearer ") && !body.is_empty() && body.bytes().all(is_token);
    is_good.then_some(token)
}

/// A string of JSON. Its text comes from the configuration.
fn json(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            other if other < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn malformed(detail: &'static str) -> AuthError {
    AuthError::Protocol { message: "malformed OAUTHBEARER message".into(), detail: Some(detail.into()) }
}

fn unexpected(what: &str, byte: u8, whence: &str) -> AuthError {
    let detail = format!("{what} \"{}\"{whence}.", printable(byte));
    AuthError::Protocol { message: "malformed OAUTHBEARER message".into(), detail: Some(detail.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_found_among_the_pairs() {
        for message in [
            "n,,\u{1}auth=Bearer abc.def-_~+/==\u{1}\u{1}",
            "y,,\u{1}host=db\u{1}port=5432\u{1}auth=bearer abc.def-_~+/==\u{1}\u{1}",
            "n,,\u{1}auth=BEARER   abc.def-_~+/==\u{1}other=\u{1}\u{1}",
        ] {
            assert_eq!(client_first(message.as_bytes()), Ok(Shown::Token("abc.def-_~+/==")), "{message:?}");
        }
        assert_eq!(client_first(b"n,,\x01auth=\x01\x01"), Ok(Shown::Nothing));
        for value in ["Bearer", "Bearer ", "Bearer =", "Basic abc", "Bearer a b", "Bearer a=b", "Bearer a,b"]
        {
            let message = format!("n,,\u{1}auth={value}\u{1}\u{1}");
            assert_eq!(client_first(message.as_bytes()), Ok(Shown::Nonsense), "{value}");
        }
    }

    #[test]
    fn what_is_malformed_is_told_in_postgresqls_words() {
        for (message, said) in [
            ("", "The message is empty."),
            ("n,,\u{1}auth=x\0\u{1}\u{1}", "Message length does not match input length."),
            ("p=tls-unique,,\u{1}", "The server does not support channel binding for OAuth"),
            ("x", "Unexpected channel-binding flag \"'x'\"."),
            ("n", "Comma expected, but found character \"0x00\"."),
            ("n;", "Comma expected, but found character \"';'\"."),
            ("n,x", "Unexpected attribute \"'x'\" in client-first-message."),
            ("n,,", "Key-value separator expected, but found character \"0x00\"."),
            ("n,,a", "Key-value separator expected, but found character \"'a'\"."),
            ("n,,\u{1}", "Message did not contain a final terminator."),
            ("n,,\u{1}auth=x", "Message contains an unterminated key/value pair."),
            ("n,,\u{1}auth=x\u{1}", "Message did not contain a final terminator."),
            ("n,,\u{1}\u{1}", "Message does not contain an auth value."),
            ("n,,\u{1}auth\u{1}\u{1}", "Message contains a key without a value."),
            ("n,,\u{1}=x\u{1}\u{1}", "Message contains an empty key name."),
            ("n,,\u{1}a-b=x\u{1}\u{1}", "Message contains an invalid key name."),
            ("n,,\u{1}auth=\u{7f}\u{1}\u{1}", "Message contains an invalid value."),
            ("n,,\u{1}auth=x\u{1}auth=x\u{1}\u{1}", "Message contains multiple auth values."),
            ("n,,\u{1}auth=x\u{1}\u{1}x", "Message contains additional data after the final terminator."),
        ] {
            let error = client_first(message.as_bytes()).expect_err(message);
            assert_eq!(error.message(), "malformed OAUTHBEARER message");
            assert!(error.detail().is_some_and(|detail| detail.starts_with(said)), "{message:?}: {error}");
        }
        assert!(matches!(client_first(b"n,a=somebody,\x01"), Err(AuthError::Unsupported(_))));
        assert!(client_last(b"\x01").is_ok());
        assert!(client_last(b"").is_err() && client_last(b"\x01\x01").is_err() && client_last(b"n").is_err());
    }

    #[test]
    fn a_failure_says_where_tokens_are_to_be_had() {
        assert_eq!(
            failure("https://id.test/.well-known/openid-configuration", "a \"b\""),
            "{ \"status\": \"invalid_token\", \"openid-configuration\": \
             \"https://id.test/.well-known/openid-configuration\", \"scope\": \"a \\\"b\\\"\" }"
        );
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message in proptest::collection::vec(any::<u8>(), 0..200), start in "n,,\u{1}(auth=)?(Bearer )?") {
            let _ = client_first(&message);
            let _ = client_first(&[start.as_bytes(), &message].concat());
            let _ = client_last(&message);
        }
    }
}
