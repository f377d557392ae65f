//! Header and objects as bytes. No I/O.

use crate::id::Id128;

pub(crate) const SIGNATURE: &[u8; 8] = b"LPKSHHRH";

/// Size of the header that we write: everything up to the chain depths. Later fields are optional by the format's rules.
pub(crate) const HEADER_SIZE: u64 = 256;
/// Readers of others refuse less than this.
pub(crate) const MIN_HEADER_SIZE: u64 = 208;

pub(crate) const FLAG_KEYED: u32 = 1 << 2;
pub(crate) const FLAG_COMPACT: u32 = 1 << 4;
/// What may be set for us to read a file at all. Compression shows on each object, so the flags are no obstacle.
const KNOWN_FLAGS: u32 = 0b1_1111;

pub(crate) const OBJ_DATA: u8 = 1;
pub(crate) const OBJ_FIELD: u8 = 2;
pub(crate) const OBJ_ENTRY: u8 = 3;
pub(crate) const OBJ_DATA_TABLE: u8 = 4;
pub(crate) const OBJ_FIELD_TABLE: u8 = 5;
pub(crate) const OBJ_ARRAY: u8 = 6;
pub(crate) const OBJ_TAG: u8 = 7;

pub(crate) const OBJ_HEADER: u64 = 16;
pub(crate) const COMPRESSED: u8 = 0b111;

/// Offsets within a data object.
pub(crate) mod data {
    pub(crate) const HASH: u64 = 16;
    pub(crate) const NEXT_HASH: u64 = 24;
    pub(crate) const NEXT_FIELD: u64 = 32;
    pub(crate) const ENTRY: u64 = 40;
    pub(crate) const ARRAY: u64 = 48;
    pub(crate) const N_ENTRIES: u64 = 56;
    pub(crate) const PAYLOAD: u64 = 64;
    /// In compact files two more words stand before the payload.
    pub(crate) const PAYLOAD_COMPACT: u64 = 72;
}

/// Offsets within a field object.
pub(crate) mod field {
    pub(crate) const HASH: u64 = 16;
    pub(crate) const NEXT_HASH: u64 = 24;
    pub(crate) const HEAD_DATA: u64 = 32;
    pub(crate) const PAYLOAD: u64 = 40;
}

/// Offsets within an entry object.
pub(crate) mod entry {
    pub(crate) const ITEMS: u64 = 64;
}

/// Offsets within an entry array object.
pub(crate) mod array {
    pub(crate) const NEXT: u64 = 16;
    pub(crate) const ITEMS: u64 = 24;
}

/// Rounds up to the alignment of objects.
pub(crate) fn align8(n: u64) -> u64 {
    n.saturating_add(7) & !7
}

/// Little-endian number at `at`; zero where the bytes end (callers have checked the length).
pub(crate) fn u64_at(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// As [`u64_at`] for 32 bits.
pub(crate) fn u32_at(bytes: &[u8], at: u64) -> u32 {
    let at = at as usize;
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

/// Whether a file is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Closed in order.
    Offline,
    /// Being written; or its writer died.
    Online,
    /// Rotated away, never written again.
    Archived,
}

/// Why bytes are not a journal file that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Shorter than a header.
    #[error("the file is too short for a journal header ({0} bytes)")]
    Short(u64),
    /// Something else than a journal file.
    #[error("the file does not begin as a journal file does")]
    Signature,
    /// Uses features that this version does not know.
    #[error("the file needs features that this program does not know (flags {0:#x})")]
    Flags(u32),
    /// A value in the header cannot be right.
    #[error("the header's {0} is impossible")]
    Header(&'static str),
}

/// The file header, as far as we use it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the names are the format's; the module says where they stand"
)]
pub struct Header {
    pub compatible: u32,
    pub incompatible: u32,
    pub state: State,
    pub file_id: Id128,
    pub machine_id: Id128,
    pub tail_entry_boot_id: Id128,
    pub seqnum_id: Id128,
    pub header_size: u64,
    pub arena_size: u64,
    pub data_table: (u64, u64),
    pub field_table: (u64, u64),
    pub tail_object: u64,
    pub n_objects: u64,
    pub n_entries: u64,
    pub tail_seqnum: u64,
    pub head_seqnum: u64,
    pub entry_array: u64,
    pub head_realtime: u64,
    pub tail_realtime: u64,
    pub tail_monotonic: u64,
    pub n_data: u64,
    pub n_fields: u64,
    pub n_tags: u64,
    pub n_entry_arrays: u64,
    pub data_chain_depth: u64,
    pub field_chain_depth: u64,
}

impl Header {
    /// Reads the header from the start of a file that is `file_size` bytes long.
    pub fn parse(bytes: &[u8], file_size: u64) -> Result<Self, FormatError> {
        if (bytes.len() as u64) < MIN_HEADER_SIZE {
            return Err(FormatError::Short(bytes.len() as u64));
        }
        if &bytes[..8] != SIGNATURE {
            return Err(FormatError::Signature);
        }
        let incompatible = u32_at(bytes, 12);
        if incompatible & !KNOWN_FLAGS != 0 {
            return Err(FormatError::Flags(incompatible));
        }
        let state = match bytes[16] {
            0 => State::Offline,
            1 => State::Online,
            2 => State::Archived,
            _ => return Err(FormatError::Header("state")),
        };
        let header_size = u64_at(bytes, 88);
        if header_size < MIN_HEADER_SIZE
            || header_size > file_size
            || !header_size.is_multiple_of(8)
        {
            return Err(FormatError::Header("header size"));
        }
        let id = |at: usize| {
            let mut id = [0; 16];
            id.copy_from_slice(&bytes[at..at + 16]);
            Id128(id)
        };
        // Fields beyond the writer's header size do not exist, whatever the bytes say.
        let optional = |at: u64| {
            if at + 8 <= header_size {
                u64_at(bytes, at)
            } else {
                0
            }
        };
        let header = Self {
            compatible: u32_at(bytes, 8),
            incompatible,
            state,
            file_id: id(24),
            machine_id: id(40),
            tail_entry_boot_id: id(56),
            seqnum_id: id(72),
            header_size,
            arena_size: u64_at(bytes, 96),
            data_table: (u64_at(bytes, 104), u64_at(bytes, 112)),
            field_table: (u64_at(bytes, 120), u64_at(bytes, 128)),
            tail_object: u64_at(bytes, 136),
            n_objects: u64_at(bytes, 144),
            n_entries: u64_at(bytes, 152),
            tail_seqnum: u64_at(bytes, 160),
            head_seqnum: u64_at(bytes, 168),
            entry_array: u64_at(bytes, 176),
            head_realtime: u64_at(bytes, 184),
            tail_realtime: u64_at(bytes, 192),
            tail_monotonic: u64_at(bytes, 200),
            n_data: optional(208),
            n_fields: optional(216),
            n_tags: optional(224),
            n_entry_arrays: optional(232),
            data_chain_depth: optional(240),
            field_chain_depth: optional(248),
        };
        for (name, (offset, size)) in [
            ("data hash table", header.data_table),
            ("field hash table", header.field_table),
        ] {
            let end = offset.checked_add(size);
            let inside = end.is_some_and(|end| end <= file_size) && offset >= header_size;
            if size == 0 || !size.is_multiple_of(16) || !offset.is_multiple_of(8) || !inside {
                return Err(FormatError::Header(name));
            }
        }
        Ok(header)
    }

    /// The header as it stands in a file.
    pub(crate) fn to_bytes(&self) -> [u8; HEADER_SIZE as usize] {
        let mut out = [0u8; HEADER_SIZE as usize];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, SIGNATURE);
        put(8, &self.compatible.to_le_bytes());
        put(12, &self.incompatible.to_le_bytes());
        put(16, &[self.state as u8]);
        put(24, &self.file_id.0);
        put(40, &self.machine_id.0);
        put(56, &self.tail_entry_boot_id.0);
        put(72, &self.seqnum_id.0);
        let numbers = [
            self.header_size,
            self.arena_size,
            self.data_table.0,
            self.data_table.1,
            self.field_table.0,
            self.field_table.1,
            self.tail_object,
            self.n_objects,
            self.n_entries,
            self.tail_seqnum,
            self.head_seqnum,
            self.entry_array,
            self.head_realtime,
            self.tail_realtime,
            self.tail_monotonic,
            self.n_data,
            self.n_fields,
            self.n_tags,
            self.n_entry_arrays,
            self.data_chain_depth,
            self.field_chain_depth,
        ];
        for (i, number) in numbers.into_iter().enumerate() {
            put(88 + i * 8, &number.to_le_bytes());
        }
        out
    }

    /// Whether offsets in lists are 32 bits wide.
    pub(crate) fn compact(&self) -> bool {
        self.incompatible & FLAG_COMPACT != 0
    }

    /// Whether the hash tables use the keyed hash.
    pub(crate) fn keyed(&self) -> bool {
        self.incompatible & FLAG_KEYED != 0
    }

    /// The hash that the file's tables use.
    pub(crate) fn hash(&self, payload: &[u8]) -> u64 {
        if self.keyed() {
            crate::hash::siphash24(&self.file_id.0, payload)
        } else {
            crate::hash::jenkins64(payload)
        }
    }
}

/// The common start of every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectHeader {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) size: u64,
}

impl ObjectHeader {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            kind: bytes.first().copied().unwrap_or(0),
            flags: bytes.get(1).copied().unwrap_or(0),
            size: u64_at(bytes, 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            compatible: 0,
            incompatible: FLAG_KEYED,
            state: State::Online,
            file_id: Id128([1; 16]),
            machine_id: Id128([2; 16]),
            tail_entry_boot_id: Id128([3; 16]),
            seqnum_id: Id128([4; 16]),
            header_size: HEADER_SIZE,
            arena_size: 4096,
            data_table: (272, 160),
            field_table: (448, 160),
            tail_object: 432,
            n_objects: 2,
            n_entries: 1,
            tail_seqnum: 9,
            head_seqnum: 8,
            entry_array: 600,
            head_realtime: 10,
            tail_realtime: 11,
            tail_monotonic: 12,
            n_data: 13,
            n_fields: 14,
            n_tags: 0,
            n_entry_arrays: 15,
            data_chain_depth: 16,
            field_chain_depth: 17,
        }
    }

    #[test]
    fn a_header_survives_writing_and_reading() {
        assert_eq!(Header::parse(&header().to_bytes(), 4352), Ok(header()));
    }

    #[test]
    fn impossible_headers_are_refused() {
        let bytes = header().to_bytes();
        assert_eq!(
            Header::parse(&bytes[..100], 4352),
            Err(FormatError::Short(100))
        );
        let mut other = bytes;
        other[0] = b'X';
        assert_eq!(Header::parse(&other, 4352), Err(FormatError::Signature));
        let mut other = bytes;
        other[13] = 1;
        assert_eq!(Header::parse(&other, 4352), Err(FormatError::Flags(0x104)));
        assert_eq!(
            Header::parse(&bytes, 500),
            Err(FormatError::Header("field hash table"))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), size: u64) {
            let _ = Header::parse(&bytes, size);
        }

        #[test]
        fn no_damage_makes_the_parser_panic(at in 0usize..256, value: u8, size: u64) {
            let mut bytes = header().to_bytes();
            bytes[at] = value;
            let _ = Header::parse(&bytes, size);
        }
    }
}
