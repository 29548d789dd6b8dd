//! A run for a terminal: one line a change of state with a column a machine.

use std::fmt::Write as _;

use super::Told;
use super::named::Named;
use crate::cluster::{BACK, GONE};
use crate::invariants::Violation;
use crate::story::machine_name;
use crate::trace::{Kind, Line};

/// How many lines before a violation are told once more.
const LAST: usize = 20;

/// How it is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// How long a line may be, in characters.
    pub width: usize,
    /// Whether colours are understood.
    pub colour: bool,
    /// Every effect too, not only changes of state, what is lost and what is struck.
    pub effects: bool,
}

/// How machines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// A column of this width each.
    Each(usize),
    /// There are too many: their names.
    Names,
}

/// The cluster, every change of state, and what led to what broke.
#[must_use]
pub fn text(told: &Told, layout: Layout) -> String {
    let mut page = Page { out: String::new(), layout, columns: columns(told.nodes, layout.width) };
    page.line(
        &format!(
            "{}: {} machines, {} with a server of the store, {} s; asked {} times, {} faults by the clock, {} broken",
            told.title,
            told.nodes,
            told.servers,
            told.end / 1_000_000,
            told.spans.len(),
            told.faults.len(),
            told.violations.len()
        ),
        "1",
    );
    page.line(
        "? asked  \" says  > effect  S stored  * changed  X fault  o mended  - failed  ! broken",
        "2",
    );
    page.line("· the other end  | has an operation open  x is down or stands still", "2");
    page.head(told.nodes);
    page.states(told);
    if told.violations.is_empty() {
        page.line("\nNothing broke.", "1");
    }
    told.violations.iter().for_each(|violation| page.broke(told, violation));
    page.out
}

/// Two characters a machine, or one, if that leaves two thirds of the width for words.
fn columns(nodes: usize, width: usize) -> Columns {
    [2, 1].into_iter().find(|each| nodes * each <= width / 3).map_or(Columns::Names, Columns::Each)
}

struct Page {
    out: String,
    layout: Layout,
    columns: Columns,
}

/// What a machine's column says where nothing happens.
#[derive(Clone, Default)]
struct Standing {
    open: usize,
    down: bool,
}

impl Page {
    fn head(&mut self, nodes: usize) {
        let Columns::Each(each) = self.columns else { return };
        let digits = |power: usize| -> String {
            let digit = |n: usize| {
                let seen = power == 1 || n >= power;
                let digit = char::from_digit(u32::try_from(n / power % 10).unwrap_or(0), 10);
                digit.filter(|_| seen).unwrap_or(' ')
            };
            (1..=nodes).map(|n| format!("{:<each$}", digit(n))).collect()
        };
        for power in [100, 10, 1].into_iter().filter(|power| nodes >= *power) {
            let title = if power == 1 { "seconds     m" } else { "" };
            let row = format!("{title:>13} {}", digits(power));
            self.line(row.trim_end(), "2");
        }
    }

    fn states(&mut self, told: &Told) {
        let mut standing = vec![Standing::default(); told.nodes];
        // When each operation was asked for and answered, in order: the columns follow.
        let asked = told.spans.iter().map(|span| (span.from, true, span.node));
        let answered = told.spans.iter().filter_map(|span| Some((span.to?, false, span.node)));
        let mut turns: Vec<_> = asked.chain(answered).collect();
        turns.sort_unstable();
        let mut turns = turns.into_iter().peekable();
        for line in &told.lines {
            while let Some((_, begins, node)) = turns.next_if(|(at, ..)| *at <= line.at) {
                let open = &mut standing[node].open;
                *open = if begins { *open + 1 } else { open.saturating_sub(1) };
            }
            if let Some(node) = line.node {
                follow(&mut standing[node], line);
            }
            let changes = !matches!(line.kind, Kind::Effect | Kind::Message);
            if changes || line.is_lost() || self.layout.effects {
                self.state(line, &standing);
            }
        }
    }

    fn state(&mut self, line: &Line, standing: &[Standing]) {
        let (mark, style) = match line.kind {
            Kind::Violation => ('!', "1;97;41"),
            Kind::Fault => ('X', "31"),
            Kind::Failed => ('-', "31"),
            Kind::Mended => ('o', "32"),
            Kind::Asked => ('?', "1"),
            _ if line.is_lost() => ('X', "31"),
            _ => (' ', ""),
        };
        let time = format!("{:>6}.{:03}", line.at / 1_000_000, line.at / 1000 % 1000);
        let place = match self.columns {
            Columns::Names => {
                let one = line.node.map_or_else(|| "store".to_owned(), machine_name);
                let other =
                    line.peer.map_or_else(String::new, |peer| format!("~{}", machine_name(peer)));
                format!("{} {:<11}", line.kind.sign(), one + &other)
            }
            Columns::Each(each) => {
                let column = |(node, standing): (usize, &Standing)| {
                    let sign = match (Some(node) == line.node, Some(node) == line.peer, standing) {
                        (true, ..) => line.kind.sign(),
                        (_, true, _) => '·',
                        (.., Standing { down: true, .. }) => 'x',
                        (.., Standing { open: 1.., .. }) => '|',
                        _ => ' ',
                    };
                    format!("{sign:<each$}")
                };
                let columns: String = standing.iter().enumerate().map(column).collect();
                format!("{columns}{}", if line.node.is_none() { line.kind.sign() } else { ' ' })
            }
        };
        self.line(&format!("{time} {mark}  {place} {}", line.text), style);
    }

    fn broke(&mut self, told: &Told, violation: &Violation) {
        let at = violation.at.as_nanos() / 1000;
        let time = format!("{}.{:03} s", at / 1_000_000, at / 1000 % 1000);
        self.line(&format!("\nBROKEN at {time}: {}", violation.invariant), "1;97;41");
        // This is what it is all about: it is not cut.
        let _ = writeln!(self.out, "  {}", violation.what);
        let named = Named::by(&violation.what, told);
        let before = told.lines.iter().filter(|line| line.at <= at && line.kind != Kind::Violation);
        let about: Vec<&Line> = before.filter(|line| named.holds(line)).collect();
        self.line(&format!("\nThe last lines{}, with effects", named.in_words()), "1");
        let standing = vec![Standing::default(); told.nodes];
        for line in &about[about.len().saturating_sub(LAST)..] {
            self.state(line, &standing);
        }
    }

    /// One line, cut where the terminal ends.
    fn line(&mut self, text: &str, style: &str) {
        let width = self.layout.width;
        let cut: String = if text.chars().count() > width {
            text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        } else {
            text.to_owned()
        };
        let _ = if self.layout.colour && !style.is_empty() {
            writeln!(self.out, "\u{1b}[{style}m{cut}\u{1b}[0m")
        } else {
            writeln!(self.out, "{}", cut.trim_end())
        };
    }
}

/// Whether a machine's daemon works is what its lines say.
fn follow(standing: &mut Standing, line: &Line) {
    if GONE.contains(&line.text.as_str()) {
        standing.down = true;
    } else if BACK.contains(&line.text.as_str()) {
        standing.down = false;
    }
}

#[cfg(test)]
mod tests {
    use proto_core::time::Time;

    use super::*;
    use crate::trace::Happened;

    const LAYOUT: Layout = Layout { width: 100, colour: false, effects: false };

    fn line(at: u64, node: usize, kind: Kind, text: &str) -> Line {
        let text = text.to_owned();
        Line { at, node: Some(node), peer: None, arrives: None, kind, operation: None, text }
    }

    fn of(nodes: usize, lines: Vec<Line>, what: Option<&str>, layout: Layout) -> String {
        let at = Time::from_nanos(60_000);
        let broken = |what: &str| Violation { invariant: "S9 a rule", what: what.to_owned(), at };
        let happened = Happened { lines, spans: Vec::new() };
        let violations = what.map(broken).into_iter().collect();
        text(&Told::new("seed 1".to_owned(), nodes, 1, happened, violations), layout)
    }

    fn sixty(what: &str) -> String {
        let says = |n| line(n, usize::from(n % 2 == 1), Kind::Effect, &format!("line {n} ends"));
        of(2, (0..60).map(says).collect(), Some(what), LAYOUT)
    }

    #[test]
    fn a_violation_is_told_with_the_last_twenty_lines_of_the_machine_that_it_names() {
        let story = sixty("m2 forgot it");
        assert!(story.contains("The last lines about m2,"), "{story}");
        assert_eq!(story.matches("ends").count(), LAST);
        assert!(story.contains("line 59 ends") && !story.contains("line 58 ends"), "{story}");
    }

    #[test]
    fn a_violation_that_names_nothing_is_told_with_the_last_lines_of_all() {
        let story = sixty("nobody knows m22");
        assert!(story.contains("line 59 ends") && story.contains("line 58 ends"), "{story}");
        assert_eq!(story.matches("ends").count(), LAST);
    }

    #[test]
    fn a_fault_and_what_broke_are_marked_in_front_and_in_the_column_of_the_machine() {
        let lines = vec![line(1_250_000, 1, Kind::Fault, "the daemon STANDS STILL")];
        let story = of(3, lines, Some("a rule is broken"), LAYOUT);
        assert!(story.contains("\n     1.250 X    X     the daemon STANDS STILL\n"), "{story}");
        assert!(story.contains("     0.000 !        ! S9 a rule: a rule is broken\n"), "{story}");
    }

    #[test]
    fn a_daemon_that_stands_still_is_seen_in_its_column_until_it_goes_on() {
        let lines = vec![
            line(1_000_000, 1, Kind::Fault, "the daemon STANDS STILL"),
            line(2_000_000, 0, Kind::Says, "one"),
            line(3_000_000, 1, Kind::Mended, "the daemon goes on"),
            line(4_000_000, 0, Kind::Says, "two"),
        ];
        let story = of(2, lines, None, LAYOUT);
        assert!(story.contains("     2.000    \" x   one\n"), "{story}");
        assert!(story.contains("     4.000    \"     two\n"), "{story}");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_from_one_machine_to_two_hundred() {
        for (nodes, width) in
            [(1, 80), (5, 80), (26, 80), (27, 80), (40, 120), (66, 200), (200, 200)]
        {
            let lines = vec![line(1, nodes - 1, Kind::Says, &"word ".repeat(100))];
            let story = of(nodes, lines, None, Layout { width, ..LAYOUT });
            let longest = story.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{nodes} machines, {width} characters:\n{story}");
            assert!(story.contains("word word"), "{nodes} machines, {width} characters:\n{story}");
        }
    }
}
