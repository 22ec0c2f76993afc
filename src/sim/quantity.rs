//! The quantities of a scenario as people write them: `90s`, `1h30m`, `4MiB`.

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
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(Size::try_from("3MiB".to_owned()), Ok(Size(3 << 20)));
        assert_eq!(Size(3 << 20).to_string(), "3MiB");
        assert!(Size::try_from("3MB".to_owned()).is_err());
    }
}
