//! dm-verity hash trees in veritysetup's on-disk format (version 1, SHA-256, 4096-byte blocks).
//!
//! Layout behind the data: one superblock, then the levels from the top (one block) down to the leaves, as
//! cryptsetup writes and the kernel reads them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Data and hash block size, in bytes.
pub const BLOCK: usize = 4096;
const PER_BLOCK: usize = BLOCK / 32;

/// What the kernel needs to open the tree; the root hash is the only authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// Root hash, lower-case hex.
    pub root: String,
    /// Salt, lower-case hex.
    pub salt: String,
    /// Data blocks in front of the superblock.
    pub blocks: u64,
}

/// Pads the file to whole blocks and appends superblock and tree. `uuid` only labels the superblock.
pub fn append(file: &Path, salt: &[u8; 32], uuid: &[u8; 16]) -> Result<Verity> {
    let mut f = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .with_context(|| format!("cannot open {}", file.display()))?;
    let len = f.metadata()?.len();
    let padded = len.div_ceil(BLOCK as u64) * BLOCK as u64;
    f.set_len(padded)?;
    let blocks = padded / BLOCK as u64;
    if blocks < 2 {
        bail!("{} is too small for a hash tree", file.display()); // one block has no tree at all
    }
    let mut levels = vec![leaves(&mut f, blocks, salt)?];
    while levels.last().is_some_and(|l| l.len() > BLOCK) {
        let below = &levels[levels.len() - 1];
        levels.push(pad(below
            .chunks(BLOCK)
            .flat_map(|b| hash(salt, b))
            .collect()));
    }
    let top = levels.last().context("one level at least")?;
    let root = hash(salt, top);
    f.seek(SeekFrom::Start(padded))?;
    f.write_all(&superblock(blocks, salt, uuid))?;
    for level in levels.iter().rev() {
        f.write_all(level)?;
    }
    f.sync_all()?;
    Ok(Verity {
        root: crate::packages::hex(&root),
        salt: crate::packages::hex(salt),
        blocks,
    })
}

fn leaves(f: &mut File, blocks: u64, salt: &[u8; 32]) -> Result<Vec<u8>> {
    f.seek(SeekFrom::Start(0))?;
    let mut r = std::io::BufReader::with_capacity(1 << 20, f);
    let mut block = [0; BLOCK];
    let mut out = Vec::with_capacity(usize::try_from(blocks)? * 32);
    for _ in 0..blocks {
        r.read_exact(&mut block)?;
        out.extend_from_slice(&hash(salt, &block));
    }
    Ok(pad(out))
}

fn pad(mut level: Vec<u8>) -> Vec<u8> {
    level.resize(level.len().div_ceil(PER_BLOCK * 32) * BLOCK, 0);
    level
}

fn hash(salt: &[u8; 32], block: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(block)
        .finalize()
        .into()
}

fn superblock(blocks: u64, salt: &[u8; 32], uuid: &[u8; 16]) -> Vec<u8> {
    let mut s = vec![0; BLOCK];
    s[..8].copy_from_slice(b"verity\0\0");
    s[8..12].copy_from_slice(&1u32.to_le_bytes()); // superblock version
    s[12..16].copy_from_slice(&1u32.to_le_bytes()); // hash type: normal
    s[16..32].copy_from_slice(uuid);
    s[32..38].copy_from_slice(b"sha256");
    s[64..68].copy_from_slice(&4096u32.to_le_bytes());
    s[68..72].copy_from_slice(&4096u32.to_le_bytes());
    s[72..80].copy_from_slice(&blocks.to_le_bytes());
    s[80..82].copy_from_slice(&32u16.to_le_bytes());
    s[88..120].copy_from_slice(salt);
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn veritysetup(file: &Path, v: &Verity) -> bool {
        let offset = v.blocks * BLOCK as u64;
        Command::new("veritysetup")
            .args([
                "verify",
                &file.display().to_string(),
                &file.display().to_string(),
                &v.root,
            ])
            .arg(format!("--hash-offset={offset}"))
            .status()
            .expect("veritysetup runs (package cryptsetup-bin)")
            .success()
    }

    /// The oracle is cryptsetup's own program, on trees of one, two and three levels.
    #[test]
    fn veritysetup_accepts_the_tree_and_sees_a_flipped_byte() {
        let d = tempfile::tempdir().expect("temp dir");
        for blocks in [2usize, 127, 128, 129, 16385] {
            let p = d.path().join(format!("img{blocks}"));
            let data: Vec<u8> = (0..blocks * BLOCK - 7)
                .map(|i| (i * 31 % 251) as u8)
                .collect();
            std::fs::write(&p, data).expect("write");
            let v = append(&p, &[7; 32], &[9; 16]).expect("append");
            assert_eq!(v.blocks, blocks as u64);
            assert!(veritysetup(&p, &v), "{blocks} blocks");
        }
        let p = d.path().join("img129");
        let mut bytes = std::fs::read(&p).expect("read");
        let v = Verity {
            root: String::new(),
            salt: String::new(),
            blocks: 129,
        };
        bytes[128 * BLOCK + 5] ^= 1;
        std::fs::write(&p, &bytes).expect("write");
        assert!(!veritysetup(
            &p,
            &Verity {
                root: "0".repeat(64),
                ..v
            }
        ));
    }
}
