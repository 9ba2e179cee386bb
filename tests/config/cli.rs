//! What the command line prints, and the exit code it ends with.

use std::fs;
use std::path::Path;

use pgvalet::config;

use super::{Files, REST};

/// Runs pgvalet in `directory`: exit code, standard output, standard error.
fn pgvalet(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgvalet"));
    let output = command.current_dir(directory).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn check_ends_with_0_or_1_and_wrong_arguments_with_2() {
    let files = Files::new();
    let directory = files.0.path();
    files.write("good.toml", &format!("{REST}[users.b]\npool_size = 1\n"));
    files.write("bad.toml", &format!("pool_mod = 1\nlisten_port = -1{REST}"));
    let (code, out, err) = pgvalet(directory, &["check", "good.toml"]);
    assert_eq!((code, out.contains("good.toml is valid"), err.lines().count()), (0, true, 1), "{err}");
    assert!(err.starts_with("warning: good.toml:5: users.b: "), "{err}");
    let (code, out, err) = pgvalet(directory, &["check", "bad.toml"]);
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 2), "{err}");
    assert!(err.starts_with("bad.toml:1: pool_mod: "), "{err}");
    assert_eq!(pgvalet(directory, &["bad.toml"]).0, 1);
    for wrong in [&[][..], &["check"], &["--nonsense"], &["good.toml", "bad.toml"]] {
        assert_eq!(pgvalet(directory, wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(pgvalet(directory, &["--version"]).1, format!("pgvalet {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_inis_paths_start_from_the_working_directory() {
    let files = Files::new();
    fs::create_dir(files.0.path().join("etc")).unwrap();
    files.write("etc/p.ini", "%include databases.ini\n[pgbouncer]\nauth_file = users.txt\n");
    files.write("databases.ini", "[databases]\napp =\n");
    files.write("users.txt", "\"a\" \"x\"\n");
    let (code, text, err) = pgvalet(files.0.path(), &["convert", "etc/p.ini"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(text.contains("/users.txt\""), "absolute, since the TOML may lie elsewhere: {text}");
    let converted = config::load(&files.write("etc/converted.toml", &text)).unwrap();
    assert!(converted.user("a").is_some());
    let (code, text, _) = pgvalet(&files.0.path().join("etc"), &["convert", "p.ini"]);
    assert_eq!((code, text.as_str()), (1, ""));
}
