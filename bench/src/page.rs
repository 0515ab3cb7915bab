//! A report as one page of HTML that needs nothing else: tables, and charts as inline SVG.
//!
//! What goes in is escaped, whoever chose it: names of files and flags end up here.

mod chart;

pub use chart::{Axis, Chart, Series};

use std::fmt::Write as _;

/// A page: a title, what it is about, tables and charts in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The heading.
    pub title: String,
    /// A sentence or two below it.
    pub about: String,
    /// The tables.
    pub tables: Vec<Table>,
    /// The charts.
    pub charts: Vec<Chart>,
}

/// A table with a heading; the first row names the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The heading.
    pub title: String,
    /// The rows, all as long as the first one.
    pub rows: Vec<Vec<String>>,
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}\
td,th{padding:.2rem .9rem .2rem 0;text-align:left;border-bottom:1px solid #dde1e6}td+td,th+th{text-align:right}\
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#57606a}p{max-width:46rem}";

impl Page {
    /// The page as a file.
    #[must_use]
    pub fn to_html(&self) -> String {
        let title = escaped(&self.title);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <h1>{title}</h1>\n<p>{}</p>\n",
            escaped(&self.about)
        );
        for table in &self.tables {
            table.write(&mut html);
        }
        for chart in &self.charts {
            let _ = writeln!(
                html,
                "<h2>{}</h2>\n{}",
                escaped(&chart.title),
                chart.to_svg()
            );
        }
        html.push_str("</html>\n");
        html
    }
}

impl Table {
    /// A table of names and values.
    #[must_use]
    pub fn of_pairs(title: &str, pairs: &[(&str, String)]) -> Table {
        let head = vec![String::new(), String::new()];
        let rows = pairs
            .iter()
            .map(|(name, value)| vec![(*name).to_owned(), value.clone()]);
        Table {
            title: title.to_owned(),
            rows: std::iter::once(head).chain(rows).collect(),
        }
    }

    fn write(&self, html: &mut String) {
        let _ = writeln!(html, "<h2>{}</h2>\n<table>", escaped(&self.title));
        for (place, row) in self.rows.iter().enumerate() {
            if place == 0 && row.iter().all(String::is_empty) {
                continue;
            }
            let cell = if place == 0 { "th" } else { "td" };
            html.push_str("<tr>");
            for text in row {
                let _ = write!(html, "<{cell}>{}</{cell}>", escaped(text));
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</table>\n");
    }
}

/// Text that means itself in HTML, also in attributes.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_is_escaped_and_nothing_is_fetched() {
        let series = Series {
            name: "<b>\"real\"</b>".to_owned(),
            points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 5.0)],
        };
        let chart = Chart {
            title: "<script>alert(1)</script>".to_owned(),
            x_name: "a & b".to_owned(),
            y_name: "'y'".to_owned(),
            x: Axis::Linear,
            y: Axis::Linear,
            series: vec![series],
        };
        let page = Page {
            title: "<title>".to_owned(),
            about: "1 < 2".to_owned(),
            tables: vec![Table::of_pairs("<t>", &[("<name>", "<value>".to_owned())])],
            charts: vec![chart],
        };
        let html = page.to_html();
        for raw in [
            "<script>", "<b>", "<value>", "<name>", "<t>", "a & b", "'y'", "NaN",
        ] {
            assert!(!html.contains(raw), "{raw} in {html}");
        }
        for outside in ["http:", "https:", "src=", "href=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside} in {html}");
        }
        assert!(html.contains("&lt;value&gt;") && html.contains("<svg"));
    }

    #[test]
    fn an_empty_page_and_an_empty_chart_are_pages() {
        assert!(Page::default().to_html().ends_with("</html>\n"));
        let page = Page {
            charts: vec![Chart::default()],
            ..Page::default()
        };
        assert!(page.to_html().contains("nothing was measured"));
    }
}
