//! Cancel requests that cannot be passed on yet.

use crate::pool::Pool;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Counts one for as long as it waits.
#[derive(Debug)]
pub struct WaitingCancel(Arc<Pool>);

impl WaitingCancel {
    /// Counts one in.
    #[must_use]
    pub fn new(pool: &Arc<Pool>) -> WaitingCancel {
        pool.waiting_cancels.fetch_add(1, Ordering::Relaxed);
        WaitingCancel(pool.clone())
    }
}

impl Drop for WaitingCancel {
    fn drop(&mut self) {
        self.0.waiting_cancels.fetch_sub(1, Ordering::Relaxed);
    }
}
