//! Bytes to values, with every check that hostile input needs.

use super::signature::{self, alignment};
use super::value::{Value, is_object_path};

/// Nesting of variants, arrays and structures together.
const MAX_NESTING: usize = 64;
/// Size of one array at most.
const MAX_ARRAY: usize = 64 * 1024 * 1024;

/// Why bytes are no D-Bus message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the value needs.
    #[error("message ends too early")]
    Truncated,
    /// More bytes than the body's signature says.
    #[error("message has bytes that its signature does not name")]
    Trailing,
    /// First byte is neither `l` nor `B`.
    #[error("byte order mark is neither l nor B")]
    ByteOrder,
    /// Not protocol version 1.
    #[error("protocol version is not 1")]
    Version,
    /// Larger than accepted.
    #[error("message is too large")]
    TooLarge,
    /// Nested deeper than accepted.
    #[error("message is nested too deep")]
    TooDeep,
    /// A string is not UTF-8, has a NUL inside, or is not terminated.
    #[error("malformed string")]
    BadString,
    /// An object path that is none.
    #[error("malformed object path")]
    BadPath,
    /// A signature that is none.
    #[error("malformed signature")]
    BadSignature,
    /// A boolean other than 0 and 1.
    #[error("boolean is neither 0 nor 1")]
    BadBool,
    /// Padding that is not zero.
    #[error("padding is not zero")]
    BadPadding,
    /// Header fields that do not make a message of its kind.
    #[error("malformed header")]
    BadHeader,
}

/// Reads from a whole message, so that alignment is right.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], at: usize, big: bool) -> Self {
        Self { bytes, at, big }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn align(&mut self, to: usize) -> Result<(), DecodeError> {
        let padded = self.at.next_multiple_of(to);
        let padding = self
            .bytes
            .get(self.at..padded)
            .ok_or(DecodeError::Truncated)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::BadPadding);
        }
        self.at = padded;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(count).ok_or(DecodeError::Truncated)?;
        let slice = self.bytes.get(self.at..end).ok_or(DecodeError::Truncated)?;
        self.at = end;
        Ok(slice)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.align(N)?;
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        if self.big {
            array.reverse();
        }
        Ok(array)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    fn terminated(&mut self, count: usize) -> Result<&'a str, DecodeError> {
        let bytes = self.take(count)?;
        if self.byte()? != 0 || bytes.contains(&0) {
            return Err(DecodeError::BadString);
        }
        std::str::from_utf8(bytes).map_err(|_| DecodeError::BadString)
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let count = self.u32()? as usize;
        self.terminated(count)
    }

    fn signature(&mut self) -> Result<&'a str, DecodeError> {
        let count = usize::from(self.byte()?);
        let text = self.terminated(count)?;
        if signature::check(text) {
            Ok(text)
        } else {
            Err(DecodeError::BadSignature)
        }
    }

    /// One value of the complete type `kind`, which has been checked.
    pub(crate) fn value(&mut self, kind: &str, depth: usize) -> Result<Value, DecodeError> {
        if depth > MAX_NESTING {
            return Err(DecodeError::TooDeep);
        }
        Ok(
            match kind.as_bytes().first().ok_or(DecodeError::BadSignature)? {
                b'y' => Value::Byte(self.byte()?),
                b'b' => match self.u32()? {
                    0 => Value::Bool(false),
                    1 => Value::Bool(true),
                    _ => return Err(DecodeError::BadBool),
                },
                b'n' => Value::I16(i16::from_le_bytes(self.fixed()?)),
                b'q' => Value::U16(u16::from_le_bytes(self.fixed()?)),
                b'i' => Value::I32(i32::from_le_bytes(self.fixed()?)),
                b'u' => Value::U32(self.u32()?),
                b'h' => Value::Fd(self.u32()?),
                b'x' => Value::I64(i64::from_le_bytes(self.fixed()?)),
                b't' => Value::U64(u64::from_le_bytes(self.fixed()?)),
                b'd' => Value::F64(f64::from_le_bytes(self.fixed()?)),
                b's' => Value::Str(self.text()?.to_owned()),
                b'o' => {
                    let path = self.text()?;
                    if !is_object_path(path) {
                        return Err(DecodeError::BadPath);
                    }
                    Value::Path(path.to_owned())
                }
                b'g' => Value::Signature(self.signature()?.to_owned()),
                b'v' => {
                    let inner = self.signature()?;
                    if signature::split(inner).is_none_or(|parts| parts.len() != 1) {
                        return Err(DecodeError::BadSignature);
                    }
                    Value::Variant(Box::new(self.value(inner, depth + 1)?))
                }
                b'a' => self.array(&kind[1..], depth)?,
                b'(' => {
                    self.align(8)?;
                    let parts = signature::split(&kind[1..kind.len() - 1])
                        .ok_or(DecodeError::BadSignature)?;
                    let fields = parts.into_iter().map(|part| self.value(part, depth + 1));
                    Value::Struct(fields.collect::<Result<_, _>>()?)
                }
                b'{' => {
                    self.align(8)?;
                    let key = self.value(&kind[1..2], depth + 1)?;
                    let value = self.value(&kind[2..kind.len() - 1], depth + 1)?;
                    Value::Entry(Box::new((key, value)))
                }
                _ => return Err(DecodeError::BadSignature),
            },
        )
    }

    fn array(&mut self, element: &str, depth: usize) -> Result<Value, DecodeError> {
        let size = self.u32()? as usize;
        if size > MAX_ARRAY {
            return Err(DecodeError::TooLarge);
        }
        self.align(alignment(
            element
                .as_bytes()
                .first()
                .copied()
                .ok_or(DecodeError::BadSignature)?,
        ))?;
        let end = self.at.checked_add(size).ok_or(DecodeError::Truncated)?;
        if end > self.bytes.len() {
            return Err(DecodeError::Truncated);
        }
        let mut items = Vec::new();
        while self.at < end {
            items.push(self.value(element, depth + 1)?);
        }
        if self.at != end {
            return Err(DecodeError::Truncated);
        }
        Ok(Value::Array(element.to_owned(), items))
    }
}
