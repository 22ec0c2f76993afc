//! The quantities of a scenario as people write them: `90s`, `1h30m`, `4MiB`.

use crate::domain::vm::ResyncWindow;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub u64);

/// Unit names with their milliseconds, the longest unit first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Whole hours.
    pub const fn hours(hours: u64) -> Self {
        Self(hours * 3_600_000)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parts(&text, &UNITS).map(Self).ok_or_else(|| {
            format!("{text:?} is no length of time: write it as \"90s\", \"1h30m\" or \"2d\"")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS {
            if unit <= rest {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// When resynchronizations begin by themselves: `always`, `manual`, or a time of the day as in `18:30-06:00`, in
/// UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window(pub ResyncWindow);

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let minute = |time: &str| {
            let (hours, minutes) = time.split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let daily = || {
            let (from, to) = text.split_once('-')?;
            let (from_minute, to_minute) = (minute(from)?, minute(to)?);
            Some(ResyncWindow::Daily { from_minute, to_minute, utc_offset_minutes: 0 })
        };
        let window = match text.as_str() {
            "always" => Some(ResyncWindow::Always),
            "manual" => Some(ResyncWindow::Manual),
            _ => daily(),
        };
        window.map(Self).ok_or_else(|| {
            format!("{text:?} is no window: write \"18:30-06:00\", \"always\" or \"manual\"")
        })
    }
}

impl From<Window> for String {
    fn from(Window(window): Window) -> Self {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        match window {
            ResyncWindow::Always => "always".to_owned(),
            ResyncWindow::Manual => "manual".to_owned(),
            ResyncWindow::Daily { from_minute, to_minute, .. } => {
                format!("{}-{}", clock(from_minute), clock(to_minute))
            }
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parts(&text, &SIZES)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size: write it as \"4MiB\" or \"512KiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let even = SIZES.iter().find(|(_, unit)| *unit <= self.0 && self.0.is_multiple_of(*unit));
        let (name, unit) = even.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// Reads numbers with units, one after the other.
fn parts(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text;
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (_, unit) = units.iter().find(|(name, _)| *name == &rest[..letters])?;
        rest = &rest[letters..];
        sum = sum.checked_add(number.checked_mul(*unit)?)?;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        for (text, millis) in
            [("0s", 0), ("250ms", 250), ("90s", 90_000), ("1h30m", 5_400_000), ("2d", 172_800_000)]
        {
            assert_eq!(Span::try_from(text.to_owned()), Ok(Span(millis)), "{text}");
        }
        assert_eq!(Span(5_400_250).to_string(), "1h30m250ms");
        for text in ["", "90", "s", "1x", "-5m", "99999999999999999999s", "1 m"] {
            assert!(Span::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn windows_are_read_as_they_are_written() {
        for text in ["always", "manual", "18:30-06:00", "00:00-23:59"] {
            let window = Window::try_from(text.to_owned()).map(String::from);
            assert_eq!(window, Ok(text.to_owned()));
        }
        for text in ["", "18:30", "24:00-06:00", "18:60-06:00", "18-6"] {
            assert!(Window::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(Size::try_from("3MiB".to_owned()), Ok(Size(3 << 20)));
        assert_eq!(Size(3 << 20).to_string(), "3MiB");
        assert!(Size::try_from("3MB".to_owned()).is_err());
    }
}
