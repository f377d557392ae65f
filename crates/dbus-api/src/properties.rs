//! A set of D-Bus properties (`a{sv}`).

use std::collections::BTreeMap;

use crate::wire::Value;

/// Properties by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties(BTreeMap<String, Value>);

impl Properties {
    /// From an `a{sv}`.
    pub fn from_value(value: &Value) -> Option<Self> {
        let mut map = BTreeMap::new();
        for item in value.items()? {
            let Value::Entry(entry) = item else {
                return None;
            };
            map.insert(entry.0.as_str()?.to_owned(), entry.1.clone().into_inner());
        }
        Some(Self(map))
    }

    pub(crate) fn read(body: &[Value]) -> Option<Self> {
        Self::from_value(body.first()?)
    }

    /// One property.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A string, object path or signature.
    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// An unsigned number.
    pub fn u64(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// An unsigned number that fits 32 bits.
    pub fn u32(&self, name: &str) -> Option<u32> {
        self.get(name)?.as_u32()
    }

    /// A signed number.
    pub fn i64(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_i64()
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// A list of strings; empty where absent.
    pub fn strings(&self, name: &str) -> Vec<String> {
        self.get(name)
            .and_then(Value::as_strings)
            .unwrap_or_default()
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Put a property; a variant is unwrapped.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), value.into_inner());
    }

    /// As `a{sv}`.
    pub fn into_value(self) -> Value {
        Value::dict(self.0)
    }
}

impl FromIterator<(String, Value)> for Properties {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(items: I) -> Self {
        let mut all = Self::default();
        for (name, value) in items {
            all.insert(name, value);
        }
        all
    }
}
