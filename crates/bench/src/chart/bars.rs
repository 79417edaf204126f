//! Groups of bars, one for each run.

use super::svg::{Anchor, Drawing, FAINT, INK, Style, heading_height, width_of};
use super::{color, ticks};
use crate::report::compact;

const WIDTH: f64 = 960.0;
const BAR: f64 = 13.0;
const BETWEEN_BARS: f64 = 2.0;
const BETWEEN_GROUPS: f64 = 18.0;

/// Bars from left to right, longest is most.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// What the length is.
    pub(crate) axis: String,
    pub(crate) groups: Vec<Group>,
}

/// The runs of one server.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// Each with its round.
    pub(crate) values: Vec<(u32, f64)>,
    pub(crate) median: f64,
    /// Stands behind the median; may be empty.
    pub(crate) note: String,
}

impl Bars {
    pub(crate) fn svg(&self) -> String {
        let names = self.groups.iter().map(|group| width_of(&group.name, 16.0)).fold(60.0, f64::max);
        let heights = self.groups.iter().map(height).sum::<f64>();
        let between = BETWEEN_GROUPS * (self.groups.len() as f64 - 1.0);
        let top = heading_height(WIDTH, &self.subtitle) + 8.0;
        let bottom = top + heights + between;
        let mut drawing = Drawing::new(WIDTH, bottom + 66.0, &self.title);
        drawing.heading(WIDTH, &self.title, &self.subtitle);
        let (left, right) = (24.0 + names + 14.0, WIDTH - 140.0);
        let values = self.groups.iter().flat_map(|group| group.values.iter().map(|(_, value)| *value));
        let most = values.fold(f64::MIN_POSITIVE, f64::max);
        let x = |value: f64| left + (right - left) * value / most;
        let ticks: Vec<f64> = ticks(most).into_iter().filter(|tick| *tick <= most).collect();
        for tick in &ticks {
            drawing.grid((x(*tick), top - 6.0), (x(*tick), bottom + 6.0));
            let style = Style { size: 13.0, color: FAINT, anchor: Anchor::Middle };
            drawing.text((x(*tick), bottom + 24.0), &compact(*tick), style);
        }
        let style = Style { size: 14.0, color: FAINT, anchor: Anchor::Middle };
        drawing.text((f64::midpoint(left, right), bottom + 48.0), &self.axis, style);
        let mut y = top;
        for group in &self.groups {
            draw(&mut drawing, group, y, left, &x);
            y += height(group) + BETWEEN_GROUPS;
        }
        drawing.end()
    }
}

fn draw(drawing: &mut Drawing, group: &Group, top: f64, left: f64, x: &impl Fn(f64) -> f64) {
    let middle = top + height(group) / 2.0;
    let name = Style { size: 16.0, color: INK, anchor: Anchor::End };
    drawing.text((left - 12.0, middle + 5.0), &group.name, name);
    for (at, (_, value)) in group.values.iter().enumerate() {
        let y = top + at as f64 * (BAR + BETWEEN_BARS);
        drawing.rect(left, y, (x(*value) - left).max(1.0), BAR, color(&group.name));
    }
    let median = x(group.median);
    drawing.line((median, top - 3.0), (median, top + height(group) + 3.0), INK, 2.0);
    let longest = group.values.iter().map(|(_, value)| x(*value)).fold(median, f64::max);
    let number = crate::report::whole(group.median);
    let (first, second) =
        if group.note.is_empty() { (middle + 5.0, 0.0) } else { (middle - 2.0, middle + 15.0) };
    drawing.text((longest + 10.0, first), &number, Style { size: 16.0, color: INK, anchor: Anchor::Start });
    if !group.note.is_empty() {
        let style = Style { size: 13.0, color: FAINT, anchor: Anchor::Start };
        drawing.text((longest + 10.0, second), &group.note, style);
    }
}

/// At least as high as the two lines that stand beside it.
fn height(group: &Group) -> f64 {
    (group.values.len() as f64 * (BAR + BETWEEN_BARS) - BETWEEN_BARS).max(30.0)
}
