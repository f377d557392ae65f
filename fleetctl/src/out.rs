//! Where results go: lines for people, or one JSON document at the end.

use std::cell::{Cell, RefCell};

use serde_json::{Map, Value, json};

/// Results of one command.
#[derive(Debug)]
pub(crate) struct Out {
    json: bool,
    /// What became of each unit, in the order of their first mention.
    units: RefCell<Vec<Map<String, Value>>>,
    /// A document of its own kind.
    document: RefCell<Option<Value>>,
    /// Whether standard output belongs to somebody else.
    none: Cell<bool>,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            units: RefCell::default(),
            document: RefCell::default(),
            none: Cell::new(false),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people.
    pub(crate) fn line(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Something about a unit, for programs.
    pub(crate) fn unit(&self, name: &str, fields: &[(&str, &str)]) {
        let mut units = self.units.borrow_mut();
        let known = units
            .iter()
            .position(|u| u.get("unit").is_some_and(|n| n == name));
        let index = known.unwrap_or_else(|| {
            units.push(Map::from_iter([("unit".to_owned(), Value::from(name))]));
            units.len() - 1
        });
        for (key, value) in fields {
            units[index].insert((*key).to_owned(), Value::from(*value));
        }
    }

    /// The document, where it is not about what became of units.
    pub(crate) fn document(&self, value: Value) {
        *self.document.borrow_mut() = Some(value);
    }

    /// No document: what another program prints is the result.
    pub(crate) fn none(&self) {
        self.none.set(true);
    }

    /// Prints the document.
    pub(crate) fn finish(&self) {
        if !self.json || self.none.get() {
            return;
        }
        match self.document.take() {
            Some(document) => println!("{document}"),
            None => println!("{}", json!({ "units": self.units.take() })),
        }
    }
}
