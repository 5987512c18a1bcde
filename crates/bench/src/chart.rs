//! A chart of latency against CPU: each server a line through its paces, both axes logarithmic. Lower and further left is better.

use crate::drawing::{Anchor, Colour, Drawing};
use crate::report::{Row, name};
use crate::viewer::Protocol;

/// A line of the chart: one server by one protocol over one network.
struct Series<'a> {
    name: String,
    rows: Vec<&'a Row>,
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 560;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 240.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
const BLACK: Colour = [40, 40, 40];
const GREY: Colour = [225, 225, 225];
/// Told apart by people who do not see all colours, too.
const COLOURS: [Colour; 7] = [[0, 0, 0], [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

/// One logarithmic axis.
struct Axis {
    least: f64,
    greatest: f64,
}

impl Axis {
    /// From a round figure below all to one above all.
    fn over(figures: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let least = figures.clone().fold(f64::INFINITY, f64::min);
        let greatest = figures.fold(0.0, f64::max);
        (least > 0.0 && greatest.is_finite() && greatest > 0.0).then(|| Self { least: least / 1.3, greatest: greatest * 1.3 })
    }

    /// Where a figure is, from 0 to 1.
    fn share(&self, figure: f64) -> f64 {
        (figure.ln() - self.least.ln()) / (self.greatest.ln() - self.least.ln())
    }

    /// 1, 2 and 5 of every decade.
    fn ticks(&self) -> Vec<f64> {
        let decades = self.least.log10().floor() as i32..=self.greatest.log10().ceil() as i32;
        let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
        all.filter(|tick| (self.least..=self.greatest).contains(tick)).collect()
    }
}

/// The chart of the rows that have both figures; `None` if there are none.
pub fn latency_against_cpu(title: &str, rows: &[Row]) -> Option<Drawing> {
    let drawn: Vec<&Row> = rows.iter().filter(|row| figures(row).is_some()).collect();
    let across = Axis::over(drawn.iter().filter_map(|row| figures(row)).map(|(x, _)| x))?;
    let up = Axis::over(drawn.iter().filter_map(|row| figures(row)).map(|(_, y)| y))?;
    let (right, bottom) = (f64::from(WIDTH) - RIGHT, f64::from(HEIGHT) - BOTTOM);
    let place = |(x, y)| (LEFT + across.share(x) * (right - LEFT), bottom - up.share(y) * (bottom - TOP));
    let mut drawing = Drawing::new(WIDTH, HEIGHT);
    for tick in across.ticks() {
        let (x, _) = place((tick, up.least));
        drawing.line(vec![(x, TOP), (x, bottom)], GREY, 1.0);
        drawing.text((x, bottom + 18.0), Anchor::Middle, number(tick), BLACK);
    }
    for tick in up.ticks() {
        let (_, y) = place((across.least, tick));
        drawing.line(vec![(LEFT, y), (right, y)], GREY, 1.0);
        drawing.text((LEFT - 6.0, y + 4.0), Anchor::End, number(tick), BLACK);
    }
    drawing.line(vec![(LEFT, TOP), (LEFT, bottom), (right, bottom)], BLACK, 1.0);
    drawing.text(((LEFT + right) / 2.0, bottom + 42.0), Anchor::Middle, "latency, 99th percentile, ms", BLACK);
    drawing.text((8.0, TOP - 10.0), Anchor::Start, "CPU-s/GB", BLACK);
    drawing.text((f64::from(WIDTH) / 2.0, 18.0), Anchor::Middle, title, BLACK);
    for (index, series) in series(&drawn).iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<(f64, f64)> = series.rows.iter().filter_map(|row| figures(row)).map(place).collect();
        for (row, &(x, y)) in series.rows.iter().zip(&points) {
            drawing.disc((x, y), 4.0, colour);
            if let Some(pace) = row.pace {
                drawing.text((x + 6.0, y - 6.0), Anchor::Start, pace.to_string(), colour);
            }
        }
        drawing.line(points, colour, 1.5);
        let y = TOP + 16.0 + index as f64 * 20.0;
        drawing.disc((right + 20.0, y - 4.0), 4.0, colour);
        drawing.text((right + 32.0, y), Anchor::Start, series.name.as_str(), colour);
    }
    Some(drawing)
}

fn figures(row: &Row) -> Option<(f64, f64)> {
    let (x, y) = (row.latency_p99_ms?.median, row.cpu_s_per_gb?.median);
    (x > 0.0 && y > 0.0).then_some((x, y))
}

/// In the order of their first rows; the points of a line in the order of their latency.
fn series<'a>(rows: &[&'a Row]) -> Vec<Series<'a>> {
    let mut all: Vec<Series<'a>> = Vec::new();
    let networks = rows.iter().any(|row| row.network != rows[0].network);
    for row in rows {
        let mut title = name(row.server, None);
        if row.server != crate::peers::Peer::Bare {
            title.push_str(if row.protocol == Protocol::Flv { " flv" } else { " rtmp" });
        }
        if networks {
            title = format!("{title}, {}", row.network);
        }
        match all.iter_mut().find(|series| series.name == title) {
            Some(series) => series.rows.push(row),
            None => all.push(Series { name: title, rows: vec![row] }),
        }
    }
    let latency = |row: &Row| row.latency_p99_ms.map_or(0.0, |spread| spread.median);
    all.iter_mut().for_each(|series| series.rows.sort_by(|one, other| latency(one).total_cmp(&latency(other))));
    all
}

fn number(figure: f64) -> String {
    if figure < 1.0 { format!("{figure:.2}") } else { format!("{figure:.0}") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::load::LoadReport;
    use crate::pace::Pace;
    use crate::peers::Peer;
    use crate::report::{Run, rows};

    fn run(server: Peer, pace: Option<Pace>, cpu: f64, latency: f64) -> Run {
        let report = LoadReport {
            window_s: 10.0,
            delivered_bytes: 1_000_000_000,
            server_cpu_s: Some(cpu),
            latency_p50_ms: Some(latency / 2.0),
            latency_p99_ms: Some(latency),
            ..LoadReport::default()
        };
        Run { network: "loopback".into(), round: 1, server, protocol: Protocol::Flv, pace, report: Some(report), error: None }
    }

    #[test]
    fn each_server_is_a_line_and_each_pace_a_point() {
        let rows = rows(&[
            run(Peer::Bare, Some(Pace::Low), 0.7, 9.0),
            run(Peer::Bare, Some(Pace::Millis(350)), 0.2, 340.0),
            run(Peer::NginxRtmp, None, 0.8, 20.0),
        ]);
        let svg = latency_against_cpu("title", &rows).unwrap().svg();
        assert_eq!(svg.matches("<circle").count(), 3 + 2, "three points and two in the legend");
        assert!(svg.contains(">low<") && svg.contains(">350<") && svg.contains("nginx-rtmp"), "{svg}");
    }

    #[test]
    fn without_figures_there_is_no_chart() {
        assert!(latency_against_cpu("title", &[]).is_none());
        let mut failed = run(Peer::Bare, None, 0.0, 0.0);
        failed.report = None;
        assert!(latency_against_cpu("title", &rows(&[failed])).is_none());
    }

    #[test]
    fn axes_have_round_ticks() {
        let axis = Axis::over([3.0, 400.0].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]);
        assert!(Axis::over(std::iter::empty()).is_none());
    }
}
