//! Parsers for single values of `.network` files. Each gives `None` for what it does not accept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address, host bits kept.
    pub addr: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Cidr {
    /// Parses `ADDRESS/LENGTH`; without a length the whole address is meant.
    pub fn parse(text: &str) -> Option<Self> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr.parse().ok()?, Some(prefix)),
            None => (text.parse().ok()?, None),
        };
        let full = full_prefix(addr);
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => full,
        };
        (prefix <= full).then_some(Self { addr, prefix })
    }

    /// The network: the address with its host bits cleared.
    pub fn network(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => IpAddr::V4(mask_v4(a, self.prefix)),
            IpAddr::V6(a) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        }
    }

    /// Whether `other` is within the network.
    pub fn contains(self, other: IpAddr) -> bool {
        self.addr.is_ipv4() == other.is_ipv4()
            && Self {
                addr: other,
                prefix: self.prefix,
            }
            .network()
                == self.network()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// The longest prefix of an address's family.
pub fn full_prefix(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// Clears the host bits of an IPv4 address.
pub fn mask_v4(addr: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) & mask)
}

/// The broadcast address of an IPv4 network, which prefixes of 31 and 32 bits do not have.
pub fn broadcast_v4(addr: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    (prefix <= 30).then(|| Ipv4Addr::from(u32::from(addr) | host))
}

/// The prefix length of a netmask without holes.
pub fn prefix_of_mask(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).unwrap_or(32))
}

/// `yes`, `no` and their other spellings.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional `K`, `M` or `G`.
pub fn parse_size(text: &str) -> Option<u32> {
    let (digits, factor) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if text.ends_with('K') => (digits, 1 << 10),
        Some(digits) if text.ends_with('M') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (text, 1),
    };
    digits.trim().parse::<u32>().ok()?.checked_mul(factor)
}

/// Splits a value at blanks; quotes keep words together.
pub fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut open = false;
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                open = true;
            }
            None if c.is_whitespace() => {
                if open || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                open = false;
            }
            None => word.push(c),
        }
    }
    if open || !word.is_empty() {
        out.push(word);
    }
    out
}

/// Whether a text can be a DNS name.
pub fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Shell-style match with `*`, `?` and `[a-z]`/`[!a-z]`.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Iterative with one remembered star, so that no pattern takes more than pattern × text steps.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match step(&pattern, p, text[t]) {
            Some(Step::Star) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(Step::Next(next)) => {
                p = next;
                t += 1;
                continue;
            }
            None => {}
        }
        let Some((at, from)) = star else { return false };
        star = Some((at, from + 1));
        p = at + 1;
        t = from + 1;
    }
    pattern[p..].iter().all(|c| *c == '*')
}

enum Step {
    Star,
    Next(usize),
}

/// What the pattern at `p` does with one character; `None` is a mismatch.
fn step(pattern: &[char], p: usize, c: char) -> Option<Step> {
    match *pattern.get(p)? {
        '*' => Some(Step::Star),
        '?' => Some(Step::Next(p + 1)),
        '[' => match class(pattern, p, c) {
            Some((true, next)) => Some(Step::Next(next)),
            Some((false, _)) => None,
            None => (c == '[').then_some(Step::Next(p + 1)),
        },
        '\\' if p + 1 < pattern.len() => (pattern[p + 1] == c).then_some(Step::Next(p + 2)),
        literal => (literal == c).then_some(Step::Next(p + 1)),
    }
}

/// Reads the class that starts at `p`: whether `c` is in it, and where it ends. `None` if it is not closed.
fn class(pattern: &[char], p: usize, c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(p + 1), Some('!' | '^'));
    let first = p + 1 + usize::from(negated);
    let end = (first + 1..pattern.len()).find(|i| pattern[*i] == ']')?;
    let (mut i, mut hit) = (first, false);
    while i < end {
        if i + 2 < end && pattern[i + 1] == '-' {
            hit |= (pattern[i]..=pattern[i + 2]).contains(&c);
            i += 3;
        } else {
            hit |= pattern[i] == c;
            i += 1;
        }
    }
    Some((hit != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        for (pattern, text, want) in [
            ("eth*", "eth0", true),
            ("eth?", "eth10", false),
            ("*:03.0", "pci-0000:00:03.0", true),
            ("en[op]*", "enp0s3", true),
            ("en[!op]*", "enp0s3", false),
            ("[a-c]x", "bx", true),
            ("*", "", true),
            ("", "", true),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("[", "[", true),
        ] {
            assert_eq!(glob(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn networks() {
        let net = Cidr::parse("10.0.2.11/24").unwrap();
        assert_eq!(net.network().to_string(), "10.0.2.0");
        assert!(net.contains("10.0.2.2".parse().unwrap()));
        assert!(!net.contains("10.0.3.2".parse().unwrap()));
        assert!(!net.contains("::1".parse().unwrap()));
        assert!(
            Cidr::parse("0.0.0.0/0")
                .unwrap()
                .contains("9.9.9.9".parse().unwrap())
        );
        for bad in [
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "10.0.0/8",
            "",
            "::/129",
            "1.2.3.4/",
            "eth0",
        ] {
            assert_eq!(Cidr::parse(bad), None, "{bad}");
        }
        assert_eq!(
            broadcast_v4(Ipv4Addr::new(10, 0, 2, 11), 24),
            Some(Ipv4Addr::new(10, 0, 2, 255))
        );
        assert_eq!(broadcast_v4(Ipv4Addr::new(10, 0, 2, 11), 32), None);
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 255, 252, 0)), Some(22));
        assert_eq!(prefix_of_mask(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix_of_mask(Ipv4Addr::UNSPECIFIED), Some(0));
    }

    #[test]
    fn sizes_and_words() {
        assert_eq!(
            (
                parse_size("1500"),
                parse_size("9K"),
                parse_size("x"),
                parse_size("9G")
            ),
            (Some(1500), Some(9216), None, None)
        );
        assert_eq!(words(" a 'b c'\td \"\" "), vec!["a", "b c", "d", ""]);
    }

    proptest! {
        #[test]
        fn globs_end_and_literals_match_themselves(pattern in "[*?\\[\\]!a-d^\\\\-]{0,20}", text in "[a-d]{0,40}") {
            let _ = glob(&pattern, &text);
            prop_assert!(glob(&text, &text));
            let longer = format!("{text}*");
            prop_assert!(glob(&longer, &text));
        }

        #[test]
        fn cidr_text_round_trips(octets in any::<[u8; 16]>(), prefix in 0u8..=128) {
            let net = Cidr { addr: IpAddr::from(octets), prefix };
            prop_assert_eq!(Cidr::parse(&net.to_string()), Some(net));
            prop_assert!(net.contains(net.network()));
        }

        #[test]
        fn masks_round_trip(prefix in 0u8..=32) {
            prop_assert_eq!(prefix_of_mask(mask_v4(Ipv4Addr::BROADCAST, prefix)), Some(prefix));
        }
    }
}
