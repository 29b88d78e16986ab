//! The report as one page: no scripts, nothing from elsewhere, and readable when it is printed. What people and nodes wrote
//! is text on it and never markup.

use std::fmt::Write as _;

use super::report::{Record, Report, Signed};
use crate::cli::out::{count, instant, span};

/// The figure, in its own units.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 34.0;
/// Labels below the figure.
const TICKS: u64 = 5;

const STYLE: &str = "
:root { color-scheme: light; --ink: #1c2430; --soft: #5a6675; --line: #d5dbe3; --pale: #f4f6f9; --good: #1b6e4a; --bad: #a8201a; --mark: #1f4e8c }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1rem; margin-bottom: 1.5rem }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; font-weight: 650 }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; font-weight: 650 }
h3 { font-size: 1rem; margin: 0 0 .5rem; font-weight: 650 }
p { margin: .4rem 0; max-width: 46rem }
.soft { color: var(--soft) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0; border: 1px solid var(--line); border-radius: 4px }
.facts div { padding: .7rem .9rem; border-left: 1px solid var(--line); margin-left: -1px }
.facts b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .85rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--ink); padding: .3rem .7rem .3rem 0; vertical-align: bottom }
td { border-bottom: 1px solid var(--line); padding: .35rem .7rem .35rem 0; vertical-align: top; overflow-wrap: anywhere }
td.n, th.n { text-align: right }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
.drill { border: 1px solid var(--line); border-radius: 4px; padding: 1rem 1.1rem; margin: 1rem 0; break-inside: avoid }
.drill table + table { margin-top: .8rem }
code, pre { font: .82em/1.45 ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace }
code { overflow-wrap: anywhere }
pre { background: var(--pale); border: 1px solid var(--line); border-radius: 4px; padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere }
svg { width: 100%; height: auto; display: block }
ul, ol { padding-left: 1.2rem; margin: .4rem 0 } li { margin: .25rem 0 }
@media print { body { max-width: none; padding: 0; font-size: 11px } h2 { break-after: avoid } tr { break-inside: avoid } @page { margin: 16mm } }
";

/// The whole page.
pub fn html(report: &Report) -> String {
    let name = report.deployment.split(':').next().unwrap_or_default();
    let mut page = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    // Whatever were to slip through, nothing of it runs or loads.
    page.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    );
    let _ =
        writeln!(page, "<title>Drills of {}</title>\n<style>{STYLE}</style>\n</head>\n<body>", text(name));
    page.push_str(&header(report, name));
    page.push_str(&facts(report));
    page.push_str(&findings(report));
    page.push_str(&figure(report));
    page.push_str(&overview(report));
    page.push_str(&details(report));
    page.push_str(&how_to_check(report));
    page.push_str("</body>\n</html>\n");
    page
}

/// What somebody wrote, as text, and with writing directions of its own.
fn text(written: &str) -> String {
    let mut safe = String::with_capacity(written.len());
    for c in written.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn quote(written: &str) -> String {
    format!("<bdi>{}</bdi>", text(written))
}

fn ms(ms: Option<u64>) -> String {
    ms.map_or_else(|| "–".into(), |ms| format!("{ms} ms"))
}

fn header(report: &Report, name: &str) -> String {
    let since = report.since_ms.map_or_else(|| "the beginning of the log".into(), instant);
    let scope = report.scope.as_ref().map(|scope| format!(" on {scope} and below")).unwrap_or_default();
    format!(
        "<header>\n<h1>Drills of {}</h1>\n<p>A drill stops a real agent by a signed command, waits until every instance of it \
         has confirmed that it stopped, and brings it back. This page shows all drills{} from {} to {}, by an audit log that \
         was verified as a whole before this was written.</p>\n<p class=\"soft\">Deployment <code>{}</code></p>\n</header>\n",
        text(name),
        text(&scope),
        text(&since),
        instant(report.generated_at_ms),
        text(&report.deployment)
    )
}

fn facts(report: &Report) -> String {
    let confirmed: u64 = report.drills.iter().map(|drill| drill.confirmed).sum();
    let bounded: u64 = report.drills.iter().map(|drill| drill.bounded).sum();
    let mut all = vec![
        (report.drills.len().to_string(), "drills"),
        (ms(report.worst_ms), "slowest confirmation, worst"),
        (ms(report.p50_ms), "slowest confirmation, median"),
        (format!("{confirmed} of {}", confirmed.saturating_add(bounded)), "instances confirmed"),
        (report.unfinished.len().to_string(), "drills without evidence"),
    ];
    if report.every_ms.is_some() {
        all.push((report.gaps.len().to_string(), "times longer than the schedule"));
    }
    let each = all.into_iter().map(|(value, what)| format!("<div><b>{value}</b><span>{what}</span></div>\n"));
    format!("<section class=\"facts\">\n{}</section>\n", each.collect::<String>())
}

fn findings(report: &Report) -> String {
    let findings = report.findings();
    if findings.is_empty() {
        return "<h2>Findings</h2>\n<p class=\"good\">None.</p>\n".into();
    }
    let each = findings.iter().map(|finding| format!("<li>{}</li>\n", quote(finding)));
    format!("<h2>Findings</h2>\n<ul class=\"bad\">\n{}</ul>\n", each.collect::<String>())
}

/// Latencies over time: a point for each drill at its slowest confirmation, a cross where an instance stayed silent.
fn figure(report: &Report) -> String {
    let Some((first, last)) = report.drills.first().zip(report.drills.last()) else { return String::new() };
    let (from_ms, to_ms) =
        (first.stop.placed.time_ms, last.stop.placed.time_ms.max(first.stop.placed.time_ms + 1));
    let highest = report.worst_ms.max(report.limit_ms).unwrap_or(0).max(1);
    let step = round_step(highest);
    let top = highest.div_ceil(step) * step;
    let x = |time_ms: u64| {
        let share = if report.drills.len() == 1 {
            0.5
        } else {
            time_ms.saturating_sub(from_ms) as f64 / (to_ms - from_ms) as f64
        };
        LEFT + 10.0 + share * (WIDTH - LEFT - RIGHT - 20.0)
    };
    let y = |ms: u64| HEIGHT - BOTTOM - ms as f64 / top as f64 * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<h2>Slowest confirmation of each drill</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Slowest confirmation of each drill in milliseconds, over time\" font-family=\"inherit\" \
         font-size=\"12\" fill=\"#5a6675\">\n"
    );
    for value in (0..=top).step_by(step as usize) {
        let (y, right) = (y(value), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d5dbe3\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value} ms</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    let ticks = if report.drills.len() == 1 { 1 } else { TICKS };
    for tick in 0..ticks {
        let at_ms = from_ms + (to_ms - from_ms) / (ticks - 1).max(1) * tick;
        let anchor = if ticks == 1 {
            "middle"
        } else if tick == 0 {
            "start"
        } else if tick == ticks - 1 {
            "end"
        } else {
            "middle"
        };
        let label = instant(at_ms).replace('T', " ").replace('Z', "");
        let label = if to_ms - from_ms > 5 * 86_400_000 { label[..10].to_owned() } else { label };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
            x(at_ms),
            HEIGHT - 10.0
        );
    }
    if let Some(limit) = report.limit_ms {
        let (y, right) = (y(limit), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#a8201a\" stroke-dasharray=\"5 4\"/>\
             <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#a8201a\">limit {}</text>",
            y - 5.0,
            span(limit)
        );
    }
    let timed = report.drills.iter().filter_map(|drill| Some((drill, drill.slowest_ms?)));
    let line: Vec<_> = timed
        .clone()
        .map(|(drill, ms)| format!("{:.1},{:.1}", x(drill.stop.placed.time_ms), y(ms)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f4e8c\" stroke-opacity=\".35\"/>",
        line.join(" ")
    );
    for (drill, ms) in timed {
        let late = report.limit_ms.is_some_and(|limit| ms > limit);
        let fill = if late { "#a8201a" } else { "#1f4e8c" };
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{fill}\"><title>{}</title></circle>",
            x(drill.stop.placed.time_ms),
            y(ms),
            text(&format!("{} at {}: {ms} ms", drill.scope, instant(drill.stop.placed.time_ms)))
        );
    }
    for drill in report.drills.iter().filter(|drill| drill.bounded > 0) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#a8201a\" font-weight=\"700\">×<title>{}</title></text>",
            x(drill.stop.placed.time_ms),
            TOP - 4.0,
            text(&format!("{}: {} silent", drill.scope, count(drill.bounded, "instance")))
        );
    }
    svg.push_str("</svg>\n<p class=\"soft\">From the entry of the stop to the confirmation of the last instance that gave one, by the node's clock.");
    if report.drills.iter().any(|drill| drill.bounded > 0) {
        svg.push_str(" A red cross marks a drill in which an instance stayed silent.");
    }
    svg.push_str("</p>\n");
    svg
}

/// A round distance between two lines: 1, 2 or 5 times a power of ten, with about five lines.
fn round_step(highest: u64) -> u64 {
    let mut power = 1;
    loop {
        for factor in [1, 2, 5] {
            let step: u64 = factor * power;
            if highest.div_ceil(step) <= 5 {
                return step;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn overview(report: &Report) -> String {
    if report.drills.is_empty() {
        return "<h2>Drills</h2>\n<p>There was none in this time.</p>\n".into();
    }
    let mut table = String::from(
        "<h2>Drills</h2>\n<table>\n<thead><tr><th>stopped at</th><th>canary</th><th>signed by</th><th class=\"n\">confirmed</th>\
         <th class=\"n\">slowest</th><th class=\"n\">stopped for</th><th>then</th><th class=\"n\">entry</th></tr></thead>\n<tbody>\n",
    );
    for drill in &report.drills {
        let state = match drill.state {
            super::report::State::Resumed => "good",
            super::report::State::ResumedLater | super::report::State::Stopped => "bad",
        };
        let late = drill.bounded > 0
            || drill.slowest_ms.zip(report.limit_ms).is_some_and(|(slowest, limit)| slowest > limit);
        let _ = writeln!(
            table,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n{}\">{}</td><td class=\"n\">{}</td>\
             <td class=\"{state}\">{}</td><td class=\"n\">{}</td></tr>",
            instant(drill.stop.placed.time_ms),
            text(&drill.scope.to_string()),
            text(&drill.evidence.by.join(", ")),
            drill.confirmed_of_all(),
            if late { " bad" } else { "" },
            ms(drill.slowest_ms),
            drill.stopped_for_ms.map_or_else(|| "–".into(), span),
            drill.state.words(),
            drill.evidence.placed.index
        );
    }
    table.push_str("</tbody>\n</table>\n");
    table
}

fn details(report: &Report) -> String {
    let each = report.drills.iter().rev().map(detail).collect::<String>();
    if each.is_empty() { each } else { format!("<h2>Each drill, the newest first</h2>\n{each}") }
}

fn detail(drill: &Record) -> String {
    let mut part = format!(
        "<section class=\"drill\">\n<h3>{} at {}</h3>\n<p>{}</p>\n",
        text(&drill.scope.to_string()),
        instant(drill.stop.placed.time_ms),
        quote(&drill.reason)
    );
    for wrong in &drill.wrong {
        let _ = writeln!(part, "<p class=\"bad\">{}</p>", quote(wrong));
    }
    part.push_str("<table>\n<thead><tr><th>step</th><th>by</th><th>at</th><th class=\"n\">entry</th><th>SHA-256 of the entry</th></tr></thead>\n<tbody>\n");
    let mut row = |step: &str, by: &str, placed: &super::report::Placed| {
        let _ = writeln!(
            part,
            "<tr><td>{step}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td><code>{}</code></td></tr>",
            text(by),
            instant(placed.time_ms),
            placed.index,
            placed.sha256
        );
    };
    let by = |signed: &Signed| signed.by.join(", ");
    row("stop", &by(&drill.stop), &drill.stop.placed);
    row("outcome", &format!("node {}", drill.node), &drill.outcome);
    for (step, signed) in [("release", &drill.release), ("start", &drill.start)] {
        if let Some(signed) = signed {
            row(step, &by(signed), &signed.placed);
        }
    }
    row("evidence", &by(&drill.evidence), &drill.evidence.placed);
    part.push_str("</tbody>\n</table>\n<table>\n<thead><tr><th>agent</th><th>instance</th><th class=\"n\">confirmed after</th></tr></thead>\n<tbody>\n");
    for instance in &drill.instances {
        let after = match instance.after_ms {
            Some(ms) => format!("<td class=\"n\">{ms} ms</td>"),
            None => "<td class=\"n bad\">silent; its lease ended</td>".into(),
        };
        let _ = writeln!(
            part,
            "<tr><td>{}</td><td>{}</td>{after}</tr>",
            text(&instance.agent.to_string()),
            quote(&instance.instance)
        );
    }
    let unlisted = (drill.confirmed + drill.bounded).saturating_sub(drill.instances.len() as u64);
    if unlisted > 0 {
        let _ =
            writeln!(part, "<tr><td colspan=\"3\">and {unlisted} more, which the counts hold for</td></tr>");
    }
    part.push_str("</tbody>\n</table>\n</section>\n");
    part
}

/// What somebody does who takes nobody's word for it.
fn how_to_check(report: &Report) -> String {
    let mut part = String::from(
        "<h2>How to check this</h2>\n<p>Nothing here has to be believed. Every line is an entry of a hash-chained, signed log, \
         and every drill carries a signature that OpenSSH verifies.</p>\n<ol>\n",
    );
    let _ = writeln!(
        part,
        "<li>The log had {} entries and the root <code>{}</code>. A node signed this checkpoint, and any later log must \
         continue it (<code>tagout log verify --since FILE</code>):<pre>{}</pre></li>",
        report.log_size,
        report.log_root,
        text(&report.checkpoint)
    );
    if let Some(drill) = report.drills.last() {
        let (index, by) =
            (drill.evidence.placed.index, drill.evidence.by.first().map_or("NAME", String::as_str));
        let _ = write!(
            part,
            "<li>The entries are proven one by one with <code>tagout log show {index} --out DIR</code>, which also writes the \
             signed text and prints the line that verifies it.</li>\n\
             <li>Without any program of Tagout: this report as JSON (<code>tagout drill report --json</code>) holds the signed \
             texts. Of the newest drill, with the keys below as <code>allowed_signers</code>:<pre>{}</pre></li>\n",
            text(&format!(
                "jq -j '.drills[-1].document' report.json > drill.json\n\
                 jq -j '.drills[-1].signatures[0]' report.json > drill.json.sig\n\
                 jq -j .allowed_signers report.json > allowed_signers\n\
                 ssh-keygen -Y verify -f allowed_signers -I {by} -n tagout-drill -s drill.json.sig < drill.json"
            ))
        );
    }
    let _ = write!(
        part,
        "<li>Whose keys these are is said by the authority, whose versions are in the log as well and follow from the genesis \
         <code>{}</code>:<pre>{}</pre></li>\n</ol>\n",
        text(report.deployment.rsplit(':').next().unwrap_or_default()),
        text(&report.allowed_signers)
    );
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_text() {
        let hostile = "<script>alert('x')</script> & \"more\"";
        assert_eq!(text(hostile), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;more&quot;");
    }

    #[test]
    fn lines_are_round_and_few() {
        for (highest, step) in [
            (1, 1),
            (5, 1),
            (6, 2),
            (11, 5),
            (340, 100),
            (1001, 500),
            (u64::MAX / 2, 2_000_000_000_000_000_000),
        ] {
            assert_eq!(round_step(highest), step, "{highest}");
        }
    }
}
