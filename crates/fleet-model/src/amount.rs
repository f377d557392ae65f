//! Amounts of memory and of processors: what units reserve and machines offer.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More is a mistake: 1 EiB, a million processors.
const MOST_BYTES: u64 = 1 << 60;
const MOST_MILLIS: u64 = 1_000_000_000;

/// An amount of processors, in thousandths. In JSON it is a number of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cpu(u64);

impl Cpu {
    /// So many thousandths of a processor.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(millis.min(MOST_MILLIS))
    }

    /// In thousandths.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0
    }

    /// Reads `1.5` (processors) or `150%`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (number, thousandths) = match text.strip_suffix('%') {
            Some(number) => (number, 10),
            None => (text, 1000),
        };
        let millis = scaled(number.trim(), thousandths)
            .ok_or("not a number of processors like 1.5, or a percentage like 150%")?;
        if millis > MOST_MILLIS {
            return Err("more than a million processors");
        }
        Ok(Self(millis))
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:03}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            return to.serialize_u64(self.0 / 1000);
        }
        // At most 1e9 thousandths: exact.
        #[allow(clippy::cast_precision_loss)]
        to.serialize_f64(self.0 as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let processors = f64::deserialize(from)?;
        let millis = (processors * 1000.0).round();
        if !(0.0..=1e9).contains(&millis) {
            return Err(serde::de::Error::custom("not a number of processors"));
        }
        // Checked above.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(millis as u64))
    }
}

/// Reads an amount of memory: bytes, or with K, M, G, T (powers of 1024), also `1.5G`.
pub fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    let text = text.trim();
    let shift = match text.bytes().last() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let number = if shift == 0 {
        text
    } else {
        text.get(..text.len() - 1).unwrap_or("").trim()
    };
    let bytes = scaled(number, 1 << shift)
        .ok_or("not an amount of memory like 512M (bytes, or with K, M, G, T)")?;
    if bytes > MOST_BYTES {
        return Err("more memory than there is");
    }
    Ok(bytes)
}

/// Bytes as people write them, exact.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A decimal number times `scale`, fractions cut off. Whole numbers are exact.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let fraction = fraction.get(..fraction.len().min(9)).unwrap_or("");
    let part = match fraction {
        "" => 0,
        digits => {
            let length = u32::try_from(digits.len()).ok()?;
            let value = u128::from(digits.parse::<u64>().ok()?) * u128::from(scale);
            u64::try_from(value / 10_u128.pow(length)).ok()?
        }
    };
    whole.checked_add(part)
}

/// What a machine offers to units. What is not known is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub cpu: Option<Cpu>,
}

/// What units reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reservation {
    /// Memory in bytes.
    pub memory: u64,
    /// Processors.
    pub cpu: Cpu,
}

impl Reservation {
    /// Nothing at all.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_add(other.memory),
            cpu: Cpu(self.cpu.0.saturating_add(other.cpu.0)),
        }
    }

    /// What remains without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory: self.memory.saturating_sub(other.memory),
            cpu: Cpu(self.cpu.0.saturating_sub(other.cpu.0)),
        }
    }

    /// Whether it is within an offer. Reserving nothing of a kind is always within it.
    #[must_use]
    pub fn fits(self, offer: &Offer) -> bool {
        let within = |need, offer: Option<u64>| offer.is_none_or(|offer| need <= offer);
        within(self.memory, offer.memory) && within(self.cpu.0, offer.cpu.map(|c| c.0))
    }

    /// The larger share of an offer that this is, in millionths; what is not known counts nothing.
    #[must_use]
    pub fn share(self, offer: &Offer) -> u64 {
        let part = |need: u64, offer: Option<u64>| match offer {
            Some(offer) if need > 0 => {
                let share = u128::from(need) * 1_000_000 / u128::from(offer.max(1));
                u64::try_from(share).unwrap_or(u64::MAX).min(1 << 40)
            }
            _ => 0,
        };
        part(self.memory, offer.memory).max(part(self.cpu.0, offer.cpu.map(|c| c.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("1K", Some(1024)),
            ("1.5M", Some(1_572_864)),
            ("2G", Some(2 << 30)),
            ("3 T", Some(3 << 40)),
            ("2000000T", None),
            ("99999999999999999999", None),
            ("-1", None),
            ("1e9", None),
            ("M", None),
            ("", None),
            ("1.M", None),
            ("1.5.2", None),
            ("infinity", None),
            ("10%", None),
            ("é", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text}");
        }
        for (text, millis) in [
            ("1", Some(1000)),
            ("0.25", Some(250)),
            ("1.0005", Some(1000)),
            ("150%", Some(1500)),
            ("12.5%", Some(125)),
            ("2000000", None),
            ("%", None),
            ("two", None),
        ] {
            assert_eq!(Cpu::parse(text).ok().map(Cpu::millis), millis, "{text}");
        }
    }

    #[test]
    fn amounts_are_written_as_they_are_read() {
        for bytes in [
            0,
            1,
            1023,
            1024,
            1536,
            5 << 20,
            3 << 30,
            7 << 40,
            (1 << 20) + 1,
        ] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        for millis in [0, 1, 250, 1000, 1500, 64_000] {
            let cpu = Cpu::from_millis(millis);
            assert_eq!(Cpu::parse(&cpu.to_string()), Ok(cpu));
            let json = serde_json::to_string(&cpu).unwrap();
            assert_eq!(serde_json::from_str::<Cpu>(&json).unwrap(), cpu);
        }
        assert_eq!(serde_json::to_string(&Cpu(4000)).unwrap(), "4");
        assert!(serde_json::from_str::<Cpu>("-1").is_err());
    }

    #[test]
    fn what_is_not_offered_is_not_limited() {
        let need = Reservation {
            memory: 512,
            cpu: Cpu(500),
        };
        let offer = |memory, cpu: Option<u64>| Offer {
            memory,
            cpu: cpu.map(Cpu),
        };
        assert!(need.fits(&offer(None, None)) && need.fits(&offer(Some(512), Some(500))));
        assert!(!need.fits(&offer(Some(511), None)) && !need.fits(&offer(None, Some(499))));
        assert_eq!(need.share(&offer(Some(1024), Some(2000))), 500_000);
        assert_eq!(need.share(&offer(None, None)), 0);
        assert_eq!(need.share(&offer(Some(0), None)), 512_000_000);
    }
}
