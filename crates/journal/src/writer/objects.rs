//! An entry as objects: its data and fields found or added, its place in each of their lists. Nothing here writes to the
//! file; see [`super::pending`].

use std::io;
use std::path::Path;

use super::{
    ArrayTail, CACHE_OBJECTS, CACHE_PAYLOAD, Data, MAX_ARRAY, Stamp, WriteError, Writer, damaged,
    field_name,
};
use crate::hash::jenkins64;
use crate::layout::{
    OBJ_ARRAY, OBJ_DATA, OBJ_ENTRY, OBJ_FIELD, OBJ_HEADER, array, data, entry, field,
};

impl Writer {
    pub(super) fn compose(&mut self, stamp: Stamp, payloads: &[&[u8]]) -> Result<(), WriteError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| WriteError::Io {
                what: "read",
                path,
                source,
            }
        };
        let room = self.max_size.saturating_sub(self.tail);
        let sum: u64 = payloads.iter().map(|p| p.len() as u64 + 16).sum();
        if sum > room {
            return Err(self.full(sum));
        }
        let mut items = Vec::with_capacity(payloads.len());
        let mut xor = 0;
        for payload in payloads {
            let hash = self.header.hash(payload);
            xor ^= jenkins64(payload);
            self.find_or_add_data(hash, payload)
                .map_err(read(&self.path))?;
            // The line above has put it into the cache.
            let offset = self.cache.get(&hash).map_or(0, |data| data.offset);
            items.push((offset, hash));
        }
        items.sort_unstable();

        let seqnum = self.header.tail_seqnum + 1;
        let mut body = Vec::with_capacity(48 + items.len() * 16);
        for number in [seqnum, stamp.realtime, stamp.monotonic] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&stamp.boot_id.0);
        body.extend_from_slice(&xor.to_le_bytes());
        for (offset, hash) in &items {
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(&hash.to_le_bytes());
        }
        debug_assert_eq!(
            body.len() as u64,
            entry::ITEMS - OBJ_HEADER + items.len() as u64 * 16
        );
        let offset = self.push_object(OBJ_ENTRY, &body);
        self.link_entry(offset, &items).map_err(read(&self.path))?;

        let h = &mut self.header;
        if h.n_entries == 0 {
            h.head_seqnum = seqnum;
            h.head_realtime = stamp.realtime;
        }
        h.n_entries += 1;
        h.tail_seqnum = seqnum;
        h.tail_realtime = stamp.realtime;
        h.tail_monotonic = stamp.monotonic;
        h.tail_entry_boot_id = stamp.boot_id;
        if self.tail + self.pending.objects.len() as u64 > self.max_size {
            return Err(self.full(self.pending.objects.len() as u64));
        }
        Ok(())
    }

    /// Full for this entry; an entry that no empty file could take is the sender's fault.
    fn full(&self, needed: u64) -> WriteError {
        let tables = self.header.data_table.1 + self.header.field_table.1 + 4096;
        if needed.saturating_add(tables) > self.max_size {
            WriteError::Entry("it is larger than a journal file may be")
        } else {
            WriteError::Full(self.path.clone())
        }
    }

    fn link_entry(&mut self, offset: u64, items: &[(u64, u64)]) -> io::Result<()> {
        let main = self.main;
        let n = self.header.n_entries;
        let (first, tail) = self.push_slot(main, n, offset);
        if let Some(first) = first {
            self.header.entry_array = first;
        }
        self.main = Some(tail);
        for (at, hash) in items {
            let Some(data) = self.cache.get(hash) else {
                continue;
            };
            let (n, tail) = (data.n_entries, data.array);
            if n == 0 {
                self.set(at + data::ENTRY, offset);
            } else {
                let (first, tail) = self.push_slot(tail, n - 1, offset);
                if let Some(first) = first {
                    self.set(at + data::ARRAY, first);
                }
                if let Some(data) = self.cache.get_mut(hash) {
                    data.array = Some(tail);
                }
            }
            self.set(at + data::N_ENTRIES, n + 1);
            if let Some(data) = self.cache.get_mut(hash) {
                data.n_entries = n + 1;
            }
        }
        Ok(())
    }

    /// Puts an offset into the list that ends at `tail` and holds `len` offsets in arrays. Gives the offset of a new
    /// first array, if there was none.
    fn push_slot(
        &mut self,
        tail: Option<ArrayTail>,
        len: u64,
        value: u64,
    ) -> (Option<u64>, ArrayTail) {
        if let Some(mut tail) = tail
            && tail.used < tail.capacity
        {
            self.set(tail.offset + array::ITEMS + tail.used * 8, value);
            tail.used += 1;
            return (None, tail);
        }
        let previous = tail.map_or(0, |t| t.capacity);
        let capacity = (previous * 2).max((len + 1) * 2).clamp(4, MAX_ARRAY);
        let mut body = vec![0u8; (array::ITEMS - OBJ_HEADER + capacity * 8) as usize];
        body[8..16].copy_from_slice(&value.to_le_bytes());
        let offset = self.push_object(OBJ_ARRAY, &body);
        self.header.n_entry_arrays += 1;
        let new = ArrayTail {
            offset,
            capacity,
            used: 1,
        };
        match tail {
            Some(tail) => {
                self.set(tail.offset + array::NEXT, offset);
                (None, new)
            }
            None => (Some(offset), new),
        }
    }

    /// Makes sure that the data object of `payload` exists and is in the cache.
    fn find_or_add_data(&mut self, hash: u64, payload: &[u8]) -> io::Result<()> {
        if let Some(data) = self.cache.get(&hash) {
            let same = if data.payload.is_empty() {
                self.same(data.offset + data::PAYLOAD, payload)?
            } else {
                *data.payload == *payload
            };
            if same {
                return Ok(());
            }
        }
        let bucket = self.header.data_table.0 + hash % (self.header.data_table.1 / 16) * 16;
        let (found, last, depth) =
            self.find_in_chain(bucket, hash, payload, (data::NEXT_HASH, data::PAYLOAD))?;
        let kept: Box<[u8]> = if payload.len() <= CACHE_PAYLOAD {
            payload.into()
        } else {
            Box::default()
        };
        if let Some(offset) = found {
            let n_entries = self.get(offset + data::N_ENTRIES)?;
            let first = self.get(offset + data::ARRAY)?;
            let array = self.load_array(first, n_entries.saturating_sub(1))?;
            self.cache.insert(
                hash,
                Data {
                    offset,
                    n_entries,
                    array,
                    payload: kept,
                },
            );
            return Ok(());
        }
        self.header.data_chain_depth = self.header.data_chain_depth.max(depth);

        let name = field_name(payload).unwrap_or_default();
        let field = self.find_or_add_field(name)?;
        let head = self.get(field + field::HEAD_DATA)?;
        let mut body = vec![0u8; (data::PAYLOAD - OBJ_HEADER) as usize];
        body[..8].copy_from_slice(&hash.to_le_bytes());
        body[16..24].copy_from_slice(&head.to_le_bytes());
        body.extend_from_slice(payload);
        let offset = self.push_object(OBJ_DATA, &body);
        self.header.n_data += 1;
        self.link_bucket(bucket, last, data::NEXT_HASH, offset);
        self.set(field + field::HEAD_DATA, offset);
        self.cache.insert(
            hash,
            Data {
                offset,
                n_entries: 0,
                array: None,
                payload: kept,
            },
        );
        Ok(())
    }

    fn find_or_add_field(&mut self, name: &[u8]) -> io::Result<u64> {
        if let Some(offset) = self.fields.get(name) {
            return Ok(*offset);
        }
        let hash = self.header.hash(name);
        let bucket = self.header.field_table.0 + hash % (self.header.field_table.1 / 16) * 16;
        let (found, last, depth) =
            self.find_in_chain(bucket, hash, name, (field::NEXT_HASH, field::PAYLOAD))?;
        let offset = match found {
            Some(offset) => offset,
            None => {
                self.header.field_chain_depth = self.header.field_chain_depth.max(depth);
                let mut body = vec![0u8; (field::PAYLOAD - OBJ_HEADER) as usize];
                body[..8].copy_from_slice(&hash.to_le_bytes());
                body.extend_from_slice(name);
                let offset = self.push_object(OBJ_FIELD, &body);
                self.header.n_fields += 1;
                self.link_bucket(bucket, last, field::NEXT_HASH, offset);
                offset
            }
        };
        if self.fields.len() >= CACHE_OBJECTS {
            self.fields.clear();
        }
        self.fields.insert(name.to_vec(), offset);
        Ok(offset)
    }

    /// Looks for an object with this hash and payload; also gives the chain's last object (0: none) and its length.
    fn find_in_chain(
        &self,
        bucket: u64,
        hash: u64,
        payload: &[u8],
        (next_at, payload_at): (u64, u64),
    ) -> io::Result<(Option<u64>, u64, u64)> {
        let (mut last, mut depth) = (0, 0);
        let mut at = self.get(bucket)?;
        while at != 0 {
            if at <= last || at >= self.tail + self.pending.objects.len() as u64 {
                return Err(damaged("a hash chain leads out of order"));
            }
            let size = self.get(at + 8)?;
            if self.get(at + data::HASH)? == hash
                && size == payload_at + payload.len() as u64
                && self.same(at + payload_at, payload)?
            {
                return Ok((Some(at), last, depth));
            }
            last = at;
            depth += 1;
            at = self.get(at + next_at)?;
        }
        Ok((None, last, depth))
    }

    fn link_bucket(&mut self, bucket: u64, last: u64, next_at: u64, offset: u64) {
        if last == 0 {
            self.set(bucket, offset);
        } else {
            self.set(last + next_at, offset);
        }
        self.set(bucket + 8, offset);
    }

    /// Finds the end of a list of `len` offsets.
    pub(super) fn load_array(&self, first: u64, len: u64) -> io::Result<Option<ArrayTail>> {
        let (mut at, mut left, mut before) = (first, len, 0);
        while at != 0 {
            if at <= before || at >= self.tail + self.pending.objects.len() as u64 {
                return Err(damaged("an entry list leads out of order"));
            }
            let size = self.get(at + 8)?;
            let capacity = size.saturating_sub(array::ITEMS) / 8;
            let next = self.get(at + array::NEXT)?;
            if left <= capacity || next == 0 {
                if left > capacity {
                    return Err(damaged("an entry list is too short"));
                }
                return Ok(Some(ArrayTail {
                    offset: at,
                    capacity,
                    used: left,
                }));
            }
            left -= capacity;
            before = at;
            at = next;
        }
        if len > 0 {
            return Err(damaged("an entry list is missing"));
        }
        Ok(None)
    }
}
