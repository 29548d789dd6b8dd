//! Reading typed values out of the common tree. A value that is wrong is reported and read as absent, so that one
//! reading finds all problems.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::keys::{self, nearest};
use super::problem::Code;
use super::tree::{Field, Kind, Node};
use crate::span::Span;

/// A problem and the byte offset of its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: usize,
    pub(super) code: Code,
    pub(super) path: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// A value and its key path.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
}

/// A table of which all keys are known.
#[derive(Debug, Clone)]
pub(super) struct Table<'a> {
    pub(super) at: usize,
    pub(super) path: String,
    fields: &'a [Field],
}

impl<'a> Table<'a> {
    pub(super) fn get(&self, key: &str) -> Option<View<'a>> {
        let field = self.fields.iter().find(|field| field.key == key)?;
        Some(View { node: &field.value, path: join(&self.path, key) })
    }
}

/// The longest string that is taken anywhere, in bytes.
const MAX_STRING: usize = 32 << 10;

#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) found: Vec<Found>,
}

impl Reader {
    pub(super) fn report(
        &mut self,
        at: usize,
        code: Code,
        path: &str,
        message: String,
        hint: Option<String>,
    ) {
        self.found.push(Found { at, code, path: path.to_owned(), message, hint });
    }

    pub(super) fn wrong(&mut self, view: &View<'_>, code: Code, message: String, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.report(view.node.at, code, &view.path, message, hint);
    }

    pub(super) fn missing(&mut self, table: &Table<'_>, key: &str, hint: &str) {
        let message = format!("`{key}` is missing");
        self.report(
            table.at,
            Code::MissingKey,
            &join(&table.path, key),
            message,
            Some(hint.to_owned()),
        );
    }

    pub(super) fn wrong_type(&mut self, view: &View<'_>, wanted: &str, hint: &str) {
        let message = format!("{wanted} is wanted, not {}", view.node.kind.name());
        self.wrong(view, Code::WrongType, message, hint);
    }

    /// A table with the keys of `known`; every other key is reported.
    pub(super) fn table<'a>(&mut self, view: &View<'a>, known: &keys::Table) -> Option<Table<'a>> {
        let Kind::Table(fields) = &view.node.kind else {
            self.wrong_type(view, "a table", &known.hint());
            return None;
        };
        for field in fields.iter().filter(|f| !known.keys.contains(&f.key.as_str())) {
            let path = join(&view.path, &field.key);
            let said = |list: &[(&str, &str)]| {
                list.iter().find(|(key, _)| *key == field.key).map(|(_, text)| (*text).to_owned())
            };
            if let Some(why) = said(known.later) {
                self.report(
                    field.at,
                    Code::Unsupported,
                    &path,
                    format!("`{}` is not supported: {why}", field.key),
                    None,
                );
                continue;
            }
            let hint = said(known.aliases)
                .or_else(|| {
                    nearest(&field.key, known.keys).map(|key| format!("did you mean `{key}`?"))
                })
                .unwrap_or_else(|| known.hint());
            let key = shorten(&field.key);
            self.report(
                field.at,
                Code::UnknownKey,
                &path,
                format!("there is no key `{key}`"),
                Some(hint),
            );
        }
        Some(Table { at: view.node.at, path: view.path.clone(), fields })
    }

    /// A table whose keys are the user's own.
    pub(super) fn map<'a>(
        &mut self,
        view: &View<'a>,
        max: usize,
        hint: &str,
    ) -> Vec<(&'a Field, View<'a>)> {
        let Kind::Table(fields) = &view.node.kind else {
            self.wrong_type(view, "a table", hint);
            return Vec::new();
        };
        self.limit(view, fields.len(), max);
        fields
            .iter()
            .map(|f| (f, View { node: &f.value, path: join(&view.path, &f.key) }))
            .collect()
    }

    pub(super) fn array<'a>(&mut self, view: &View<'a>, max: usize, hint: &str) -> Vec<View<'a>> {
        let Kind::Array(items) = &view.node.kind else {
            self.wrong_type(view, "an array", hint);
            return Vec::new();
        };
        self.limit(view, items.len(), max);
        let view = |(n, node)| View { node, path: format!("{}[{n}]", view.path) };
        items.iter().enumerate().map(view).collect()
    }

    fn limit(&mut self, view: &View<'_>, count: usize, max: usize) {
        if count > max {
            self.wrong(
                view,
                Code::TooMany,
                format!("{count} entries, at most {max} are allowed"),
                "",
            );
        }
    }

    pub(super) fn string(&mut self, view: &View<'_>, hint: &str) -> Option<String> {
        let quoted = match &view.node.kind {
            Kind::String(text) if text.len() > MAX_STRING => {
                self.wrong(
                    view,
                    Code::TooLarge,
                    format!("{} bytes, at most {MAX_STRING} are allowed", text.len()),
                    "",
                );
                return None;
            }
            Kind::String(text) if text.contains('\0') => {
                self.wrong(view, Code::InvalidValue, "a zero byte is in the text".to_owned(), "");
                return None;
            }
            Kind::String(text) => return Some(text.clone()),
            Kind::Integer(n) => format!("write \"{n}\" in quotes"),
            Kind::Float(n) => format!("write \"{n}\" in quotes"),
            Kind::Bool(b) => format!("write \"{b}\" in quotes"),
            _ => hint.to_owned(),
        };
        self.wrong_type(view, "a string", if hint.is_empty() { &quoted } else { hint });
        None
    }

    /// An array of strings, as a command is.
    pub(super) fn words(&mut self, view: &View<'_>) -> Vec<String> {
        if let Kind::String(text) = &view.node.kind {
            let words: Vec<String> =
                text.split_whitespace().map(|word| format!("{word:?}")).collect();
            let hint = format!("no shell splits it: write [{}]", shorten(&words.join(", ")));
            self.wrong_type(view, "an array of strings", &hint);
            return Vec::new();
        }
        let items = self.array(view, 256, "write [\"…\", \"…\"]");
        items.iter().filter_map(|item| self.string(item, "")).collect()
    }

    pub(super) fn integer<T: TryFrom<i128> + Display + Copy + Into<i128>>(
        &mut self,
        view: &View<'_>,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let Kind::Integer(n) = view.node.kind else {
            self.wrong_type(
                view,
                "an integer",
                &format!("{} to {} is allowed", range.start(), range.end()),
            );
            return None;
        };
        let within = (*range.start()).into()..=(*range.end()).into();
        if !within.contains(&n) {
            let message = format!("{n} is not within {} to {}", range.start(), range.end());
            self.wrong(view, Code::OutOfRange, message, "");
            return None;
        }
        T::try_from(n).ok()
    }

    /// A string that a type of its own reads.
    pub(super) fn parsed<T>(&mut self, view: &View<'_>, code: Code) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.string(view, "")?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(view, code, shorten(&error.to_string()), "");
                None
            }
        }
    }

    pub(super) fn span(&mut self, view: &View<'_>, range: RangeInclusive<Span>) -> Option<Span> {
        let text = self.string(view, "")?;
        let (min, max) = (range.start(), range.end());
        match text.parse::<Span>() {
            Ok(span) if range.contains(&span) => return Some(span),
            Ok(span) => {
                let message = format!("{span} is not within {min} to {max}");
                self.wrong(view, Code::OutOfRange, message, "");
            }
            // What a span can be at all is more than this key takes.
            Err(_) => {
                let message = format!("{:?} is no duration of {min} to {max}", shorten(&text));
                let hint = "write a whole number with ms, s, m or h, for example \"5s\"";
                self.wrong(view, Code::InvalidValue, message, hint);
            }
        }
        None
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&mut self, view: &View<'_>, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let allowed = format!("allowed are {}", quoted(&words));
        let text = self.string(view, &allowed)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let hint =
                nearest(&text, &words).map_or(allowed, |word| format!("did you mean \"{word}\"?"));
            self.wrong(
                view,
                Code::InvalidValue,
                format!("there is no {:?} here", shorten(&text)),
                &hint,
            );
        }
        found
    }
}

/// `table.key`, quoted where a bare key could not be.
pub(in crate::deploy) fn join(path: &str, key: &str) -> String {
    let bare =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if bare { shorten(key) } else { format!("{:?}", shorten(key)) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// What a message quotes of the user's text is no longer than a few lines.
pub(super) fn shorten(text: &str) -> String {
    const MAX: usize = 240;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}
