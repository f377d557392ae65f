//! D-Bus values and the rules for names.

/// One D-Bus value, self-describing.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    F64(f64),
    /// `s`
    Str(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `h`: index into the message's descriptors.
    Fd(u32),
    /// `v`
    Variant(Box<Value>),
    /// `a…`: signature of one element, elements.
    Array(String, Vec<Value>),
    /// `(…)`
    Struct(Vec<Value>),
    /// `{..}`, only inside an array.
    Entry(Box<(Value, Value)>),
}

impl Value {
    /// Its signature.
    pub fn signature(&self) -> String {
        let mut out = String::new();
        self.write_signature(&mut out);
        out
    }

    /// Append its signature.
    pub(crate) fn write_signature(&self, out: &mut String) {
        match self {
            Self::Byte(_) => out.push('y'),
            Self::Bool(_) => out.push('b'),
            Self::I16(_) => out.push('n'),
            Self::U16(_) => out.push('q'),
            Self::I32(_) => out.push('i'),
            Self::U32(_) => out.push('u'),
            Self::I64(_) => out.push('x'),
            Self::U64(_) => out.push('t'),
            Self::F64(_) => out.push('d'),
            Self::Str(_) => out.push('s'),
            Self::Path(_) => out.push('o'),
            Self::Signature(_) => out.push('g'),
            Self::Fd(_) => out.push('h'),
            Self::Variant(_) => out.push('v'),
            Self::Array(element, _) => {
                out.push('a');
                out.push_str(element);
            }
            Self::Struct(fields) => {
                out.push('(');
                for field in fields {
                    field.write_signature(out);
                }
                out.push(')');
            }
            Self::Entry(entry) => {
                out.push('{');
                entry.0.write_signature(out);
                entry.1.write_signature(out);
                out.push('}');
            }
        }
    }

    /// A string.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// An object path; the caller knows that it is well formed.
    pub fn path(text: impl Into<String>) -> Self {
        Self::Path(text.into())
    }

    /// `as`
    pub fn strings<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array("s".to_owned(), items.into_iter().map(Self::str).collect())
    }

    /// An array of elements of the given signature.
    pub fn array(element: &str, items: Vec<Self>) -> Self {
        Self::Array(element.to_owned(), items)
    }

    /// `ay`
    pub fn bytes(items: &[u8]) -> Self {
        Self::Array(
            "y".to_owned(),
            items.iter().map(|byte| Self::Byte(*byte)).collect(),
        )
    }

    /// A variant around a value.
    pub fn variant(value: Self) -> Self {
        Self::Variant(Box::new(value))
    }

    /// `a{sv}`
    pub fn dict<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        let items = entries
            .into_iter()
            .map(|(key, value)| Self::Entry(Box::new((Self::str(key), Self::variant(value)))))
            .collect();
        Self::Array("{sv}".to_owned(), items)
    }

    /// The text of a string, object path or signature.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Path(text) | Self::Signature(text) => Some(text),
            Self::Variant(inner) => inner.as_str(),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Variant(inner) => inner.as_bool(),
            _ => None,
        }
    }

    /// Any unsigned number, or a signed one that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Byte(value) => Some(u64::from(*value)),
            Self::U16(value) => Some(u64::from(*value)),
            Self::U32(value) => Some(u64::from(*value)),
            Self::U64(value) => Some(*value),
            Self::I16(value) => u64::try_from(*value).ok(),
            Self::I32(value) => u64::try_from(*value).ok(),
            Self::I64(value) => u64::try_from(*value).ok(),
            Self::Variant(inner) => inner.as_u64(),
            _ => None,
        }
    }

    /// An unsigned number that fits 32 bits.
    pub fn as_u32(&self) -> Option<u32> {
        self.as_u64().and_then(|value| u32::try_from(value).ok())
    }

    /// A signed number.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::I16(value) => Some(i64::from(*value)),
            Self::I32(value) => Some(i64::from(*value)),
            Self::I64(value) => Some(*value),
            Self::Variant(inner) => inner.as_i64(),
            other => other.as_u64().and_then(|value| i64::try_from(value).ok()),
        }
    }

    /// Elements of an array, or fields of a structure.
    pub fn items(&self) -> Option<&[Self]> {
        match self {
            Self::Array(_, items) | Self::Struct(items) => Some(items),
            Self::Variant(inner) => inner.items(),
            _ => None,
        }
    }

    /// The texts of an array of strings or paths; none where an element is something else.
    pub fn as_strings(&self) -> Option<Vec<String>> {
        self.items()?
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect()
    }

    /// The bytes of an `ay`.
    pub fn as_bytes(&self) -> Option<Vec<u8>> {
        self.items()?
            .iter()
            .map(|item| {
                if let Self::Byte(byte) = item {
                    Some(*byte)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The value inside, if it is a variant; itself otherwise.
    pub fn into_inner(self) -> Self {
        match self {
            Self::Variant(inner) => inner.into_inner(),
            other => other,
        }
    }
}

/// Is it `/` or `/a/b` with elements of letters, digits and `_`?
pub fn is_object_path(path: &str) -> bool {
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            })
        })
}

/// Is it an interface (or error) name: two or more elements, none beginning with a digit?
pub fn is_interface(name: &str) -> bool {
    name.len() <= 255 && name.contains('.') && name.split('.').all(is_member)
}

/// Is it a member name?
pub fn is_member(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Is it a well-known (`org.example`) or unique (`:1.7`) bus name?
pub fn is_bus_name(name: &str) -> bool {
    if name.len() > 255 || !name.contains('.') {
        return false;
    }
    let element = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match name.strip_prefix(':') {
        Some(rest) => rest.split('.').all(element),
        None => name
            .split('.')
            .all(|part| element(part) && !part.as_bytes()[0].is_ascii_digit()),
    }
}
