//! What a figure comes to: words, a table, and the bounds that were set beforehand.

use std::fmt::Write as _;

/// One figure as it is printed and written into the page.
#[derive(Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What was measured and how.
    pub text: String,
    /// The measurements.
    pub table: Table,
    /// What must hold.
    pub bounds: Vec<Bound>,
}

/// Something that a measurement must not exceed.
#[derive(Debug)]
pub struct Bound {
    /// What is bounded.
    pub what: String,
    /// What was measured.
    pub seen: f64,
    /// What it may be at most.
    pub limit: f64,
    /// The unit of both.
    pub unit: &'static str,
}

impl Bound {
    /// Whether it was kept. A measurement that is missing keeps nothing.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.seen <= self.limit
    }
}

/// Rows of cells under a heading; the first column is words, the others are figures.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(ToString::to_string).collect()] }
    }

    /// One more row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// As Markdown that is readable on a terminal too.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let _ = if column == 0 {
                    write!(out, "| {cell:<width$} ")
                } else {
                    write!(out, "| {cell:>width$} ")
                };
            }
            out += "|\n";
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    out += "|";
                    out += &"-".repeat(width + 1);
                    out += if column == 0 { "-" } else { ":" };
                }
                out += "|\n";
            }
        }
        out
    }
}

impl Section {
    /// The bounds as a table.
    #[must_use]
    pub fn bounds(&self) -> String {
        if self.bounds.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["bound", "measured", "at most", ""]);
        for bound in &self.bounds {
            let verdict = if bound.holds() { "held" } else { "MISSED" };
            let unit = bound.unit;
            table.row([
                bound.what.clone(),
                format!("{:.3} {unit}", bound.seen),
                format!("{:.3} {unit}", bound.limit),
                verdict.to_owned(),
            ]);
        }
        table.render()
    }

    /// As Markdown.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = format!("## {}\n\n{}\n\n{}", self.title, self.text, self.table.render());
        if !self.bounds.is_empty() {
            let _ = write!(out, "\n{}", self.bounds());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_without_a_measurement_does_not_hold() {
        let bound = |seen| Bound { what: String::new(), seen, limit: 1.0, unit: "s" };
        assert!(bound(1.0).holds());
        assert!(!bound(1.1).holds());
        assert!(!bound(f64::NAN).holds());
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["", "s"]);
        table.row(["ployz".to_owned(), "0.25 (0.2–0.3)".to_owned()]);
        let expected =
            "|       |              s |\n|-------|---------------:|\n| ployz | 0.25 (0.2–0.3) |\n";
        assert_eq!(table.render(), expected);
    }
}
