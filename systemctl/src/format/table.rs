//! Columns, headings, colours.

use std::io::IsTerminal as _;

/// Is the output a terminal that wants colours?
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns of the terminal; none where the output is none.
pub(crate) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let from_environment = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let from_terminal = || {
        rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col))
    };
    // A serial line says 0: it does not know.
    Some(
        from_environment
            .or_else(from_terminal)
            .filter(|columns| *columns > 0)
            .unwrap_or(80),
    )
}

/// Colours of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// As it is.
    Plain,
    /// Good.
    Green,
    /// Bad.
    Red,
    /// To be looked at.
    Yellow,
}

/// Put a text in colour, on terminals.
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Plain => return text.to_owned(),
        _ if !colours() => return text.to_owned(),
        Colour::Green => "32",
        Colour::Red => "31",
        Colour::Yellow => "33",
    };
    format!("\x1b[1;{code}m{text}\x1b[0m")
}

/// Cut a line to a width, with `…` at the end.
pub(crate) fn ellipsize(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut out: String = line.chars().take(width.saturating_sub(1)).collect();
    out.push('\u{2026}');
    out
}

/// A table of left-aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self {
            heading: heading.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines; the heading only where there are rows. `marks` gives what stands before each row.
    pub(crate) fn lines(
        &self,
        with_heading: bool,
        marks: Option<&[String]>,
        full: bool,
    ) -> Vec<String> {
        let mut widths: Vec<usize> = vec![0; self.heading.len()];
        let heading: Vec<String> = self.heading.iter().map(|text| (*text).to_owned()).collect();
        let all = with_heading
            .then_some(&heading)
            .into_iter()
            .chain(&self.rows);
        for row in all {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let limit = if full { None } else { width() };
        let line = |row: &Vec<String>, mark: &str| {
            let mut out = mark.to_owned();
            for (index, cell) in row.iter().enumerate() {
                let last = index + 1 == row.len();
                out.push_str(cell);
                if !last {
                    out.push_str(
                        &" ".repeat(widths[index].saturating_sub(cell.chars().count()) + 1),
                    );
                }
            }
            match limit {
                // A mark in colour has characters that take no room: such lines are left as they are.
                Some(limit) if !out.contains('\x1b') => ellipsize(&out, limit),
                _ => out,
            }
        };
        let mut lines = Vec::new();
        if with_heading && !self.rows.is_empty() {
            lines.push(line(&heading, if marks.is_some() { "  " } else { "" }));
        }
        for (index, row) in self.rows.iter().enumerate() {
            lines.push(line(
                row,
                marks
                    .and_then(|marks| marks.get(index))
                    .map_or("", String::as_str),
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut table = Table::new(&["UNIT", "LOAD"]);
        table.push(vec!["a.service".into(), "loaded".into()]);
        table.push(vec!["b".into(), "x".into()]);
        assert_eq!(
            table.lines(true, None, true),
            ["UNIT      LOAD", "a.service loaded", "b         x"]
        );
        assert_eq!(
            table.lines(false, None, true),
            ["a.service loaded", "b         x"]
        );
        assert_eq!(ellipsize("abcdef", 4), "abc\u{2026}");
    }
}
