//! Columns as docker prints them: at least three blanks between.

/// A table with heads.
pub fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let line = |cells: &mut dyn Iterator<Item = &str>, out: &mut String| {
        let last = widths.len().saturating_sub(1);
        for (index, cell) in cells.enumerate() {
            out.push_str(cell);
            if index < last {
                out.extend(std::iter::repeat_n(
                    ' ',
                    widths[index] - cell.chars().count() + 3,
                ));
            }
        }
        out.push('\n');
    };
    line(&mut heads.iter().copied(), &mut out);
    for row in rows {
        line(&mut row.iter().map(String::as_str), &mut out);
    }
    out
}

/// `1.23MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    // Three significant digits, as docker's units library.
    let text = if unit == 0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let text = render(&["A", "BB"], &[vec!["long".into(), "x".into()]]);
        assert_eq!(text, "A      BB\nlong   x\n");
    }

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1234, "1.23kB"),
            (12_345_678, "12.3MB"),
            (1_500_000_000, "1.5GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }
}
