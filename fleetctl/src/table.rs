//! Tables whose columns are aligned by tabs to stops of 8, as the original prints them. Characters
//! that would move the cursor are shown as escapes: cells hold what others have written.

/// Lays rows out. The last cell of a row is not padded.
pub(crate) fn layout(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let widest = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.chars().count())
            .max();
        // At least one blank column between cells, then up to the next stop.
        (widest.unwrap_or(0) + 1).div_ceil(8) * 8
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                let missing = widths[i] - cell.chars().count();
                out.extend(std::iter::repeat_n('\t', missing.div_ceil(8)));
            }
        }
        out.push('\n');
    }
    out
}

fn printable(cell: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    cell.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::layout;

    #[test]
    fn what_others_have_written_cannot_move_the_cursor() {
        let rows = [vec!["a\u{1b}[2J\tb".to_owned(), "c\nd".to_owned()]];
        assert_eq!(layout(&rows), "a\\u{1b}[2J\\tb\tc\\nd\n");
    }

    #[test]
    fn cells_are_padded_to_the_next_stop() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let rows = [
            row(&["UNIT", "MACHINE", "ACTIVE", "SUB"]),
            row(&["a.service", "12345678.../10.0.2.11", "active", "running"]),
            row(&["1234567.service", "-", "inactive", "dead"]),
        ];
        assert_eq!(
            layout(&rows),
            "UNIT\t\tMACHINE\t\t\tACTIVE\t\tSUB\n\
             a.service\t12345678.../10.0.2.11\tactive\t\trunning\n\
             1234567.service\t-\t\t\tinactive\tdead\n"
        );
        assert_eq!(layout(&[]), "");
    }
}
