//! Durations: a number and a unit, or a bare number of seconds as in pgbouncer.

use std::time::Duration;

use super::{Scalar, Unit, quoted};

/// A duration.
pub(in crate::config) struct Time;

impl Unit for Time {
    type Value = Duration;
    const KIND: &'static str = "duration";

    fn read(scalar: &Scalar) -> Result<Duration, String> {
        duration(scalar, Duration::from_secs(1), r#"such as "30s", "5min" or "100ms""#)
    }

    fn write(value: &Duration) -> Option<String> {
        Some(written_duration(*value))
    }
}

/// A duration that is not 0.
pub(in crate::config) struct Pause;

impl Unit for Pause {
    type Value = Duration;
    const KIND: &'static str = "duration";

    fn read(scalar: &Scalar) -> Result<Duration, String> {
        let time = Time::read(scalar)?;
        if time.is_zero() {
            return Err(r#"0 would retry without a pause; write a duration such as "1s""#.into());
        }
        Ok(time)
    }

    fn write(value: &Duration) -> Option<String> {
        Time::write(value)
    }
}

/// A duration that may be unlimited, written as 0.
pub(in crate::config) struct TimeLimit;

impl Unit for TimeLimit {
    type Value = Option<Duration>;
    const KIND: &'static str = "duration";

    fn read(scalar: &Scalar) -> Result<Option<Duration>, String> {
        duration(scalar, Duration::from_secs(1), r#"such as "30s", "5min" or "100ms", or 0 for off"#)
            .map(|time| (!time.is_zero()).then_some(time))
    }

    fn write(value: &Option<Duration>) -> Option<String> {
        Some(value.map_or_else(|| "0".into(), written_duration))
    }
}

/// As [`TimeLimit`], but a bare number counts milliseconds, as in pgbouncer's `tcp_user_timeout`.
pub(in crate::config) struct MillisLimit;

impl Unit for MillisLimit {
    type Value = Option<Duration>;
    const KIND: &'static str = "duration (bare number: milliseconds)";

    fn read(scalar: &Scalar) -> Result<Option<Duration>, String> {
        duration(scalar, Duration::from_millis(1), r#"such as "30s", 30000 (milliseconds), or 0 for off"#)
            .map(|time| (!time.is_zero()).then_some(time))
    }

    fn write(value: &Option<Duration>) -> Option<String> {
        TimeLimit::write(value)
    }
}

/// What a duration may be followed by, longest first where one ends in another.
const TIME_UNITS: [(&str, Duration); 6] = [
    ("d", Duration::from_secs(86_400)),
    ("h", Duration::from_secs(3_600)),
    ("min", Duration::from_secs(60)),
    ("s", Duration::from_secs(1)),
    ("ms", Duration::from_millis(1)),
    ("us", Duration::from_micros(1)),
];

/// Longer than any limit that is meant, short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

fn duration(scalar: &Scalar, bare: Duration, how: &str) -> Result<Duration, String> {
    let wrong = || format!("{scalar} is not a duration; write one {how}");
    let time = match scalar {
        Scalar::Integer(number) => times(&number.to_string(), bare),
        Scalar::Float(number) => times(&number.to_string(), bare),
        Scalar::Text(text) => {
            let text = text.trim();
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let (number, unit) = (&text[..end], text[end..].trim());
            let unit = match TIME_UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, unit)) => *unit,
                None if unit.is_empty() => bare,
                None => return Err(wrong()),
            };
            times(number, unit)
        }
        _ => None,
    }
    .ok_or_else(wrong)?;
    if time > LONGEST {
        return Err(format!(
            "{scalar} is too long; write at most \"36500d\", or 0 for off where that is allowed"
        ));
    }
    Ok(time)
}

/// `number` units; whole numbers exactly.
fn times(number: &str, unit: Duration) -> Option<Duration> {
    match number.parse::<u64>() {
        Ok(whole) => {
            let nanos = u128::from(whole).checked_mul(unit.as_nanos())?;
            let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
            Some(Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).ok()?))
        }
        Err(_) => Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit.as_secs_f64()).ok(),
    }
}

/// The shortest exact way to write `time`; below a microsecond it is cut.
fn written_duration(time: Duration) -> String {
    if time.is_zero() {
        return "0".into();
    }
    let micros = time.as_micros();
    let (name, unit) = TIME_UNITS
        .iter()
        .find(|(_, unit)| micros.is_multiple_of(unit.as_micros()))
        .unwrap_or(&TIME_UNITS[TIME_UNITS.len() - 1]);
    quoted(&format!("{}{name}", micros / unit.as_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.into())
    }

    #[test]
    fn durations_take_units() {
        for (written, millis) in [
            ("30s", 30_000),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("100ms", 100),
            ("0.5s", 500),
            ("1.5 h", 5_400_000),
            ("15", 15_000),
            ("0.25", 250),
            ("0", 0),
        ] {
            assert_eq!(Time::read(&text(written)), Ok(Duration::from_millis(millis)), "{written}");
        }
        assert_eq!(Time::read(&text("7us")), Ok(Duration::from_micros(7)));
        assert_eq!(Time::read(&Scalar::Integer(15)), Ok(Duration::from_secs(15)));
        assert_eq!(Time::read(&Scalar::Float(0.5)), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for wrong in [
            "",
            "s",
            "5m",
            "5 minutes",
            "-1s",
            "1e3s",
            "1.2.3s",
            "NaN",
            "inf",
            "99999999999999999999h",
            "36501d",
        ] {
            assert!(Time::read(&text(wrong)).is_err(), "{wrong:?}");
        }
        for wrong in [Scalar::Integer(-1), Scalar::Float(f64::NAN), Scalar::Float(-0.5), Scalar::Flag(true)] {
            assert!(Time::read(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Time::read(&text("5m")).unwrap_err(),
            r#""5m" is not a duration; write one such as "30s", "5min" or "100ms""#
        );
        assert!(Pause::read(&Scalar::Integer(0)).is_err());
    }

    #[test]
    fn a_bare_tcp_user_timeout_counts_milliseconds() {
        assert_eq!(MillisLimit::read(&Scalar::Integer(250)), Ok(Some(Duration::from_millis(250))));
        assert_eq!(MillisLimit::read(&text("2s")), Ok(Some(Duration::from_secs(2))));
    }

    proptest! {
        #[test]
        fn written_durations_read_back(micros in 0..LONGEST.as_micros() as u64) {
            let time = Duration::from_micros(micros);
            let written = written_duration(time);
            let parsed = Scalar::deserialize(toml::de::ValueDeserializer::parse(&written).unwrap()).unwrap();
            prop_assert_eq!(Time::read(&parsed), Ok(time));
        }
    }
}
