//! 128-bit identifiers: machine, boot, file, sequence.

use std::fmt;
use std::io;
use std::path::Path;

/// A 128-bit identifier, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id128(pub [u8; 16]);

impl Id128 {
    /// Reads 32 hexadecimal digits, or the dashed form of a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0u8; 16];
        let mut digits = text.trim().bytes().filter(|b| *b != b'-');
        for byte in &mut bytes {
            let high = (digits.next()? as char).to_digit(16)?;
            let low = (digits.next()? as char).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        digits.next().is_none().then_some(Self(bytes))
    }

    /// A new random identifier (version 4).
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0u8; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// This boot's identifier, from the kernel.
    pub fn boot() -> io::Result<Self> {
        Self::from_file(Path::new("/proc/sys/kernel/random/boot_id"))
    }

    /// This machine's identifier, `/etc/machine-id`.
    pub fn machine() -> io::Result<Self> {
        Self::from_file(Path::new("/etc/machine-id"))
    }

    fn from_file(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        Self::parse(&text)
            .filter(|id| *id != Self::default())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds no identifier", path.display()),
                )
            })
    }
}

impl fmt::Display for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printing_and_parsing_agree(bytes: [u8; 16]) {
            prop_assert_eq!(Id128::parse(&Id128(bytes).to_string()), Some(Id128(bytes)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = Id128::parse(&text);
        }
    }

    #[test]
    fn uuids_are_understood_and_other_lengths_are_not() {
        let id = Id128::parse("6f9619ff-8b86-d011-b42d-00c04fc964ff\n").expect("valid");
        assert_eq!(id.to_string(), "6f9619ff8b86d011b42d00c04fc964ff");
        assert_eq!(Id128::parse("6f"), None);
        assert_eq!(Id128::parse("6f9619ff8b86d011b42d00c04fc964ff00"), None);
    }
}
