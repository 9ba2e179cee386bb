//! Names of Unix sockets: paths of files, and names in the kernel's abstract namespace, which begin with `@` here as they
//! do in libpq, PostgreSQL and pgbouncer.
//!
//! Everywhere else such a name is a path like any other; only what talks to the kernel, or hears from it, comes here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The socket of a port in a directory.
#[must_use]
pub fn socket_path(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// Whether this is a name in the abstract namespace: there is no file of it, and so neither owner nor permissions.
#[must_use]
pub fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().first() == Some(&b'@')
}

/// The path as the kernel, the standard library and the crates on top of it want it: an abstract name begins with a zero byte.
#[must_use]
pub fn for_system(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => OsStr::from_bytes(&[b"\0", name].concat()).into(),
        _ => path.to_owned(),
    }
}

/// The path of what the kernel knows by a file or by an abstract name; `None` where it has neither.
#[must_use]
pub fn from_system(file: Option<&Path>, name: Option<&[u8]>) -> Option<PathBuf> {
    file.map(Path::to_owned).or_else(|| Some(OsStr::from_bytes(&[b"@", name?].concat()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_name_begins_with_a_zero_byte() {
        let path = socket_path(Path::new("@pool"), 6432);
        assert_eq!((path.as_path(), is_abstract(&path)), (Path::new("@pool/.s.PGSQL.6432"), true));
        assert_eq!(for_system(&path).as_os_str().as_bytes(), b"\0pool/.s.PGSQL.6432");
        assert_eq!(from_system(None, Some(b"pool/.s.PGSQL.6432")), Some(path));
    }

    #[test]
    fn a_file_is_itself() {
        let path = socket_path(Path::new("/run/@"), 5);
        assert!(!is_abstract(&path));
        assert_eq!((for_system(&path), from_system(Some(&path), None)), (path.clone(), Some(path)));
        assert_eq!(from_system(None, None), None);
    }
}
