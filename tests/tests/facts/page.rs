//! `docs/facts.md`, read as a machine reads it.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};

/// A row of the table of keys.
#[derive(Debug)]
pub(crate) struct Row {
    /// The key, with placeholders: `ns.<ns>.head`.
    pub(crate) pattern: String,
    /// `intent` or `status`.
    pub(crate) kind: String,
}

/// What the page says.
#[derive(Debug)]
pub(crate) struct Page {
    /// The table of keys.
    pub(crate) rows: Vec<Row>,
    /// Each order in which an operation goes through its phases.
    pub(crate) phases: Vec<Vec<String>>,
}

impl Page {
    /// Reads the page.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/facts.md");
        let text = std::fs::read_to_string(path).context(path)?;
        let rows = text
            .lines()
            .skip_while(|line| !line.starts_with("| key |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                ensure!(cells.len() == 6, "four columns: {line}");
                let pattern = quoted(cells[1]).next().context("a key")?;
                Ok(Row { pattern, kind: cells[2].to_owned() })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let phases = text.lines().find(|line| line.starts_with("Phases of `op.<id>`: "));
        let phases = phases.context("the phases")?.split_once(": ").context("phases")?.1;
        let phases = phases.split(", or ").map(|chain| quoted(chain).collect()).collect();
        Ok(Self { rows, phases })
    }

    /// The rows that a key belongs to.
    pub(crate) fn rows_of(&self, key: &str) -> Vec<&Row> {
        self.rows.iter().filter(|row| fits(&row.pattern, key)).collect()
    }

    /// Every phase that the page names.
    pub(crate) fn all_phases(&self) -> BTreeSet<&str> {
        self.phases.iter().flatten().map(String::as_str).collect()
    }
}

fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Whether a key is of a pattern: token by token, where `<…>` stands for at least one character.
fn fits(pattern: &str, key: &str) -> bool {
    let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    pattern.len() == key.len() && pattern.iter().zip(key).all(|(p, k)| token_fits(p, k))
}

fn token_fits(pattern: &str, token: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('<') else { return pattern == token };
    let after = rest.split_once('>').map_or("", |(_, after)| after);
    let Some(token) = token.strip_prefix(before) else { return false };
    (1..=token.len()).any(|n| token.is_char_boundary(n) && token_fits(after, &token[n..]))
}

#[test]
fn a_key_is_of_a_pattern_token_by_token() {
    assert!(fits("ns.<ns>.instance.<service>-<slot>", "ns.blog.instance.web-api-0"));
    assert!(!fits("ns.<ns>.instance.<service>-<slot>", "ns.blog.instance.web"));
    assert!(!fits("ns.<ns>.head", "ns.blog.commit.1"));
    assert!(!fits("op.<id>", "op"));
}
