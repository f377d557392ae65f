//! The changes of one entry before they reach the file, and reading the file as it will be with them.

use std::io;
use std::os::unix::fs::FileExt;

use super::{Writer, object_header};
use crate::layout::{OBJ_HEADER, align8, u64_at};

impl Writer {
    pub(super) fn push_object(&mut self, kind: u8, body: &[u8]) -> u64 {
        let out = &mut self.pending.objects;
        let offset = self.pending.base + out.len() as u64;
        out.extend_from_slice(&object_header(kind, OBJ_HEADER + body.len() as u64));
        out.extend_from_slice(body);
        out.resize(align8(out.len() as u64) as usize, 0);
        self.header.n_objects += 1;
        self.header.tail_object = offset;
        offset
    }

    /// Reads a word, seeing the changes not yet written.
    pub(super) fn get(&self, at: u64) -> io::Result<u64> {
        let p = &self.pending;
        if at >= p.base && !p.objects.is_empty() {
            return Ok(u64_at(&p.objects, at - p.base));
        }
        if let Some((_, value)) = p.links.iter().rev().find(|(link, _)| *link == at) {
            return Ok(*value);
        }
        let mut bytes = [0u8; 8];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn set(&mut self, at: u64, value: u64) {
        let p = &mut self.pending;
        if at >= p.base {
            let at = (at - p.base) as usize;
            p.objects[at..at + 8].copy_from_slice(&value.to_le_bytes());
        } else {
            p.links.push((at, value));
        }
    }

    pub(super) fn same(&self, at: u64, payload: &[u8]) -> io::Result<bool> {
        let p = &self.pending;
        if at >= p.base && !p.objects.is_empty() {
            let start = (at - p.base) as usize;
            return Ok(p.objects.get(start..start + payload.len()) == Some(payload));
        }
        let mut buf = [0u8; 4096];
        let mut done = 0;
        while done < payload.len() {
            let part = (payload.len() - done).min(buf.len());
            self.file
                .read_exact_at(&mut buf[..part], at + done as u64)?;
            if buf[..part] != payload[done..done + part] {
                return Ok(false);
            }
            done += part;
        }
        Ok(true)
    }
}
