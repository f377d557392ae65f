//! YAML text to a tree with places, and the YAML 1.1 meaning of plain scalars.
//!
//! The tree keeps source texts: whether `off` is a boolean or a word is decided by the field that
//! asks ([`Scalar::as_bool`], [`Scalar::text`]). Dashes in mapping keys become underscores here, at
//! every depth. Aliases are expanded under a budget, so that a small document cannot become a huge
//! tree. A second document in the stream is ignored, as the original does.

mod scalar;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

pub use scalar::{Scalar, Style};

/// Deepest nesting of lists and mappings that is read.
const MAX_DEPTH: usize = 64;
/// Most nodes of a tree, expanded aliases included.
const MAX_NODES: usize = 200_000;
/// Most bytes of scalar text of a tree, expanded aliases included.
const MAX_TEXT: usize = 64 << 20;

/// A place in the source, both counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

impl Mark {
    /// The first character of the input.
    pub const START: Mark = Mark { line: 1, column: 1 };
}

/// Why the text is not YAML that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}: {message}", mark.line)]
pub struct YamlError {
    /// Where.
    pub mark: Mark,
    /// What is wrong.
    pub message: String,
}

/// One node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where the node starts.
    pub mark: Mark,
    /// What it is.
    pub value: Value,
}

/// The three kinds of YAML node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping in source order, keys unique.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key with dashes turned into underscores.
    pub key: String,
    /// The key as written.
    pub raw_key: String,
    /// Where the key stands.
    pub mark: Mark,
    /// The value.
    pub node: Node,
}

impl Node {
    /// The entries, if the node is a mapping.
    pub fn as_map(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if the node is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The scalar, if the node is one and not null.
    pub fn as_scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(s) if !s.is_null() => Some(s),
            _ => None,
        }
    }

    /// Whether the node is an empty or `~` value.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if s.is_null())
    }

    /// The value of `key` if the node is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?
            .iter()
            .find(|e| e.key == key)
            .map(|e| &e.node)
    }

    /// The text of the scalar value of `key`.
    pub fn get_text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_scalar().map(|s| s.text.as_str())
    }
}

/// How many tabs behind a colon are forgiven in one document.
const MAX_TABS: usize = 256;

/// Reads the first document of `text`. `None` if there is none, or only a null.
pub fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    check_characters(text)?;
    let mut text = std::borrow::Cow::Borrowed(text);
    for _ in 0..MAX_TABS {
        match parse_strictly(&text) {
            Err(error) if error.message.starts_with("':' must be followed") => {
                // The reader that these documents were written for took a tab behind a colon.
                match without_tab(&text, error.mark) {
                    Some(better) => text = better.into(),
                    None => return Err(error),
                }
            }
            Err(error) if error.message.ends_with("found a tab") => {
                return Err(at_the_tab(&text, error));
            }
            other => return other,
        }
    }
    parse_strictly(&text)
}

/// The text with the first tabs behind a colon in a line turned into blanks; columns stay.
fn without_tab(text: &str, mark: Mark) -> Option<String> {
    let start: usize = text
        .split_inclusive('\n')
        .take(mark.line as usize - 1)
        .map(str::len)
        .sum();
    let line = text[start..].split('\n').next()?;
    let at = start + line.find(":\t")? + 1;
    let tabs = text[at..].bytes().take_while(|b| *b == b'\t').count();
    Some(format!(
        "{}{}{}",
        &text[..at],
        " ".repeat(tabs),
        &text[at + tabs..]
    ))
}

/// A tab that indents a line is found while the line before it is read: name the line with the tab.
fn at_the_tab(text: &str, mut error: YamlError) -> YamlError {
    let lines = (1_u32..).zip(text.lines()).skip(error.mark.line as usize);
    for (number, line) in lines {
        let indent = line.len() - line.trim_start().len();
        if let Some(column) = line[..indent].find('\t') {
            let column = u32::try_from(column + 1).unwrap_or(u32::MAX);
            error.mark = Mark {
                line: number,
                column,
            };
            break;
        }
    }
    error
}

fn parse_strictly(text: &str) -> Result<Option<Node>, YamlError> {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    let last_line = text.lines().count().max(1);
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|e| YamlError {
            // What is missing at the end is missing in the last line.
            mark: mark_of_scan(e.marker().line().min(last_line), e.marker().col()),
            message: e.info().to_owned(),
        })?;
        if matches!(event, Event::DocumentEnd | Event::StreamEnd) {
            break;
        }
        builder.event(&event, span)?;
    }
    Ok(builder.root.filter(|node| !node.is_null()))
}

/// Refuses characters that YAML forbids, with their place.
fn check_characters(text: &str) -> Result<(), YamlError> {
    let mut mark = Mark::START;
    for c in text.chars() {
        let allowed = matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..)
            && !matches!(c, '\u{fffe}' | '\u{ffff}');
        if !allowed {
            return Err(YamlError {
                mark,
                message: format!("control character U+{:04X} is not allowed", u32::from(c)),
            });
        }
        if c == '\n' {
            mark = Mark {
                line: mark.line + 1,
                column: 1,
            };
        } else {
            mark.column += 1;
        }
    }
    Ok(())
}

fn mark_of_scan(line: usize, column: usize) -> Mark {
    Mark {
        line: u32::try_from(line.max(1)).unwrap_or(u32::MAX),
        column: u32::try_from(column + 1).unwrap_or(u32::MAX),
    }
}

/// A list or mapping under construction.
enum Frame {
    List {
        mark: Mark,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        mark: Mark,
        anchor: usize,
        entries: Vec<RawEntry>,
        key: Option<(String, Mark, bool)>,
    },
}

struct RawEntry {
    key: String,
    mark: Mark,
    /// The key was the plain word `<<`.
    merge: bool,
    node: Node,
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
    root: Option<Node>,
}

impl Builder {
    fn event(&mut self, event: &Event<'_>, span: Span) -> Result<(), YamlError> {
        let mark = mark_of_scan(span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let core = tag.as_ref().filter(|t| t.is_yaml_core_schema());
                let suffix = core.map(|t| t.suffix.as_str());
                let style = match (style, suffix) {
                    (_, Some("str")) => Style::Quoted,
                    (_, Some("int" | "float" | "bool" | "null")) => Style::Plain,
                    (ScalarStyle::Plain, _) => Style::Plain,
                    (ScalarStyle::Literal | ScalarStyle::Folded, _) => Style::Block,
                    _ => Style::Quoted,
                };
                let scalar = Scalar {
                    text: text.clone().into_owned(),
                    style,
                    binary: suffix == Some("binary"),
                };
                self.spend(mark, 1, scalar.text.len())?;
                self.place(mark, *anchor, Value::Scalar(scalar))
            }
            Event::SequenceStart(anchor, _) => self.open(
                mark,
                Frame::List {
                    mark,
                    anchor: *anchor,
                    items: Vec::new(),
                },
            ),
            Event::MappingStart(anchor, _) => self.open(
                mark,
                Frame::Map {
                    mark,
                    anchor: *anchor,
                    entries: Vec::new(),
                    key: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List {
                    mark,
                    anchor,
                    items,
                }) => self.place(mark, anchor, Value::List(items)),
                Some(Frame::Map {
                    mark,
                    anchor,
                    entries,
                    ..
                }) => {
                    let map = finish_map(entries)?;
                    self.place(mark, anchor, Value::Map(map))
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(anchor) else {
                    return Err(YamlError {
                        mark,
                        message: "an alias refers to a node that contains it".to_owned(),
                    });
                };
                let (nodes, text) = weight(node);
                self.spend(mark, nodes, text)?;
                let value = self.anchors[anchor].value.clone();
                self.check_depth(mark, depth(&value))?;
                self.place(mark, 0, value)
            }
            _ => Ok(()),
        }
    }

    fn spend(&mut self, mark: Mark, nodes: usize, text: usize) -> Result<(), YamlError> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err(YamlError {
                mark,
                message: format!(
                    "the document is too large (more than {MAX_NODES} values or {} MiB of text, \
                     repeated aliases counted)",
                    MAX_TEXT >> 20
                ),
            });
        }
        Ok(())
    }

    fn check_depth(&self, mark: Mark, more: usize) -> Result<(), YamlError> {
        if self.stack.len() + more > MAX_DEPTH {
            return Err(YamlError {
                mark,
                message: format!("nested more than {MAX_DEPTH} levels deep"),
            });
        }
        Ok(())
    }

    fn open(&mut self, mark: Mark, frame: Frame) -> Result<(), YamlError> {
        self.check_depth(mark, 1)?;
        self.spend(mark, 1, 0)?;
        self.stack.push(frame);
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, mark: Mark, anchor: usize, value: Value) -> Result<(), YamlError> {
        let node = Node { mark, value };
        if anchor != 0 {
            let (nodes, text) = weight(&node);
            self.spend(mark, nodes, text)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, .. }) => match key.take() {
                Some((key, mark, merge)) => entries.push(RawEntry {
                    key,
                    mark,
                    merge,
                    node,
                }),
                None => match node.value {
                    Value::Scalar(s) => {
                        let merge = s.style == Style::Plain && s.text == "<<";
                        *key = Some((s.text, mark, merge));
                    }
                    _ => {
                        return Err(YamlError {
                            mark,
                            message: "a mapping key must be a single word or text".to_owned(),
                        });
                    }
                },
            },
        }
        Ok(())
    }
}

/// Applies merge keys, turns dashes into underscores, lets the last of equal keys win.
fn finish_map(raw: Vec<RawEntry>) -> Result<Vec<Entry>, YamlError> {
    let mut merged: Vec<Entry> = Vec::new();
    let mut own: Vec<Entry> = Vec::new();
    for entry in raw {
        if entry.merge {
            merge_into(&mut merged, &entry)?;
        } else {
            own.push(Entry {
                key: entry.key.replace('-', "_"),
                raw_key: entry.key,
                mark: entry.mark,
                node: entry.node,
            });
        }
    }
    // An own key beats a merged one; of own keys the last wins; of merged ones the first.
    let mut last: HashMap<String, usize> = HashMap::new();
    for (index, entry) in own.iter().enumerate() {
        last.insert(entry.key.clone(), index);
    }
    let mut result: Vec<Entry> = own
        .into_iter()
        .enumerate()
        .filter(|(index, entry)| last[&entry.key] == *index)
        .map(|(_, entry)| entry)
        .collect();
    for entry in merged {
        if !last.contains_key(&entry.key) {
            last.insert(entry.key.clone(), usize::MAX);
            result.push(entry);
        }
    }
    Ok(result)
}

fn merge_into(merged: &mut Vec<Entry>, entry: &RawEntry) -> Result<(), YamlError> {
    let wrong = || YamlError {
        mark: entry.mark,
        message: "the value of \"<<\" must be a mapping or a list of mappings".to_owned(),
    };
    match &entry.node.value {
        Value::Map(map) => merged.extend(map.iter().cloned()),
        Value::List(items) => {
            for item in items {
                merged.extend(item.as_map().ok_or_else(wrong)?.iter().cloned());
            }
        }
        Value::Scalar(_) => return Err(wrong()),
    }
    Ok(())
}

/// Nodes and bytes of text in a tree; recursion is bounded by `MAX_DEPTH`.
fn weight(node: &Node) -> (usize, usize) {
    let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
    match &node.value {
        Value::Scalar(s) => (1, s.text.len()),
        Value::List(items) => items.iter().map(weight).fold((1, 0), add),
        Value::Map(entries) => entries.iter().map(|e| weight(&e.node)).fold((1, 0), add),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Scalar(_) => 0,
        Value::List(items) => 1 + items.iter().map(|n| depth(&n.value)).max().unwrap_or(0),
        Value::Map(entries) => {
            1 + entries
                .iter()
                .map(|e| depth(&e.node.value))
                .max()
                .unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_people_write_is_read() {
        let cases = [
            ("a: 1\t\nb: 2\n", Some("1")),
            ("a:\tx\nb:\t\ty\n", Some("x")),
            ("a: 1 \t# c\n", Some("1")),
            ("a: x\n  y\nb: 1\n", Some("x y")),
            ("a: |\n  x\n\n  \ty\nb: 1\n", Some("x\n\n\ty\n")),
            ("a: >-\n  x\n  y\n\n  z\n", Some("x y\nz")),
            ("%YAML 1.1\n---\na: 1\n", Some("1")),
            ("a: 'it''s'\n", Some("it's")),
            ("a: x\n\n\t\n", Some("x")),
            ("a: |\n  x\n \t\nb: 1\n", Some("x\n")),
            ("a: x:y\n", Some("x:y")),
            ("a: --foo=bar --baz\n", Some("--foo=bar --baz")),
            ("\"a\" : 1\n...\n", Some("1")),
            ("a: [\n  x,\n  y,\n]\nb: 1\n", None),
        ];
        for (text, want) in cases {
            let node = parse(text)
                .unwrap_or_else(|e| panic!("{text:?}: {e}"))
                .unwrap();
            assert_eq!(node.get_text("a"), want, "{text:?}");
        }
    }

    #[test]
    fn keys_lose_dashes_at_every_depth_and_the_last_duplicate_wins() {
        let node = parse("a-b:\n  c-d: 1\n  c_d: 2\n").unwrap().unwrap();
        assert_eq!(node.get("a_b").unwrap().get_text("c_d"), Some("2"));
        assert_eq!(node.get("a_b").unwrap().as_map().unwrap().len(), 1);
    }

    #[test]
    fn merge_keys_fill_only_what_is_missing() {
        let text = "base: &b {x: 1, y: 2}\nuse:\n  y: 3\n  <<: *b\n";
        let node = parse(text).unwrap().unwrap();
        let used = node.get("use").unwrap();
        assert_eq!(used.get_text("x"), Some("1"));
        assert_eq!(used.get_text("y"), Some("3"));
    }

    #[test]
    fn alias_bombs_end_in_an_error() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let prev = i - 1;
            text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{prev}"); 9].join(","));
        }
        assert!(parse(&text).unwrap_err().message.contains("too large"));
        let deep = "[".repeat(500);
        assert!(parse(&deep).is_err());
        assert!(parse("a: &a [*a]\n").is_err());
    }

    #[test]
    fn errors_name_the_exact_line() {
        assert_eq!(
            parse("a: 1\nb: \u{7}\n").unwrap_err().mark,
            Mark { line: 2, column: 4 }
        );
        assert_eq!(parse("a: 1\n\tb: 2\n").unwrap_err().mark.line, 2);
        assert_eq!(parse("a: 1\nb: [1, 2\n").unwrap_err().mark.line, 2);
    }

    #[test]
    fn block_text_has_unix_lines_and_trailing_blanks_are_harmless() {
        let node = parse("a: |\r\n  x\r\n  y\r\nb: 1\r\n\t\r\n  \r\n")
            .unwrap()
            .unwrap();
        assert_eq!(node.get_text("a"), Some("x\ny\n"));
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("# only a comment\n").unwrap(), None);
        let two = parse("a: 1\n---\nb: 2\n").unwrap().unwrap();
        assert!(two.get("b").is_none());
    }
}
