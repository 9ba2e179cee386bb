//! What is known of a database's catalog, shared by all pools of that database.
//!
//! Facts hold until somebody is seen to change the catalog, or until they are too old. One server at a time reads them
//! again.

use crate::moment::Moment;
use crate::pool::lock;
use crate::session::CatalogFacts;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The facts of one database.
#[derive(Debug)]
pub struct Catalog {
    facts: Mutex<Facts>,
    /// Changes whenever the facts do; never 0.
    generation: AtomicU32,
}

#[derive(Debug)]
struct Facts {
    current: Arc<CatalogFacts>,
    probing: bool,
    probed_at: Option<Moment>,
}

impl Default for Catalog {
    fn default() -> Catalog {
        let facts = Facts { current: Arc::new(CatalogFacts::unknown()), probing: false, probed_at: None };
        Catalog { facts: Mutex::new(facts), generation: AtomicU32::new(1) }
    }
}

impl Catalog {
    /// The generation of the catalog facts; take them again when it changes.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is known of the catalog.
    pub(crate) fn facts(&self) -> (u32, Arc<CatalogFacts>) {
        let facts = lock(&self.facts);
        (self.generation(), facts.current.clone())
    }

    /// Forgets what is known of the catalog: somebody changed it.
    pub(crate) fn forget(&self) {
        let mut facts = lock(&self.facts);
        facts.probed_at = None;
        if facts.current.is_known() {
            self.install_facts(&mut facts, CatalogFacts::unknown());
        }
    }

    /// Whether the catalog is to be probed now; the caller who is told so must probe or give up with
    /// [`Catalog::probed`].
    pub(crate) fn claim_probe(&self, now: Moment, interval: Duration) -> bool {
        let mut facts = lock(&self.facts);
        let due = facts.probed_at.is_none_or(|at| now - at >= interval);
        let claimed = due && !facts.probing;
        if claimed {
            facts.probing = true;
            facts.probed_at = Some(now);
        }
        claimed
    }

    /// Takes in the outcome of a claimed probe. One during which the facts were forgotten counts for nothing.
    pub(crate) fn probed(&self, outcome: Option<CatalogFacts>) {
        let mut facts = lock(&self.facts);
        facts.probing = false;
        if facts.probed_at.is_none() {
            return;
        }
        match outcome {
            Some(found) => self.install_facts(&mut facts, found),
            None => self.install_facts(&mut facts, CatalogFacts::unknown()),
        }
    }

    fn install_facts(&self, facts: &mut Facts, found: CatalogFacts) {
        facts.current = Arc::new(found);
        let next = self.generation.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.generation.store(next, Ordering::Release);
    }
}
