//! What TLS is set up with now, and how that changes while pgvalet runs.
//!
//! Invariant: what is in force always works. Settings or files that do not stay without effect until they do.

use crate::net::tls::files::{Stamp, Unusable};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Settings that lead to a `Made`, by way of files that may change at any time.
pub trait Source: Clone + std::fmt::Debug {
    /// What connections use.
    type Made: std::fmt::Debug;

    /// Makes it from the files as they are now; `None` if the settings ask for no TLS.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    fn make(&self) -> Result<Option<Self::Made>, Unusable>;

    /// The files it depends on.
    fn files(&self) -> Vec<PathBuf>;
}

/// What is in force, and what was last asked for.
#[derive(Debug)]
pub struct Current<S: Source> {
    inner: Mutex<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S: Source> {
    made: Option<Arc<S::Made>>,
    wanted: S,
    /// The files when they were last looked at.
    stamps: Vec<Option<Stamp>>,
}

impl<S: Source> Current<S> {
    /// Sets TLS up for the first time.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn new(wanted: S) -> Result<Current<S>, Unusable> {
        let stamps = stamps(&wanted);
        let made = wanted.make()?.map(Arc::new);
        Ok(Current { inner: Mutex::new(Inner { made, wanted, stamps }) })
    }

    /// What new connections use; `None`: no TLS.
    pub fn get(&self) -> Option<Arc<S::Made>> {
        self.lock().made.clone()
    }

    /// Puts other settings in force, and the files as they are now.
    ///
    /// # Errors
    /// Which file cannot be used, and why: what was in force stays so.
    pub fn set(&self, wanted: &S) -> Result<(), Unusable> {
        // Before the files are read: a change in between is seen as one later.
        let stamps = stamps(wanted);
        let made = wanted.make();
        let mut inner = self.lock();
        inner.wanted = wanted.clone();
        inner.stamps = stamps;
        inner.made = made?.map(Arc::new);
        Ok(())
    }

    /// Reads the files again if one has changed; says whether.
    ///
    /// # Errors
    /// Which file cannot be used, and why: what was in force stays so.
    pub fn refresh(&self) -> Result<bool, Unusable> {
        let (wanted, known) = {
            let inner = self.lock();
            (inner.wanted.clone(), inner.stamps.clone())
        };
        if stamps(&wanted) == known {
            return Ok(false);
        }
        self.set(&wanted).map(|()| true)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(source: &impl Source) -> Vec<Option<Stamp>> {
    source.files().iter().map(|file| Stamp::of(file)).collect()
}
