//! TOML to the common tree.

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::tree::{Field, Kind, Node, SyntaxError};

pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| syntax_error(text, &error))?;
    Ok(Node { at: 0, kind: Kind::Table(fields(table.get_ref())) })
}

fn syntax_error(text: &str, error: &::toml::de::Error) -> SyntaxError {
    let span = error.span().unwrap_or_default();
    if error.message() == "duplicate key" {
        // The library says where the key is, and does not name it.
        let key = text.get(span.clone()).unwrap_or_default();
        return SyntaxError::duplicate(span.start, key.trim_matches(['"', '\'']));
    }
    SyntaxError { at: span.start, message: error.message().to_owned(), duplicate: false }
}

fn fields(table: &DeTable<'_>) -> Vec<Field> {
    let mut fields: Vec<Field> = table
        .iter()
        .map(|(key, value)| Field {
            key: key.get_ref().to_string(),
            at: key.span().start,
            value: node(value),
        })
        .collect();
    // The library sorts by key.
    fields.sort_by_key(|field| field.at);
    fields
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::String(text.to_string()),
        DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Kind::Integer(n),
            Err(_) => Kind::Float(f64::INFINITY),
        },
        // The library has checked the syntax; what is too large for a float is infinite.
        DeValue::Float(n) => Kind::Float(n.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => Kind::Bool(*b),
        DeValue::Datetime(_) => Kind::DateTime,
        DeValue::Array(items) => Kind::Array(items.iter().map(node).collect()),
        DeValue::Table(table) => Kind::Table(fields(table)),
    };
    Node { at: value.span().start, kind }
}
