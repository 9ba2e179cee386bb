//! Timers, kept by one thread for all workers.
//!
//! A runtime with timers of its own looks at them each time it waits for sockets, and has the kernel arm one for each
//! such wait; a transaction waits more often than any limit runs out. So the runtimes of workers have none, and what a
//! worker wants to be woken for is noted with a thread that does nothing else.
//!
//! Owns that thread. Nobody else calls the functions of `tokio::time` (clippy.toml forbids it). Invariant: where it does not run, as in unit tests, the runtime's own timers serve.

#![expect(clippy::disallowed_methods, reason = "this is where they are called")]

use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::time::{Instant, Interval, Sleep, Timeout};

static KEEPER: OnceLock<Handle> = OnceLock::new();

/// Starts the thread, unless it runs already. It ends with the process.
///
/// # Errors
/// The system's, if it gives no thread or no runtime.
pub fn start() -> io::Result<()> {
    if KEEPER.get().is_some() {
        return Ok(());
    }
    // With I/O it waits as the others do: in one system call.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if KEEPER.set(runtime.handle().clone()).is_ok() {
        let keep = move || runtime.block_on(std::future::pending::<()>());
        thread::Builder::new().name("timers".into()).spawn(keep)?;
    }
    Ok(())
}

/// As [`tokio::time::timeout`].
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    let _keeper = keeper();
    tokio::time::timeout(limit, future)
}

/// As [`tokio::time::sleep`].
pub fn sleep(duration: Duration) -> Sleep {
    let _keeper = keeper();
    tokio::time::sleep(duration)
}

/// As [`tokio::time::sleep_until`].
pub fn sleep_until(deadline: Instant) -> Sleep {
    let _keeper = keeper();
    tokio::time::sleep_until(deadline)
}

/// As [`tokio::time::interval`].
pub fn interval(period: Duration) -> Interval {
    let _keeper = keeper();
    tokio::time::interval(period)
}

/// While it lives, timers are made with the thread's.
fn keeper() -> Option<EnterGuard<'static>> {
    KEEPER.get().map(Handle::enter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_run_out_in_runtimes_that_have_none() {
        start().unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            sleep(Duration::from_millis(1)).await;
            assert!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
            let mut ticks = interval(Duration::from_millis(1));
            ticks.tick().await;
            ticks.tick().await;
        });
    }
}
