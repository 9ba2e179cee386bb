//! A thread with a runtime of its own.
//!
//! What is begun there has a limit of its own, and goes on whether anybody waits for it or not.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A thread for what must not run on a worker; it starts when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Aside(OnceLock<Option<Running>>);

#[derive(Debug)]
struct Running {
    runtime: Handle,
    /// The thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// Threads on which names are looked up; one hangs as long as the system does.
const LOOK_UPS: usize = 8;

impl Aside {
    /// Begins `work` there; it goes on whether anybody waits for it or not. `None` if there is no thread.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        let running = self.0.get_or_init(|| match start() {
            Ok(running) => Some(running),
            Err(error) => {
                tracing::error!(%error, "the thread for those who know users cannot be started");
                None
            }
        });
        running.as_ref().map(|running| running.runtime.spawn(work))
    }
}

fn start() -> std::io::Result<Running> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name("identity-names")
        .max_blocking_threads(LOOK_UPS)
        .build()?;
    let handle = runtime.handle().clone();
    let (alive, gone) = oneshot::channel();
    let work = move || {
        // An error says that the other end was dropped, which is what is waited for.
        let _ = runtime.block_on(gone);
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("identity".into()).spawn(work)?;
    Ok(Running { runtime: handle, _alive: alive })
}
