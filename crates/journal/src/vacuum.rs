//! How much the journal may take, and what goes when it is more. No I/O.

use std::path::PathBuf;

/// Sizes in bytes that a directory of journal files keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All files together.
    pub max_use: u64,
    /// What stays free on the file system.
    pub keep_free: u64,
    /// One file.
    pub max_file: u64,
    /// This many files besides the active one.
    pub max_files: usize,
}

const MIB: u64 = 1 << 20;

impl Limits {
    /// The defaults for a file system of `total` bytes: 10 % of it but at most 4 GiB, 15 % kept free (at most 4 GiB),
    /// a file an eighth of the use and at most 128 MiB. A file is never below 512 KiB.
    pub fn for_file_system(total: u64) -> Self {
        let max_use = (total / 10).clamp(MIB, 4096 * MIB);
        Self {
            max_use,
            keep_free: (total / 100 * 15).min(4096 * MIB),
            max_file: (max_use / 8).clamp(MIB / 2, 128 * MIB),
            max_files: 100,
        }
    }

    /// With another total use (`SystemMaxUse=`): the file size follows.
    #[must_use]
    pub fn with_max_use(self, max_use: u64) -> Self {
        let max_use = max_use.max(MIB);
        Self {
            max_use,
            max_file: (max_use / 8).clamp(MIB / 2, 128 * MIB),
            ..self
        }
    }
}

/// A file that may be deleted: not the active one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where it is.
    pub path: PathBuf,
    /// Space it takes on disk.
    pub size: u64,
    /// Time of its first entry, or when it was set aside.
    pub realtime: u64,
    /// Holds no entry: goes first.
    pub empty: bool,
}

/// Which archives must go, oldest first, so that `active + archives <= max_use`, `keep_free` is kept, no more than
/// `max_files` stay, and nothing starts before `oldest`.
pub fn plan_vacuum(
    mut archives: Vec<Archive>,
    active: u64,
    free: u64,
    limits: &Limits,
    oldest: Option<u64>,
) -> Vec<PathBuf> {
    archives.sort_by(|a, b| {
        b.empty
            .cmp(&a.empty)
            .then(a.realtime.cmp(&b.realtime))
            .then_with(|| a.path.cmp(&b.path))
    });
    let mut used = archives
        .iter()
        .fold(active, |sum, a| sum.saturating_add(a.size));
    let mut free = free;
    let mut left = archives.len();
    let mut gone = Vec::new();
    for archive in archives {
        let too_much = used > limits.max_use || free < limits.keep_free;
        let too_old = oldest.is_some_and(|oldest| archive.realtime < oldest);
        if !(archive.empty || too_much || too_old || left > limits.max_files) {
            break;
        }
        used = used.saturating_sub(archive.size);
        free = free.saturating_add(archive.size);
        left -= 1;
        gone.push(archive.path);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(n: u64, size: u64) -> Archive {
        Archive {
            path: format!("{n:020}").into(),
            size,
            realtime: n,
            empty: false,
        }
    }

    fn limits(max_use: u64) -> Limits {
        Limits {
            max_use,
            keep_free: 0,
            max_file: 1,
            max_files: 100,
        }
    }

    #[test]
    fn the_oldest_go_until_the_rest_fits() {
        let archives = vec![archive(3, 10), archive(1, 10), archive(2, 10)];
        let gone = plan_vacuum(archives, 5, 1000, &limits(26), None);
        assert_eq!(gone, [archive(1, 0).path]);
    }

    #[test]
    fn empty_files_go_first_and_always() {
        let mut empty = archive(9, 1);
        empty.empty = true;
        let gone = plan_vacuum(
            vec![archive(1, 10), empty.clone()],
            0,
            1000,
            &limits(100),
            None,
        );
        assert_eq!(gone, [empty.path]);
    }

    #[test]
    fn age_and_free_space_count_as_well() {
        let archives = || vec![archive(1, 10), archive(2, 10), archive(3, 10)];
        assert_eq!(
            plan_vacuum(archives(), 0, 1000, &limits(100), Some(3)).len(),
            2
        );
        let free = Limits {
            keep_free: 15,
            ..limits(100)
        };
        assert_eq!(plan_vacuum(archives(), 0, 0, &free, None).len(), 2);
        let few = Limits {
            max_files: 1,
            ..limits(100)
        };
        assert_eq!(plan_vacuum(archives(), 0, 1000, &few, None).len(), 2);
    }

    #[test]
    fn defaults_follow_the_file_system() {
        let big = Limits::for_file_system(1 << 40);
        assert_eq!((big.max_use, big.max_file), (4096 * MIB, 128 * MIB));
        let small = Limits::for_file_system(200 * MIB);
        assert_eq!((small.max_use, small.max_file), (20 * MIB, 20 * MIB / 8));
    }

    proptest! {
        #[test]
        fn a_second_vacuum_finds_nothing(
            sizes in proptest::collection::vec(1u64..1000, 0..20), max_use in 0u64..5000, active in 0u64..500
        ) {
            let archives: Vec<_> = sizes.iter().enumerate().map(|(i, s)| archive(i as u64, *s)).collect();
            let gone = plan_vacuum(archives.clone(), active, 1000, &limits(max_use), None);
            let rest: Vec<_> = archives.into_iter().filter(|a| !gone.contains(&a.path)).collect();
            prop_assert!(plan_vacuum(rest, active, 1000, &limits(max_use), None).is_empty());
        }
    }
}
