//! The result as a picture: for each row the delay that was injected, and how far off the agent's was, on one axis.

use std::fmt::Write as _;

use super::judge::Line;

const WIDTH: f64 = 960.0;
const ROW: f64 = 19.0;
const TOP: f64 = 64.0;
/// Where names end, and where counts begin.
const AXIS: (f64, f64) = (350.0, 850.0);
/// The axis, microseconds.
const FROM_US: f64 = 1.0;
const TO_US: f64 = 10_000_000.0;
const TICKS: [(f64, &str); 8] = [
    (1.0, "1 us"),
    (10.0, "10 us"),
    (100.0, "100 us"),
    (1_000.0, "1 ms"),
    (10_000.0, "10 ms"),
    (100_000.0, "100 ms"),
    (1_000_000.0, "1 s"),
    (10_000_000.0, "10 s"),
];

/// An SVG of its own, on white.
pub(super) fn svg(rows: &[Line], title: &str) -> String {
    let height = rows.iter().fold(TOP + 30.0, |height, _| height + ROW);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n\
         <text x=\"12\" y=\"38\" fill=\"#555555\">grey: the injected delay, median; blue: the error of the agent's, \
         median to 99th percentile; line: the tolerance, max(1 %, 100 us)</text>\n",
        escaped(title)
    );
    for (us, label) in TICKS {
        let x = place(us);
        let _written = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP} V{:.1}\" stroke=\"#e4e4e4\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" \
             fill=\"#777777\" font-size=\"10\">{label}</text>",
            height - 26.0,
            height - 12.0
        );
    }
    let mut y = TOP;
    for row in rows {
        y += ROW;
        draw(&mut out, row, y - ROW / 2.0);
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, row: &Line, y: f64) {
    let colour = if row.passed { "#1a7f37" } else { "#cf222e" };
    let text = y + 4.0;
    let (from, to) = AXIS;
    let _written = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{:.1}\" y=\"{text:.1}\" fill=\"{colour}\">{}/{}</text>",
        from - 12.0,
        escaped(&row.name),
        to + 14.0,
        row.named_right,
        row.disturbed
    );
    let delay = place(micros(row.delay_p50_us));
    let _written = writeln!(out, "<circle cx=\"{delay:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#8c959f\"/>");
    if !row.has_error {
        let _written = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{text:.1}\" fill=\"#777777\" font-size=\"10\">not observable, and laid to nobody</text>",
            from + 6.0
        );
        return;
    }
    let tolerance = place((micros(row.delay_p50_us) / 100.0).max(100.0));
    let (median, most) = (place(micros(row.error_p50_us)), place(micros(row.error_p99_us)));
    let _written = writeln!(
        out,
        "<path d=\"M{tolerance:.1} {:.1} v12\" stroke=\"#9a6700\" stroke-width=\"2\"/>\
         <path d=\"M{median:.1} {y:.1} H{most:.1}\" stroke=\"#0969da\" stroke-width=\"3\"/>\
         <circle cx=\"{median:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"#0969da\"/>",
        y - 6.0
    );
}

/// Where on the axis.
fn place(us: f64) -> f64 {
    let (from, to) = AXIS;
    let share = (us.clamp(FROM_US, TO_US) / FROM_US).log10() / (TO_US / FROM_US).log10();
    from + share * (to - from)
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn micros(us: u64) -> f64 {
    us as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_picture_and_times_keep_their_order() {
        let row = Line { name: "a < b & c".to_owned(), has_error: true, error_p99_us: 5, ..Line::default() };
        let picture = svg(&[row], "title");
        assert!(picture.contains("a &lt; b &amp; c") && picture.ends_with("</svg>\n"), "{picture}");
        let places: Vec<f64> = TICKS.iter().map(|(us, _)| place(*us)).collect();
        assert!(places.is_sorted() && places.first() == Some(&AXIS.0) && places.last() == Some(&AXIS.1));
        assert_eq!((place(0.0), place(1e12)), AXIS);
    }
}
