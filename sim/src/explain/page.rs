//! A run as one page that needs nothing else: no network, no other file.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Told;
use super::named::Named;
use crate::trace::{Kind, Line};

/// How many lines a page holds at most, which bounds its size: some 6 MB.
pub const MOST_LINES: usize = 120_000;
/// How long a line's text may be on a page, in characters.
const LONGEST: usize = 240;

/// Every kind of line, in the order in which the page numbers them.
const KINDS: [Kind; 10] = [
    Kind::Asked,
    Kind::Says,
    Kind::Effect,
    Kind::Message,
    Kind::Stored,
    Kind::Changed,
    Kind::Fault,
    Kind::Mended,
    Kind::Failed,
    Kind::Violation,
];

/// The page. Of a run with more than [`MOST_LINES`] lines it has what went wrong, what was asked and what the store took, and
/// of the rest the last ones; it says so.
#[must_use]
pub fn page(told: &Told) -> String {
    let scripts = [
        include_str!("scale.js"),
        include_str!("paint.js"),
        include_str!("draw.js"),
        include_str!("page.js"),
    ];
    // The data come last: nothing in them is looked for marks.
    include_str!("page.html")
        .replace("/*STYLE*/", include_str!("page.css"))
        .replace("/*SCRIPT*/", &scripts.join("\n"))
        .replace("/*DATA*/", &embedded(&data(told, MOST_LINES)))
}

/// JSON that may stand in a `<script>`: no tag and no comment can begin in it.
fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// At most so many lines, and since when they are all there.
fn chosen(lines: &[Line], most: usize) -> (Vec<&Line>, u64) {
    if lines.len() <= most {
        return (lines.iter().collect(), 0);
    }
    let matters = |line: &Line| {
        let kind = !matches!(line.kind, Kind::Effect | Kind::Message | Kind::Says | Kind::Changed);
        kind || line.is_lost()
    };
    let mut room = most.saturating_sub(lines.iter().filter(|line| matters(line)).count());
    let mut since = u64::MAX;
    let mut kept: Vec<&Line> = Vec::with_capacity(most);
    for line in lines.iter().rev() {
        if !matters(line) {
            if room == 0 {
                continue;
            }
            room -= 1;
            since = line.at;
        }
        if kept.len() < most {
            kept.push(line);
        }
    }
    kept.reverse();
    (kept, since)
}

/// Gives each of the things that are named a number, in the order in which they come.
#[derive(Default)]
struct Numbers {
    names: Vec<String>,
    numbers: BTreeMap<String, usize>,
}

impl Numbers {
    fn of(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.numbers.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.names.len() - 1
    }
}

/// `#12 reads` is 12 and `reads`: without its number an effect says what others say too.
fn numbered(text: &str) -> (u64, &str) {
    let parts = text.strip_prefix('#').and_then(|rest| rest.split_once(' '));
    let parts = parts.and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
    parts.unwrap_or((0, text))
}

fn data(told: &Told, most: usize) -> Value {
    let (mut operations, mut texts) = (Numbers::default(), Numbers::default());
    let spans: Vec<Value> = told
        .spans
        .iter()
        .map(|span| {
            let operation = span.operation.as_ref().map(|id| operations.of(&id.to_string()));
            json!([span.node, span.from, span.to, span.text, operation, span.outcome, span.code])
        })
        .collect();
    let (chosen, since) = chosen(&told.lines, most);
    let mut before = 0;
    let lines: Vec<Value> = chosen
        .iter()
        .map(|line| {
            let operation = line.operation.as_ref().map(|id| operations.of(&id.to_string()));
            let (number, text) = numbered(&line.text);
            let text: String = text.chars().take(LONGEST).collect();
            let kind = KINDS.iter().position(|one| *one == line.kind);
            // -1: it is lost.
            let way = match line.arrives {
                _ if line.is_lost() => json!(-1),
                Some(arrives) => json!(arrives.saturating_sub(line.at)),
                None => Value::Null,
            };
            let after = line.at.saturating_sub(before);
            before = line.at;
            json!([after, line.node, line.peer, kind, operation, texts.of(&text), number, way])
        })
        .collect();
    let faults: Vec<Value> = told
        .faults
        .iter()
        .map(|fault| json!([fault.from, fault.to, fault.machines, fault.text]))
        .collect();
    let broke: Vec<Value> = told
        .violations
        .iter()
        .map(|it| {
            let named = Named::by(&it.what, told);
            let named_operations: Vec<_> =
                named.operations.iter().map(|id| operations.of(&id.to_string())).collect();
            json!([
                it.at.as_nanos() / 1000,
                it.invariant,
                it.what,
                named.machines,
                named_operations
            ])
        })
        .collect();
    json!({
        "title": told.title,
        "nodes": told.nodes,
        "servers": told.servers,
        "end": told.end,
        "kinds": KINDS,
        "operations": operations.names,
        "texts": texts.names,
        "happened": told.lines.len(),
        "since": since,
        "lines": lines,
        "spans": spans,
        "faults": faults,
        "violations": broke,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Happened;

    fn line(at: u64, kind: Kind, text: &str) -> Line {
        let text = text.to_owned();
        Line { at, node: Some(0), peer: None, arrives: None, kind, operation: None, text }
    }

    fn of(lines: Vec<Line>) -> Told {
        let happened = Happened { lines, spans: Vec::new() };
        Told::new("seed 1".to_owned(), 2, 1, happened, Vec::new())
    }

    #[test]
    fn what_a_line_says_cannot_end_the_script_that_it_is_in() {
        let text = "</script><script>alert(1)</script><!--";
        let (empty, full) = (of(Vec::new()), of(vec![line(1, Kind::Says, text)]));
        let tags = |told| page(told).matches("</script").count();
        assert_eq!(tags(&full), tags(&empty));
        let data = embedded(&data(&full, 10));
        let read: Value = serde_json::from_str(&data).expect("still JSON");
        assert_eq!(read["texts"][0], text);
    }

    #[test]
    fn of_too_many_lines_the_last_are_kept_and_every_fault() {
        let mut lines: Vec<Line> =
            (1..=1000).map(|at| line(at, Kind::Effect, "#7 lists")).collect();
        lines[10].kind = Kind::Fault;
        let data = data(&of(lines), 100);
        let kept = data["lines"].as_array().expect("lines");
        assert_eq!(kept.len(), 100);
        assert_eq!(kept[0][0], 11, "the fault");
        assert_eq!((data["since"].as_u64(), data["happened"].as_u64()), (Some(902), Some(1000)));
        assert_eq!(data["texts"].as_array().map(Vec::len), Some(1), "a text is written once");
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page(&of(Vec::new()));
        for word in
            ["src=", "href=", "http:", "https:", "@import", "fetch(", "/*DATA*/", "/*STYLE*/"]
        {
            assert!(!page.contains(word), "{word}");
        }
    }
}
