//! Values to bytes.

use super::signature::alignment;
use super::value::Value;

/// Little-endian writer; offsets count from the start of the message, which is 8-aligned.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn align(&mut self, to: usize) {
        let padded = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(padded, 0);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.u32(length(text.len()));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn signature(&mut self, text: &str) {
        // Signatures longer than 255 are never built: they come from our tables or from checked input.
        self.bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(v) => self.bytes.push(*v),
            Value::Bool(v) => self.u32(u32::from(*v)),
            Value::I16(v) => {
                self.align(2);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::U16(v) => {
                self.align(2);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::I32(v) => {
                self.align(4);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::U32(v) | Value::Fd(v) => self.u32(*v),
            Value::I64(v) => {
                self.align(8);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::U64(v) => {
                self.align(8);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::F64(v) => {
                self.align(8);
                self.bytes.extend_from_slice(&v.to_le_bytes());
            }
            Value::Str(v) | Value::Path(v) => self.text(v),
            Value::Signature(v) => self.signature(v),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
            Value::Array(element, items) => self.array(element, items),
            Value::Struct(fields) => {
                self.align(8);
                for field in fields {
                    self.value(field);
                }
            }
            Value::Entry(entry) => {
                self.align(8);
                self.value(&entry.0);
                self.value(&entry.1);
            }
        }
    }

    fn array(&mut self, element: &str, items: &[Value]) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(alignment(
            element.as_bytes().first().copied().unwrap_or(b'y'),
        ));
        let start = self.bytes.len();
        for item in items {
            self.value(item);
        }
        let size = length(self.bytes.len() - start);
        self.bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
    }
}

/// A length as the wire wants it. Over 4 GiB cannot happen: senders bound messages far below.
fn length(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
