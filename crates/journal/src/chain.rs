//! A list of entries: perhaps one offset standing alone, then arrays of offsets that follow each other in the file.

use crate::file::{FileReader, ReadError};
use crate::layout::{OBJ_ARRAY, array};

/// More arrays than this in one list is damage: they double in size.
const MAX_ARRAYS: usize = 1 << 16;

/// The list, with the places of its arrays looked up once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// A data object's first entry stands in the object itself.
    extra: Option<u64>,
    /// Offset of the first slot, index of that slot in the list, number of slots.
    arrays: Vec<(u64, u64, u64)>,
    len: u64,
    wide: bool,
}

impl Chain {
    /// Follows the arrays from `first`; the list has `len` offsets, `extra` included.
    pub(crate) fn load(
        file: &FileReader,
        extra: Option<u64>,
        first: u64,
        len: u64,
    ) -> Result<Self, ReadError> {
        let wide = !file.header().compact();
        let mut chain = Self {
            extra,
            arrays: Vec::new(),
            len: u64::from(extra.is_some()),
            wide,
        };
        let (mut at, mut before) = (first, 0);
        while at != 0 && chain.len < len {
            if at <= before || chain.arrays.len() >= MAX_ARRAYS {
                return Err(file.damaged(at, "an entry list leads out of order"));
            }
            let object = file.object(at, OBJ_ARRAY)?;
            let slots = object.size.saturating_sub(array::ITEMS) / if wide { 8 } else { 4 };
            let slots = slots.min(len - chain.len);
            chain.arrays.push((at + array::ITEMS, chain.len, slots));
            chain.len += slots;
            before = at;
            at = file.word(at + array::NEXT)?;
        }
        Ok(chain)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The offset at `index`; `None` behind the end or in a slot that was never filled.
    pub(crate) fn get(&self, file: &FileReader, index: u64) -> Option<u64> {
        if index >= self.len {
            return None;
        }
        if let Some(extra) = self.extra
            && index == 0
        {
            return Some(extra);
        }
        let at = self
            .arrays
            .partition_point(|(_, start, _)| *start <= index)
            .checked_sub(1)?;
        let (slots, start, _) = self.arrays[at];
        let slot = index - start;
        let offset = if self.wide {
            file.word(slots + slot * 8)
        } else {
            file.half_word(slots + slot * 4).map(u64::from)
        };
        offset.ok().filter(|offset| *offset != 0)
    }

    /// Index of the first entry for which `before` does not hold. Slots that cannot be read count as the end.
    pub(crate) fn partition(&self, file: &FileReader, mut before: impl FnMut(u64) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(file, middle).is_some_and(&mut before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The first offset that is at least `from`.
    pub(crate) fn first_from(&self, file: &FileReader, from: u64) -> Option<u64> {
        self.get(file, self.partition(file, |offset| offset < from))
    }

    /// The last offset that is at most `upto`.
    pub(crate) fn last_upto(&self, file: &FileReader, upto: u64) -> Option<u64> {
        let index = self
            .partition(file, |offset| offset <= upto)
            .checked_sub(1)?;
        self.get(file, index)
    }
}
