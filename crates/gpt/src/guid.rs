//! GUIDs: on disk their first three fields are little-endian, in text they are not.

use std::fmt;
use std::str::FromStr;

/// A GUID in its on-disk byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// Where each byte of the text stands on disk.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// The text is not `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GUID: {text:?}")]
pub struct BadGuid {
    /// What was given.
    pub text: String,
}

impl Guid {
    /// Whether all bytes are zero: an entry of this type is not in use.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, at) in ORDER.into_iter().enumerate() {
            let dash = if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02x}", self.0[at])?;
        }
        Ok(())
    }
}

impl FromStr for Guid {
    type Err = BadGuid;

    fn from_str(text: &str) -> Result<Guid, BadGuid> {
        let bad = || BadGuid {
            text: text.to_owned(),
        };
        let dashes = |(i, c): (usize, char)| (c == '-') == matches!(i, 8 | 13 | 18 | 23);
        if text.len() != 36 || !text.is_ascii() || !text.char_indices().all(dashes) {
            return Err(bad());
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let mut bytes = [0; 16];
        for (i, at) in ORDER.into_iter().enumerate() {
            let pair = &digits[2 * i..2 * i + 2];
            if !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            bytes[at] = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Guid(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_known_types_have_the_text_of_the_specification() {
        for (guid, text) in [
            (crate::TYPE_BIOS, "21686148-6449-6e6f-744e-656564454649"),
            (crate::TYPE_ESP, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
            (crate::TYPE_LINUX, "0fc63daf-8483-4772-8e79-3d69d8477de4"),
            (crate::TYPE_STATE, "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
        ] {
            assert_eq!(guid.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(bytes in any::<[u8; 16]>()) {
            let text = Guid(bytes).to_string();
            prop_assert_eq!(text.parse::<Guid>(), Ok(Guid(bytes)));
            prop_assert_eq!(text.to_uppercase().parse::<Guid>(), Ok(Guid(bytes)));
        }

        #[test]
        fn any_text_is_survived(text in ".{0,40}") {
            if let Ok(guid) = text.parse::<Guid>() {
                prop_assert_eq!(guid.to_string(), text.to_lowercase());
            }
        }
    }
}
