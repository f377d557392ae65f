//! Which devices a container may use, and the eBPF program that enforces it on cgroup v2.
//!
//! The kernel runs the program at each `mknod` and `open`; it looks at kind, access, major and minor. Rules are
//! alternatives: the first that covers the request allows it, none refuses.

use serde::{Deserialize, Serialize};

/// Kind of device of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Block device.
    Block,
    /// Character device.
    Char,
    /// Both.
    All,
}

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which kind.
    pub kind: Kind,
    /// Which major number; none = each.
    pub major: Option<u32>,
    /// Which minor number; none = each.
    pub minor: Option<u32>,
    /// May be made.
    pub mknod: bool,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
}

impl Rule {
    const fn open(kind: Kind, major: Option<u32>, minor: Option<u32>) -> Rule {
        Rule {
            kind,
            major,
            minor,
            mknod: true,
            read: true,
            write: true,
        }
    }

    /// What a `--privileged` container has.
    pub const EVERYTHING: Rule = Rule::open(Kind::All, None, None);

    fn access(self) -> i32 {
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// A device file to be made in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Number.
    pub major: u32,
    /// Number.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What is allowed with it: some of `r`, `w`, `m`.
    pub access: String,
}

impl Device {
    /// The permission that goes with the file.
    pub fn rule(&self) -> Rule {
        Rule {
            kind: if self.kind == 'b' {
                Kind::Block
            } else {
                Kind::Char
            },
            major: Some(self.major),
            minor: Some(self.minor),
            mknod: self.access.contains('m'),
            read: self.access.contains('r'),
            write: self.access.contains('w'),
        }
    }
}

/// What every container has: all may be made (a file is no access), the harmless ones used.
pub fn default_rules() -> Vec<Rule> {
    let make = |kind| Rule {
        kind,
        major: None,
        minor: None,
        mknod: true,
        read: false,
        write: false,
    };
    let mut rules = vec![make(Kind::Char), make(Kind::Block)];
    // null zero full random urandom, tty console ptmx, and terminals of the container's own devpts.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(Rule::open(Kind::Char, Some(major), Some(minor)));
    }
    rules.push(Rule::open(Kind::Char, Some(136), None));
    rules
}

/// The program of these rules, one `u64` an instruction.
///
/// `r1` points to `{access_type: u32, major: u32, minor: u32}`; `access_type` is the kind in the low half and
/// the access in the high one.
pub fn program(rules: &[Rule]) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD32, 2, 1, 0, 0),
        instruction(AND32, 2, 0, 0, 0xffff),
        instruction(LOAD32, 3, 1, 0, 0),
        instruction(SHIFT_RIGHT32, 3, 0, 0, 16),
        instruction(LOAD32, 4, 1, 4, 0),
        instruction(LOAD32, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        match rule.kind {
            Kind::All => {}
            Kind::Block => tests.push((JUMP_NOT_EQUAL, 2, 1)),
            Kind::Char => tests.push((JUMP_NOT_EQUAL, 2, 2)),
        }
        if rule.access() != 7 {
            // Whatever is asked beyond the rule's access leaves a bit in r1's copy.
            tests.push((JUMP_ANY_SET, 3, !rule.access() & 7));
        }
        if let Some(major) = rule.major {
            tests.push((JUMP_NOT_EQUAL, 4, major.cast_signed()));
        }
        if let Some(minor) = rule.minor {
            tests.push((JUMP_NOT_EQUAL, 5, minor.cast_signed()));
        }
        // A failed test jumps over the tests after it and over "return 1".
        let count = tests.len();
        for (index, (code_of, register, value)) in tests.into_iter().enumerate() {
            let over = i16::try_from(count - index - 1 + 2).unwrap_or(i16::MAX);
            code.push(instruction(code_of, register, 0, over, value));
        }
        code.push(instruction(MOVE, 0, 0, 0, 1));
        code.push(instruction(EXIT, 0, 0, 0, 0));
        if count == 0 {
            // It allows everything; the kernel refuses programs with code that is never reached.
            return code;
        }
    }
    code.push(instruction(MOVE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

const LOAD32: u8 = 0x61;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_ANY_SET: u8 = 0x46;
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// Little-endian layout of `struct bpf_insn`; both of our processors are.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(target & 15) << 8
        | u64::from(source & 15) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would.
    fn allows(code: &[u64], block: bool, access: u32, major: u32, minor: u32) -> bool {
        let memory = [(access << 16) | if block { 1 } else { 2 }, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let word = code[at];
            let (operation, target) = (word as u8, (word >> 8 & 15) as usize);
            let (offset, value) = ((word >> 16) as i16, (word >> 32) as u32);
            at += 1;
            match operation {
                LOAD32 => registers[target] = u64::from(memory[offset as usize / 4]),
                AND32 => registers[target] = u64::from(registers[target] as u32 & value),
                SHIFT_RIGHT32 => registers[target] = u64::from((registers[target] as u32) >> value),
                JUMP_NOT_EQUAL if registers[target] as u32 != value => at += offset as usize,
                JUMP_ANY_SET if registers[target] as u32 & value != 0 => at += offset as usize,
                JUMP_NOT_EQUAL | JUMP_ANY_SET => {}
                MOVE => registers[target] = u64::from(value),
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn default_rules_let_null_be_used_and_disks_only_be_made() {
        let code = program(&default_rules());
        assert!(allows(&code, false, 6, 1, 3));
        assert!(allows(&code, false, 2, 136, 17));
        assert!(allows(&code, true, 1, 8, 0));
        assert!(!allows(&code, true, 2, 8, 0));
        assert!(!allows(&code, false, 2, 1, 1));
        assert!(!allows(&code, false, 3, 1, 11));
        assert!(allows(&program(&[Rule::EVERYTHING]), true, 7, 8, 0));
        assert!(!allows(&program(&[]), false, 2, 1, 3));
    }

    fn rule() -> impl Strategy<Value = Rule> {
        (
            0u8..3,
            proptest::option::of(0u32..4),
            proptest::option::of(0u32..4),
            any::<[bool; 3]>(),
        )
            .prop_map(|(kind, major, minor, access)| Rule {
                kind: [Kind::Block, Kind::Char, Kind::All][usize::from(kind)],
                major,
                minor,
                mknod: access[0],
                read: access[1],
                write: access[2],
            })
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_rules_say(rules in proptest::collection::vec(rule(), 0..6), block: bool, access in 1u32..8, major in 0u32..5, minor in 0u32..5) {
            let covered = rules.iter().any(|rule| {
                let kind = match rule.kind { Kind::All => true, Kind::Block => block, Kind::Char => !block };
                kind && (access & !(rule.access() as u32)) == 0
                    && rule.major.is_none_or(|wanted| wanted == major)
                    && rule.minor.is_none_or(|wanted| wanted == minor)
            });
            prop_assert_eq!(allows(&program(&rules), block, access, major, minor), covered);
        }
    }
}
