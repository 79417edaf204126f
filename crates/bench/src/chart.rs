//! Charts: drawn as SVG here, and as PNG from that SVG. No font of the system is asked for.

mod bars;
mod lines;
mod svg;

use anyhow::Context;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

pub(crate) use bars::{Bars, Group};
pub(crate) use lines::{Line, Lines};

/// Pixels of the PNG for one unit of the SVG.
const PIXELS: f32 = 2.0;

/// The SVG as PNG, twice as many pixels wide and high as it has units.
///
/// # Errors
/// The text is no SVG.
pub(crate) fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let mut options = Options { font_family: svg::FONT.to_owned(), ..Options::default() };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.set_sans_serif_family(svg::FONT);
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size();
    let pixels = |units: f32| (units * PIXELS).ceil() as u32;
    let mut map =
        Pixmap::new(pixels(size.width()), pixels(size.height())).context("the chart has no size")?;
    resvg::render(&tree, Transform::from_scale(PIXELS, PIXELS), &mut map.as_mut());
    Ok(map.encode_png()?)
}

/// Of the specifications that are written.
pub(crate) fn vega_schema() -> &'static str {
    "https://vega.github.io/schema/vega-lite/v6.json"
}

/// Colours that the colour-blind can tell apart (Okabe and Ito, Color Universal Design, 2008).
/// A server has the same one in every chart; ours are blue, peers are not.
pub(crate) fn color(name: &str) -> &'static str {
    match name {
        "noop" | "disk" => "#8a8f98",
        "durable" => "#0072b2",
        "memory" => "#56b4e9",
        "sync" => "#e69f00",
        "nginx" | "psql" => "#009e73",
        "nginx-lua" => "#7a6a00",
        "webdis" => "#cc79a7",
        "redis" => "#d55e00",
        _ => "#000000",
    }
}

/// Round numbers from 0 to at least `most`, about five of them.
fn ticks(most: f64) -> Vec<f64> {
    if !(most.is_finite() && most > 0.0) {
        return vec![0.0, 1.0];
    }
    let rough = most / 5.0;
    let size = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|by| by * size).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * size);
    let count = (most / step).ceil() as u32;
    (0..=count).map(|at| f64::from(at) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        assert_eq!(ticks(93_000.0), [0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]);
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0].map(|tick: f64| (tick / 0.2).round() * 0.2));
        assert_eq!(ticks(0.0), [0.0, 1.0]);
        assert_eq!(ticks(f64::NAN), [0.0, 1.0]);
    }
}
