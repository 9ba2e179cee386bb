//! Files in the encodings that they have been written in for twenty years.
//!
//! pgvalet's text is UTF-8. pgbouncer never looked, so there are files with comments in others: they can be read, and only a
//! line that means something has to be UTF-8.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

/// What to say of a line that is not UTF-8.
pub(super) const NOT_UTF8: &str = "the line is not UTF-8; save the file in that encoding";

/// The content of a file, without the mark that some editors put in front. See [`is_broken`].
pub(super) fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(std::fs::read(file)?);
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    Ok(Zeroizing::new(String::from_utf8_lossy(text).into_owned()))
}

/// Whether a line has lost something on the way through [`read`].
pub(super) fn is_broken(line: &str) -> bool {
    line.contains(char::REPLACEMENT_CHARACTER)
}
