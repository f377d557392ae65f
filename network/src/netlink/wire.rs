//! The netlink byte format: message headers and attributes, nothing about what they mean.
//!
//! All numbers are in the machine's byte order. Parsing is total: a short or inconsistent buffer ends the iteration.

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// The request flag every message from us carries.
pub const NLM_F_REQUEST: u16 = 0x001;
/// Ask for an answer also on success.
pub const NLM_F_ACK: u16 = 0x004;
/// List all objects.
pub const NLM_F_DUMP: u16 = 0x300;
/// Replace an object that exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Fail if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Create the object if it does not exist.
pub const NLM_F_CREATE: u16 = 0x400;
/// Add beside what exists (bridge forwarding entries).
pub const NLM_F_APPEND: u16 = 0x800;

/// Message type of errors and acknowledgements.
pub const NLMSG_ERROR: u16 = 2;
/// Message type that ends a dump.
pub const NLMSG_DONE: u16 = 3;

/// Marks an attribute that contains attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute type that are the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

fn aligned(len: usize) -> usize {
    len.saturating_add(3) & !3
}

/// One request under construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    buf: Vec<u8>,
}

impl Request {
    /// Starts a message of `kind`; `flags` are added to `NLM_F_REQUEST`.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut buf = vec![0; HEADER];
        buf[4..6].copy_from_slice(&kind.to_ne_bytes());
        buf[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self { buf }
    }

    /// Appends the fixed part that follows the header.
    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push_attr(kind, value);
        self
    }

    /// Appends an attribute if there is a value.
    pub fn attr_opt(self, kind: u16, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.attr(kind, value),
            None => self,
        }
    }

    /// Appends a 32-bit attribute.
    pub fn attr_u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a string attribute with its terminating zero.
    pub fn attr_str(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends an attribute whose content is what `fill` appends.
    pub fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.buf.len();
        self.push_attr(kind | NLA_F_NESTED, &[]);
        let mut out = fill(self);
        let len = u16::try_from(out.buf.len() - start).unwrap_or(u16::MAX);
        out.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        out
    }

    /// The finished message with its length and sequence number.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.buf.len()).unwrap_or(u32::MAX);
        self.buf[0..4].copy_from_slice(&len.to_ne_bytes());
        self.buf[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.buf
    }

    fn push_attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.buf.resize(aligned(self.buf.len()), 0);
    }
}

/// One received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `RTM_…` or `NLMSG_…`.
    pub kind: u16,
    /// Sequence number of the request it answers.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Splits a datagram into its messages.
pub fn messages(mut buf: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = read_u32(buf, 0)? as usize;
        if len < HEADER || len > buf.len() {
            return None;
        }
        let message = Message {
            kind: read_u16(buf, 4)?,
            sequence: read_u32(buf, 8)?,
            body: &buf[HEADER..len],
        };
        buf = &buf[aligned(len).min(buf.len())..];
        Some(message)
    })
}

/// Splits the part after a fixed header into attributes `(type, value)`.
pub fn attributes(mut buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(read_u16(buf, 0)?);
        let kind = read_u16(buf, 2)? & NLA_TYPE_MASK;
        if len < 4 || len > buf.len() {
            return None;
        }
        let value = &buf[4..len];
        buf = &buf[aligned(len).min(buf.len())..];
        Some((kind, value))
    })
}

/// Reads a 16-bit number at an offset.
pub fn read_u16(buf: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(buf.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a 32-bit number at an offset.
pub fn read_u32(buf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(buf.get(at..at + 4)?.try_into().ok()?))
}

/// A string attribute's text up to its terminating zero.
pub fn read_str(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_read_back() {
        let bytes = Request::new(16, NLM_F_ACK)
            .body(&[1, 2, 3, 4])
            .attr_str(3, "eth0")
            .nested(18, |r| r.attr_u32(1, 7).attr(2, &[9]))
            .finish(42);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].sequence), (16, 42));
        let attrs: Vec<_> = attributes(&all[0].body[4..]).collect();
        assert_eq!(read_str(attrs[0].1), "eth0");
        assert_eq!(attrs[1].0, 18);
        let inner: Vec<_> = attributes(attrs[1].1).collect();
        assert_eq!(inner, vec![(1, &7u32.to_ne_bytes()[..]), (2, &[9u8][..])]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_ends(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.body) {
                    let _ = attributes(value).count();
                }
            }
        }
    }
}
