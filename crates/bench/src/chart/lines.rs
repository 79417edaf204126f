//! Lines along a logarithmic axis.

use super::svg::{Anchor, Drawing, FAINT, INK, Style, heading_height, width_of};
use super::{color, ticks};
use crate::report::{compact, whole};
use crate::stats::Spread;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
/// Past this, the largest value leaves nothing to be seen of the smallest.
const LOGARITHMIC_FROM: f64 = 40.0;
/// Between the names of two lines.
const NAME_HEIGHT: f64 = 19.0;

/// What grows along `x`.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) x: String,
    pub(crate) y: String,
    /// What a value is multiplied by to be in the unit of `y`.
    pub(crate) scale: f64,
    pub(crate) lines: Vec<Line>,
}

/// One server, or one subject.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// In order of their place.
    pub(crate) points: Vec<(f64, Spread)>,
}

/// From a value to a place in the drawing.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let along = |value: f64| if self.logarithmic { value.max(self.from).log10() } else { value };
        let width = along(self.to) - along(self.from);
        let share = if width > 0.0 { (along(value) - along(self.from)) / width } else { 0.5 };
        self.start + (self.end - self.start) * share
    }
}

impl Lines {
    pub(crate) fn svg(&self) -> String {
        let mut drawing = Drawing::new(WIDTH, HEIGHT, &self.title);
        drawing.heading(WIDTH, &self.title, &self.subtitle);
        let top = heading_height(WIDTH, &self.subtitle) + 22.0;
        let names = self.lines.iter().map(|line| width_of(&line.name, 15.0)).fold(40.0, f64::max);
        let (left, right, bottom) = (92.0, WIDTH - names - 48.0, HEIGHT - 72.0);
        let places = self.places();
        let x = Axis {
            from: places.first().copied().unwrap_or(1.0),
            to: places.last().copied().unwrap_or(10.0),
            start: left,
            end: right,
            logarithmic: true,
        };
        let (y, y_ticks) = self.y_axis(top, bottom);
        for tick in y_ticks {
            drawing.grid((left - 10.0, y.at(tick)), (right + 10.0, y.at(tick)));
            let style = Style { size: 13.0, color: FAINT, anchor: Anchor::End };
            drawing.text((left - 16.0, y.at(tick) + 4.5), &compact(tick), style);
        }
        let unit = Style { size: 14.0, color: FAINT, anchor: Anchor::Start };
        drawing.text((24.0, top - 16.0), &self.y, unit);
        self.places_on(&mut drawing, &places, &x, bottom);
        let style = Style { size: 14.0, color: FAINT, anchor: Anchor::Middle };
        drawing.text((f64::midpoint(left, right), HEIGHT - 20.0), &self.x, style);
        self.draw(&mut drawing, &x, &y, right);
        drawing.end()
    }

    fn places(&self) -> Vec<f64> {
        let mut places: Vec<f64> =
            self.lines.iter().flat_map(|line| line.points.iter().map(|(place, _)| *place)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        places
    }

    fn y_axis(&self, top: f64, bottom: f64) -> (Axis, Vec<f64>) {
        let spreads = self.lines.iter().flat_map(|line| line.points.iter().map(|(_, spread)| *spread));
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for spread in spreads {
            (least, most) = (least.min(spread.min * self.scale), most.max(spread.max * self.scale));
        }
        if least > 0.0 && most / least >= LOGARITHMIC_FROM {
            let (from, to) = (10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil()));
            let decades = (to / from).log10().round() as i32;
            let ticks = (0..=decades).map(|decade| from * 10f64.powi(decade)).collect();
            return (Axis { from, to, start: bottom, end: top, logarithmic: true }, ticks);
        }
        let ticks = ticks(most);
        let to = ticks.last().copied().unwrap_or(1.0);
        (Axis { from: 0.0, to, start: bottom, end: top, logarithmic: false }, ticks)
    }

    /// Under the axis stand the places that were measured, as many as there is room for.
    fn places_on(&self, drawing: &mut Drawing, places: &[f64], x: &Axis, bottom: f64) {
        let mut free_from = f64::NEG_INFINITY;
        for place in places {
            let at = x.at(*place);
            drawing.line((at, bottom), (at, bottom + 6.0), FAINT, 1.0);
            let text = if *place < 1e4 { whole(*place) } else { compact(*place) };
            let half = width_of(&text, 13.0) / 2.0;
            if at - half >= free_from {
                let style = Style { size: 13.0, color: FAINT, anchor: Anchor::Middle };
                drawing.text((at, bottom + 23.0), &text, style);
                free_from = at + half + 8.0;
            }
        }
    }

    fn draw(&self, drawing: &mut Drawing, x: &Axis, y: &Axis, right: f64) {
        for line in &self.lines {
            let color = color(&line.name);
            for (place, spread) in line.points.iter().filter(|(_, spread)| spread.count > 1) {
                let at = x.at(*place);
                let [low, high] = [spread.min, spread.max].map(|value| y.at(value * self.scale));
                drawing.line((at, low), (at, high), color, 1.2);
            }
            let points: Vec<(f64, f64)> = self.points(line, x, y);
            drawing.path(&points, color);
        }
        for (shape, line) in self.lines.iter().enumerate() {
            for point in self.points(line, x, y) {
                drawing.marker(point, shape, color(&line.name));
            }
        }
        let ends: Vec<f64> = self
            .lines
            .iter()
            .map(|line| self.points(line, x, y).last().map_or(y.start, |point| point.1))
            .collect();
        for ((shape, line), at) in self.lines.iter().enumerate().zip(apart(&ends)) {
            drawing.marker((right + 22.0, at), shape, color(&line.name));
            let style = Style { size: 15.0, color: INK, anchor: Anchor::Start };
            drawing.text((right + 32.0, at + 5.0), &line.name, style);
        }
    }

    fn points(&self, line: &Line, x: &Axis, y: &Axis) -> Vec<(f64, f64)> {
        let point = |(place, spread): &(f64, Spread)| (x.at(*place), y.at(spread.median * self.scale));
        line.points.iter().map(point).collect()
    }
}

/// Moves names up from below until none lies on another; the lowest stays where it is.
fn apart(places: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&left, &right| places[right].total_cmp(&places[left]));
    let mut moved = places.to_vec();
    for pair in order.windows(2) {
        moved[pair[1]] = moved[pair[1]].min(moved[pair[0]] - NAME_HEIGHT);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lie_on_one_another() {
        assert_eq!(apart(&[100.0, 98.0, 300.0]), [100.0, 81.0, 300.0]);
        assert_eq!(apart(&[10.0, 12.0, 11.0]), [12.0 - 2.0 * NAME_HEIGHT, 12.0, 12.0 - NAME_HEIGHT]);
    }

    #[test]
    fn an_axis_leads_from_end_to_end() {
        let axis = Axis { from: 1.0, to: 1000.0, start: 0.0, end: 300.0, logarithmic: true };
        assert_eq!([1.0, 10.0, 1000.0].map(|value| axis.at(value).round()), [0.0, 100.0, 300.0]);
        let axis = Axis { from: 0.0, to: 10.0, start: 300.0, end: 0.0, logarithmic: false };
        assert_eq!([0.0, 5.0, 10.0].map(|value| axis.at(value)), [300.0, 150.0, 0.0]);
    }
}
