//! The monotonic clock, in one machine word.
//!
//! What the path of a transaction needs of time is to read the clock twice and to subtract. [`std::time::Instant`] takes
//! some seventy instructions for a subtraction and 16 bytes wherever one is kept; a [`Moment`] takes one and 8.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

/// How often one reading of the clock serves before it is read anew.
const USES: u32 = 8;

thread_local! {
    /// The last reading of [`Moment::recent`], and how often it may still be used.
    static RECENT: Cell<(Moment, u32)> = const { Cell::new((Moment(NonZeroU64::MIN), 0)) };
}

/// A point in time: nanoseconds of the system's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// This moment.
    #[inline]
    #[must_use]
    pub fn now() -> Moment {
        // Every Linux has this clock: the call cannot fail.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        Moment::at((time.tv_sec() as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec() as u64))
    }

    /// A moment ago: the clock is read when the thread has waited since it was last read ([`Moment::has_waited`]), and once
    /// in a few times else. So what it tells is late only while there is always something to do, by a few transactions.
    #[inline]
    #[must_use]
    pub fn recent() -> Moment {
        RECENT.with(|recent| {
            let (moment, uses) = recent.get();
            let (moment, uses) = if uses > 0 { (moment, uses) } else { (Moment::now(), USES) };
            recent.set((moment, uses - 1));
            moment
        })
    }

    /// Says that the thread has waited: time has passed.
    pub fn has_waited() {
        RECENT.with(|recent| recent.set((recent.get().0, 0)));
    }

    /// Microseconds since a point in the past that is the same for the whole process; never 0.
    #[inline]
    #[must_use]
    pub fn micros(self) -> u64 {
        (self.0.get() / 1000).max(1)
    }

    /// Microseconds that have passed since `earlier`; 0 if it is later.
    #[inline]
    #[must_use]
    pub fn micros_since(self, earlier: Moment) -> u64 {
        self.0.get().saturating_sub(earlier.0.get()) / 1000
    }

    /// The time that has passed since `earlier`; none if it is later.
    #[inline]
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// The time that has passed since.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Moment::now().saturating_duration_since(self)
    }

    /// The moment `duration` earlier; `None` if the clock does not go back that far.
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Moment> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        NonZeroU64::new(self.0.get().checked_sub(nanos)?).map(Moment)
    }

    #[inline]
    fn at(nanos: u64) -> Moment {
        Moment(NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Later than the clock can tell is as late as it can tell: five hundred years.
    fn add(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment::at(self.0.get().saturating_add(nanos))
    }
}

impl Sub<Moment> for Moment {
    type Output = Duration;

    fn sub(self, earlier: Moment) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_apart_and_never_overflow() {
        let now = Moment::now();
        let later = now + Duration::from_millis(1500);
        assert!(later > now);
        assert_eq!(later - now, Duration::from_millis(1500));
        assert_eq!(now - later, Duration::ZERO);
        assert_eq!(later.micros_since(now), 1_500_000);
        assert_eq!(later.checked_sub(Duration::from_millis(1500)), Some(now));
        assert_eq!(now.checked_sub(Duration::MAX), None);
        assert!(now + Duration::MAX > later);
        assert!(Moment::now() >= now);
    }

    #[test]
    fn the_recent_moment_is_now_after_a_wait_and_after_a_few_uses() {
        Moment::has_waited();
        let now = Moment::now();
        let first = Moment::recent();
        assert!(first >= now);
        assert!((1..USES).all(|_| Moment::recent() == first));
        assert!(Moment::recent() > first);
        let last = Moment::recent();
        Moment::has_waited();
        assert!(Moment::recent() > last);
    }

    #[test]
    fn it_takes_one_word_even_where_there_may_be_none() {
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
