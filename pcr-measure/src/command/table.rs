//! A table of text columns.

/// Lays `rows` out under `head`; every column but the last is padded to its
/// widest cell, those in `right` to the left.
pub fn table<const N: usize>(head: [&str; N], right: &[usize], rows: &[[String; N]]) -> String {
    let head: [String; N] = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let mut widths = [0; N];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in all() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let cell = if right.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
            line.push_str(&cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["1".to_owned(), "a…".to_owned()], ["10".to_owned(), String::new()]];
        assert_eq!(super::table(["#", "name"], &[0], &rows), " #  name\n 1  a…\n10\n");
    }
}
