//! A single value: its source text, and what YAML 1.1 says that a plain one means.

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: may mean a number, a boolean or nothing.
    Plain,
    /// In quotes, or tagged as text.
    Quoted,
    /// A literal or folded block; the mark is that of its text.
    Block,
}

/// A scalar with its source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text after YAML's own unescaping.
    pub text: String,
    /// How it was written.
    pub style: Style,
    /// Tagged `!!binary`: the text is base64 of the value.
    pub binary: bool,
}

impl Scalar {
    /// Whether this is YAML's null.
    pub fn is_null(&self) -> bool {
        self.style == Style::Plain
            && !self.binary
            && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean that a plain scalar means in YAML 1.1; a quoted word is never one.
    pub fn as_bool(&self) -> Option<bool> {
        if self.style != Style::Plain || self.binary {
            return None;
        }
        match self.text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
                Some(true)
            }
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False"
            | "FALSE" => Some(false),
            _ => None,
        }
    }

    /// The integer that a plain scalar means in YAML 1.1: `0644` is octal, `0x`, `0b`, underscores.
    pub fn as_int(&self) -> Option<i64> {
        if self.style != Style::Plain || self.binary {
            return None;
        }
        let (negative, digits) = match self.text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.text.strip_prefix('+').unwrap_or(&self.text)),
        };
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        let (radix, body) = if let Some(hex) = plain.strip_prefix("0x") {
            (16, hex)
        } else if let Some(bin) = plain.strip_prefix("0b") {
            (2, bin)
        } else if let Some(oct) = plain.strip_prefix("0o") {
            (8, oct)
        } else if plain.len() > 1 && plain.starts_with('0') {
            (8, &plain[1..])
        } else {
            (10, plain.as_str())
        };
        if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        let signed = if negative {
            format!("-{body}")
        } else {
            body.to_owned()
        };
        i64::from_str_radix(&signed, radix).ok()
    }

    /// The number that a plain scalar means, integers included.
    pub fn as_float(&self) -> Option<f64> {
        if let Some(int) = self.as_int() {
            // Whole numbers beyond 2^53 lose digits; no option of the format is that large.
            #[allow(clippy::cast_precision_loss)]
            return Some(int as f64);
        }
        if self.style != Style::Plain || self.binary {
            return None;
        }
        let plain: String = self.text.chars().filter(|c| *c != '_').collect();
        let body = plain.trim_start_matches(['+', '-']);
        if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            || !body.contains(|c: char| c.is_ascii_digit())
        {
            return None;
        }
        plain.parse::<f64>().ok().filter(|f| f.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar {
            text: text.to_owned(),
            style: Style::Plain,
            binary: false,
        }
    }

    #[test]
    fn plain_scalars_follow_yaml_1_1() {
        for word in ["y", "Yes", "ON", "true"] {
            assert_eq!(plain(word).as_bool(), Some(true), "{word}");
        }
        for word in ["n", "No", "off", "FALSE"] {
            assert_eq!(plain(word).as_bool(), Some(false), "{word}");
        }
        assert_eq!(plain("yEs").as_bool(), None);
        let ints = [
            ("0644", Some(0o644)),
            ("644", Some(644)),
            ("0x1F", Some(31)),
            ("0b101", Some(5)),
            ("1_000", Some(1000)),
            ("-7", Some(-7)),
            ("089", None),
            ("1.5", None),
            ("", None),
            ("x", None),
        ];
        for (text, want) in ints {
            assert_eq!(plain(text).as_int(), want, "{text}");
        }
        assert_eq!(plain("2.5").as_float(), Some(2.5));
        assert_eq!(plain("1e3").as_float(), Some(1000.0));
        assert_eq!(plain("infinity").as_float(), None);
        let quoted = Scalar {
            style: Style::Quoted,
            ..plain("yes")
        };
        assert_eq!(quoted.as_bool(), None);
    }
}
