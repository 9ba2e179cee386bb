//! Ends what a test process started, also when that process is killed and no destructor runs.
//!
//! A guard is a small shell that waits for its standard input to end. The kernel closes it when the test process ends,
//! however that happens. (A parent-death signal would not do: it is sent when the *thread* that started the child ends.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell that acts if this process ends before the guard is dropped.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

impl Guard {
    /// Kills process `pid` when the test process ends.
    pub fn kill(pid: u32) -> Self {
        Self::run("kill -KILL \"$1\"", &[pid.to_string()])
    }

    /// Kills process `pid` and removes its directory when the test process ends.
    pub fn kill_and_remove(pid: u32, home: &Path) -> Self {
        Self::run("kill -KILL \"$1\"; rm -rf \"$2\"", &[pid.to_string(), home.display().to_string()])
    }

    /// Stops the PostgreSQL of `home/data` and removes `home` when the test process ends.
    pub fn remove_cluster(home: &Path) -> Self {
        let script = r#"
            pid=$(head -1 "$1/data/postmaster.pid" 2>/dev/null)
            if [ -n "$pid" ]; then
                kill -QUIT "$pid"
                for _ in $(seq 100); do kill -0 "$pid" || break; sleep 0.1; done
            fi
            rm -rf "$1""#;
        Self::run(script, &[home.display().to_string()])
    }

    fn run(script: &str, arguments: &[String]) -> Self {
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("read done && exit 0\n{script}"), "guard"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own: what interrupts the tests at a terminal must not interrupt the guard.
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        Self { shell }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The line says that there is nothing left to do. A guard that is gone already has nothing to be told.
        if let Some(mut stdin) = self.shell.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}
