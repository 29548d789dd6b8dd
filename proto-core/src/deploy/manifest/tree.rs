//! What TOML and JSON have in common, with the place of everything in the text.

use super::read::shorten;

/// A value and the byte offset where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// `i128` holds every integer that either syntax can mean here; larger ones come as `Float`.
    Integer(i128),
    Float(f64),
    String(String),
    /// TOML only; no key takes one.
    DateTime,
    Array(Vec<Node>),
    /// In the order of the text; keys are unique.
    Table(Vec<Field>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) value: Node,
}

/// The text is not in the syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    pub(super) message: String,
    /// Whether the only thing wrong is that a key is there twice.
    pub(super) duplicate: bool,
}

impl SyntaxError {
    /// The table of the place `at` has this key already.
    pub(super) fn duplicate(at: usize, key: &str) -> Self {
        let message = format!("the key `{}` is there already", shorten(key));
        Self { at, message, duplicate: true }
    }
}

impl Kind {
    /// The type with its article.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::String(_) => "a string",
            Self::DateTime => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The offset of what `path` names, or of the deepest part of it that is in the text.
    pub(super) fn locate(&self, path: &str) -> usize {
        let mut node = self;
        let mut at = self.at;
        for part in parts(path) {
            let next = match (&node.kind, part) {
                (Kind::Array(items), Part::Index(n)) => items.get(n).map(|n| (n.at, n)),
                (Kind::Table(fields), Part::Key(key)) => {
                    fields.iter().find(|f| f.key == key).map(|f| (f.at, &f.value))
                }
                _ => None,
            };
            let Some(next) = next else { break };
            (at, node) = next;
        }
        at
    }
}

/// A part of a key path.
enum Part {
    Key(String),
    Index(usize),
}

/// The parts of a key path as [`join`](super::read::join) writes them: `services[0].labels."ployz.x"`. What does not look like one ends it.
fn parts(path: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(index) = rest.strip_prefix('[') {
            let Some((index, after)) = index.split_once(']') else { break };
            let Ok(index) = index.parse() else { break };
            parts.push(Part::Index(index));
            rest = after;
        } else if let Some(key) = rest.strip_prefix('"') {
            let Some((key, after)) = unquoted(key) else { break };
            parts.push(Part::Key(key));
            rest = after;
        } else {
            let (key, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            parts.push(Part::Key(key.to_owned()));
            rest = after;
        }
    }
    parts
}

/// A key in quotes up to the one that ends it, and what follows; a backslash stands before a quote or a backslash.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut key = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((key, &text[at + 1..])),
            (_, '\\') => key.push(chars.next()?.1),
            (_, c) => key.push(c),
        }
    }
}

/// Turns byte offsets into lines and columns.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Line and column in characters, both from 1.
    pub(super) fn position(&self, at: usize) -> (u32, u32) {
        let at = at.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line - 1];
        // `at` may lie inside a character if a parser counted so: count the characters that start before it.
        let column = self.text[start..].char_indices().take_while(|(n, _)| start + n < at).count();
        // A manifest has at most 2^20 bytes.
        (line as u32, column as u32 + 1)
    }
}
