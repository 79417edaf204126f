//! A drawing that grows piece by piece.

use std::fmt::Write as _;

/// The font of the PNG, and of the SVG where the reader has it.
pub(super) const FONT: &str = "Ubuntu Light";

pub(super) const INK: &str = "#1b1f24";
pub(super) const FAINT: &str = "#57606a";
const GRID: &str = "#d8dee4";

/// Which end of a text lies at its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is set: its size, its colour and which end is fixed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style<'a> {
    pub(super) size: f64,
    pub(super) color: &'a str,
    pub(super) anchor: Anchor,
}

#[derive(Debug)]
pub(super) struct Drawing {
    text: String,
}

impl Drawing {
    /// White all over; `title` is also what a screen reader says.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let title = escaped(title);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\" \
             font-family=\"'{FONT}', Ubuntu, 'Helvetica Neue', Arial, sans-serif\">\n<title>{title}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        Self { text }
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1.5\" fill=\"{color}\"/>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        let _ = writeln!(
            self.text,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{color}\" stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn grid(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.line(from, to, GRID, 1.0);
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], color: &str) {
        let mut way = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(way, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { " L" });
        }
        let _ = writeln!(
            self.text,
            "<path d=\"{way}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2.5\" stroke-linejoin=\"round\"/>"
        );
    }

    /// The `shape`th of four, so that lines differ by more than their colour.
    pub(super) fn marker(&mut self, (x, y): (f64, f64), shape: usize, color: &str) {
        let corners: &[(f64, f64)] = match shape % 4 {
            0 => {
                let _ = writeln!(
                    self.text,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{color}\" stroke=\"#ffffff\"/>"
                );
                return;
            }
            1 => &[(-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)],
            2 => &[(0.0, -5.5), (5.0, 4.0), (-5.0, 4.0)],
            _ => &[(0.0, -5.8), (5.8, 0.0), (0.0, 5.8), (-5.8, 0.0)],
        };
        let corners: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
        let _ = writeln!(
            self.text,
            "<polygon points=\"{}\" fill=\"{color}\" stroke=\"#ffffff\"/>",
            corners.join(" ")
        );
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), text: &str, style: Style<'_>) {
        let anchor = match style.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\" \
             stroke=\"#ffffff\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\">{}</text>",
            style.size,
            style.color,
            escaped(text)
        );
    }

    /// Title and subtitle, in the upper left; see [`heading_height`].
    pub(super) fn heading(&mut self, width: f64, title: &str, subtitle: &str) {
        let style = |size, color| Style { size, color, anchor: Anchor::Start };
        self.text((24.0, 38.0), title, style(22.0, INK));
        for (at, line) in subtitle_lines(width, subtitle).iter().enumerate() {
            self.text((24.0, 62.0 + 20.0 * at as f64), line, style(14.0, FAINT));
        }
    }

    pub(super) fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// How much of the height a heading takes.
pub(super) fn heading_height(width: f64, subtitle: &str) -> f64 {
    62.0 + 20.0 * subtitle_lines(width, subtitle).len() as f64
}

fn subtitle_lines(width: f64, subtitle: &str) -> Vec<String> {
    lines(subtitle, ((width - 48.0) / 6.9) as usize)
}

/// How wide a text is, about: enough to leave room for it.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.56
}

/// Broken between words, `most` letters a line.
fn lines(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_broken_between_words() {
        assert_eq!(escaped("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
        assert_eq!(lines("one two three", 7), ["one two", "three"]);
        assert_eq!(lines("toolongaword x", 3), ["toolongaword", "x"]);
    }
}
