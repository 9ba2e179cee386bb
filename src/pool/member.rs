//! Who belongs to a shard: logged-in clients, counted for those who look.

use crate::pool::Shard;
use std::rc::Rc;

/// A logged-in client's hold on its shard: it is counted there for as long as it lasts.
#[derive(Debug)]
pub struct Member(Rc<Shard>);

impl From<Rc<Shard>> for Member {
    fn from(shard: Rc<Shard>) -> Member {
        shard.stats().clients.increment();
        Member(shard)
    }
}

impl std::ops::Deref for Member {
    type Target = Rc<Shard>;

    #[inline]
    fn deref(&self) -> &Rc<Shard> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.stats().clients.decrement();
    }
}
