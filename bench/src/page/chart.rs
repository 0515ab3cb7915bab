//! Lines over two axes, as SVG.

use std::fmt::Write as _;

use super::escaped;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 44.0;
/// Told apart also by those who do not see all colours, and in grey.
const COLOURS: [&str; 5] = ["#0b6bcb", "#d1690e", "#2c8a4b", "#8250df", "#57606a"];
const DASHES: [&str; 5] = ["", "7 4", "2 3", "10 3 2 3", "1 5"];

/// How numbers lie on an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axis {
    /// Evenly, from 0.
    #[default]
    Linear,
    /// By their logarithm; what is not positive is left out.
    Logarithmic,
    /// Per cent, each nine as wide as the one before: 50, 90, 99, 99.9.
    Percentiles,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Its points, in ascending order of x.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// The heading.
    pub title: String,
    /// What lies on the horizontal axis, with its unit.
    pub x_name: String,
    /// What lies on the vertical axis, with its unit.
    pub y_name: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
}

/// An axis with its ends.
#[derive(Clone, Copy, Debug)]
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Axis {
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Axis::Linear => value,
            Axis::Logarithmic => value.log10(),
            Axis::Percentiles => -(1.0 - value / 100.0).log10(),
        };
        place.is_finite().then_some(place)
    }
}

impl Scale {
    /// Wide enough for all values.
    fn of(axis: Axis, values: impl Iterator<Item = f64>) -> Option<Scale> {
        let places = values.filter_map(|value| axis.place(value));
        let ends = places.fold(None, |ends: Option<(f64, f64)>, place| {
            let (low, high) = ends.unwrap_or((place, place));
            Some((low.min(place), high.max(place)))
        });
        let (low, high) = ends?;
        let (low, high) = match axis {
            Axis::Linear => (low.min(0.0), high),
            Axis::Logarithmic => (low.floor(), high.ceil()),
            Axis::Percentiles => (low, high),
        };
        let high = if high - low < 1e-9 { low + 1.0 } else { high };
        Some(Scale { axis, low, high })
    }

    /// From 0 to 1.
    fn part(self, value: f64) -> Option<f64> {
        Some((self.axis.place(value)? - self.low) / (self.high - self.low))
    }

    fn ticks(self) -> Vec<f64> {
        match self.axis {
            Axis::Linear => {
                let step = round_step((self.high - self.low) / 5.0);
                let mut ticks = Vec::new();
                let mut tick = (self.low / step).ceil() * step;
                while tick <= self.high + step * 1e-6 && ticks.len() < 20 {
                    ticks.push(tick);
                    tick += step;
                }
                ticks
            }
            Axis::Logarithmic => {
                let mut ticks = Vec::new();
                let mut power = self.low;
                while power <= self.high + 1e-6 && ticks.len() < 20 {
                    ticks.push(10f64.powf(power));
                    power += 1.0;
                }
                ticks
            }
            Axis::Percentiles => {
                let usual = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
                let within = |tick: &f64| {
                    self.part(*tick)
                        .is_some_and(|part| (-1e-6..=1.000_001).contains(&part))
                };
                usual.into_iter().filter(within).collect()
            }
        }
    }
}

/// The next of 1, 2, 5, 10, … that is not smaller.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digits = [1.0, 2.0, 5.0, 10.0];
    let digit = digits
        .into_iter()
        .find(|digit| digit * power >= step * 0.999);
    digit.unwrap_or(10.0) * power
}

impl Chart {
    /// The chart as an SVG element.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let x = Scale::of(self.x, points().map(|point| point.0));
        let y = Scale::of(self.y, points().map(|point| point.1));
        let (Some(x), Some(y)) = (x, y) else {
            return "<p>nothing was measured</p>".to_owned();
        };
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        grid(&mut svg, x, y);
        for (place, series) in self.series.iter().enumerate() {
            line(&mut svg, place, series, x, y);
        }
        let _ = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"14\">{}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n</svg>",
            escaped(&self.y_name),
            WIDTH - RIGHT,
            HEIGHT - 6.0,
            escaped(&self.x_name)
        );
        svg
    }
}

fn across(part: f64) -> f64 {
    LEFT + part * (WIDTH - LEFT - RIGHT)
}

fn up(part: f64) -> f64 {
    HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
}

fn grid(svg: &mut String, x: Scale, y: Scale) {
    let (left, right, bottom, top) = (across(0.0), across(1.0), up(0.0), up(1.0));
    for tick in y.ticks() {
        let Some(at) = y.part(tick).map(up) else {
            continue;
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e6e9ed\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            short(tick)
        );
    }
    for tick in x.ticks() {
        let Some(at) = x.part(tick).map(across) else {
            continue;
        };
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom:.1}\" y2=\"{top:.1}\" stroke=\"#f1f3f5\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            short(tick)
        );
    }
}

fn line(svg: &mut String, place: usize, series: &Series, x: Scale, y: Scale) {
    let (colour, dash) = (COLOURS[place % COLOURS.len()], DASHES[place % DASHES.len()]);
    let at = |point: &(f64, f64)| Some((across(x.part(point.0)?), up(y.part(point.1)?)));
    let points: Vec<(f64, f64)> = series.points.iter().filter_map(at).collect();
    let path: String = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1} "))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>",
        path.trim_end()
    );
    if let [(x, y)] = points[..] {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
    let legend = LEFT + 150.0 + 170.0 * place as f64;
    let _ = writeln!(
        svg,
        "<line x1=\"{legend}\" x2=\"{}\" y1=\"10\" y2=\"10\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
         <text x=\"{}\" y=\"14\">{}</text>",
        legend + 24.0,
        legend + 30.0,
        escaped(&series.name)
    );
}

/// A number as short as it can be read: 250k, 1.5M, 99.9.
fn short(number: f64) -> String {
    let (number, unit) = match number.abs() {
        large if large >= 1e6 => (number / 1e6, "M"),
        large if large >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = format!("{number:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.5, 99.99, 12_500.0, 3e6].map(short),
            ["0", "0.5", "99.99", "12.5k", "3M"]
        );
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let linear = Scale::of(Axis::Linear, [0.0, 437.0].into_iter()).unwrap();
        assert_eq!(linear.ticks(), [0.0, 100.0, 200.0, 300.0, 400.0]);
        let nines = Scale::of(Axis::Percentiles, [50.0, 99.99].into_iter()).unwrap();
        assert_eq!(nines.ticks(), [50.0, 90.0, 99.0, 99.9, 99.99]);
        let powers = Scale::of(Axis::Logarithmic, [30.0, 4_000.0].into_iter()).unwrap();
        assert_eq!(powers.ticks().len(), 4);
        assert!(Scale::of(Axis::Logarithmic, [0.0, -1.0].into_iter()).is_none());
    }

    #[test]
    fn each_nine_is_as_wide_as_the_one_before() {
        let scale = Scale::of(Axis::Percentiles, [90.0, 99.9].into_iter()).unwrap();
        assert!((scale.part(99.0).unwrap() - 0.5).abs() < 1e-6);
    }
}
