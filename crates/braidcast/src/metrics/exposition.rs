//! The two forms in which monitoring reads numbers: Prometheus's text format (version 0.0.4) and OpenMetrics (1.0.0). Writes text, knows no
//! series.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus's text format.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

/// What a request says who takes OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";

impl Form {
    /// What somebody gets who sends this `Accept` field (RFC 9110 section 12.5.1): OpenMetrics if it is named, unless plain text is named as better.
    pub fn accepted(accept: Option<&str>) -> Self {
        let best = |wanted: &str| {
            let ranges = accept.unwrap_or_default().split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_wanted = parts.next().is_some_and(|media_type| media_type.eq_ignore_ascii_case(wanted));
                let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
                is_wanted.then(|| quality.map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0)))
            });
            ranges.fold(0.0, f32::max)
        };
        let open_metrics = best(OPEN_METRICS);
        if open_metrics > 0.0 && open_metrics >= best("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// Value of the `Content-Type` field.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only rise; the name ends in `_total`.
    Counter,
    /// The same, but without its ending the name is that of a gauge, which OpenMetrics does not allow: there it is said to be of unknown kind.
    CounterBesideGauge,
    /// They rise and fall.
    Gauge,
    /// How often a quantity was how large.
    Histogram,
}

impl Kind {
    /// In words, as the text format has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter | Self::CounterBesideGauge => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Series of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name.
    pub name: Cow<'static, str>,
    /// What the numbers are.
    pub kind: Kind,
    /// What tells the series apart.
    pub labels: &'static [&'static str],
    /// What they say.
    pub help: Cow<'static, str>,
}

/// The text that is being written.
#[derive(Debug)]
pub struct Exposition {
    form: Form,
    text: String,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(form: Form) -> Self {
        Self { form, text: String::new() }
    }

    /// Begins a family. One without series leaves no trace; each must be begun once only.
    pub fn family<'a>(&'a mut self, family: &'a Family) -> Series<'a> {
        Series { exposition: self, family, begun: false }
    }

    /// The whole.
    pub fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("writing to a string does not fail");
    }
}

/// A family that is being written.
#[derive(Debug)]
pub struct Series<'a> {
    exposition: &'a mut Exposition,
    family: &'a Family,
    begun: bool,
}

impl Series<'_> {
    /// Writes one series; `labels` are values in the order of [`Family::labels`].
    pub fn add(&mut self, labels: &[&str], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// Writes one histogram: `counts` of what was at most each of `bounds` and more than the one before; one more for what was more than all.
    pub fn add_histogram(&mut self, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut all = 0;
        for (index, count) in counts.iter().enumerate() {
            all += count;
            let bound = bounds.get(index).map_or("+Inf".to_owned(), |bound| format!("{bound:?}"));
            self.sample("_bucket", labels, Some(&bound), all);
        }
        self.sample("_sum", labels, None, sum);
        self.sample("_count", labels, None, all);
    }

    fn sample(&mut self, suffix: &str, labels: &[&str], bound: Option<&str>, value: impl Display) {
        let family = self.family;
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        if !std::mem::replace(&mut self.begun, true) {
            self.begin();
        }
        self.exposition.put(format_args!("{}{suffix}", family.name));
        let bound = bound.map(|bound| ("le", bound));
        for (index, (name, value)) in family.labels.iter().copied().zip(labels.iter().copied()).chain(bound).enumerate() {
            self.exposition.put(format_args!("{}{name}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(value, true)));
        }
        let end = if family.labels.is_empty() && bound.is_none() { "" } else { "}" };
        self.exposition.put(format_args!("{end} {value}\n"));
    }

    fn begin(&mut self) {
        let Family { name, kind, help, .. } = self.family;
        let open_metrics = self.exposition.form == Form::OpenMetrics;
        let (name, kind) = match (open_metrics, kind) {
            (true, Kind::Counter) => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            (true, Kind::CounterBesideGauge) => (&**name, "unknown"),
            (_, kind) => (&**name, kind.label()),
        };
        // The text format leaves quotes in help as they are.
        self.exposition.put(format_args!("# HELP {name} {}\n# TYPE {name} {kind}\n", escaped(help, open_metrics)));
    }
}

fn escaped(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains(['\\', '\n', '"']) {
        return text.into();
    }
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Family {
        Family { name: name.into(), kind, labels, help: "It \"says\" \\ that.".into() }
    }

    fn written(form: Form) -> String {
        let mut out = Exposition::new(form);
        let told = family("x_total", Kind::Counter, &["a", "b"]);
        let mut series = out.family(&told);
        series.add(&["1", "a\"\\\nb"], 2_u64);
        series.add(&["2", ""], 0.5);
        out.finish()
    }

    #[test]
    fn both_forms_are_as_they_are_specified() {
        let samples = "x_total{a=\"1\",b=\"a\\\"\\\\\\nb\"} 2\nx_total{a=\"2\",b=\"\"} 0.5\n";
        assert_eq!(written(Form::Text), format!("# HELP x_total It \"says\" \\\\ that.\n# TYPE x_total counter\n{samples}"));
        assert_eq!(written(Form::OpenMetrics), format!("# HELP x It \\\"says\\\" \\\\ that.\n# TYPE x counter\n{samples}# EOF\n"));
    }

    #[test]
    fn histograms_add_up() {
        let pauses = family("p_seconds", Kind::Histogram, &["why"]);
        let mut out = Exposition::new(Form::Text);
        out.family(&pauses).add_histogram(&["died"], &[0.001, 1.0], &[3, 0, 2], 7.5);
        let expected = "p_seconds_bucket{why=\"died\",le=\"0.001\"} 3\np_seconds_bucket{why=\"died\",le=\"1.0\"} 3\n\
                        p_seconds_bucket{why=\"died\",le=\"+Inf\"} 5\np_seconds_sum{why=\"died\"} 7.5\np_seconds_count{why=\"died\"} 5\n";
        assert!(out.finish().ends_with(expected));
    }

    #[test]
    fn a_counter_beside_a_gauge_of_the_same_name_is_unknown_to_open_metrics() {
        for (form, kind) in [(Form::Text, "counter"), (Form::OpenMetrics, "unknown")] {
            let clients = family("c_total", Kind::CounterBesideGauge, &[]);
            let mut out = Exposition::new(form);
            out.family(&clients).add(&[], 1);
            assert!(out.finish().contains(&format!("# TYPE c_total {kind}\nc_total 1\n")));
        }
    }

    #[test]
    fn who_takes_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(Some(prometheus)), Form::OpenMetrics);
        assert_eq!(Form::accepted(Some("text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.3")), Form::Text);
        for accept in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/html"),
            Some("application/openmetrics-text;q=0"),
            Some("application/openmetrics-text;q=x"),
        ] {
            assert_eq!(Form::accepted(accept), Form::Text, "{accept:?}");
        }
    }
}
