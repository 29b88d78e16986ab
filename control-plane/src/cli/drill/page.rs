//! The report as one page: no scripts, nothing from elsewhere, and readable when it is printed. What people and nodes wrote
//! is text on it and never markup.

use std::fmt::Write as _;

use tagout_proto::scope::Scope;

use super::report::{Placed, Record, Report, Signed, State};
use crate::cli::out::{count, instant, span};

/// The figure, in its own units. On a narrow window its writing is twice as large (see [`STYLE`]), and there is room for that.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;
/// Labels below the figure.
const TICKS: u64 = 5;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --soft: #566170; --line: #d5dbe3; --pale: #f4f6f9; --good: #1b6e4a; --bad: #a8201a; --mark: #1f4e8c }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e6eaf0; --soft: #9ba7b6; --line: #323b47; --pale: #1a2029; --good: #6ecb9c; --bad: #ff8f87; --mark: #82b4f5 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif; overflow-wrap: anywhere }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1.2rem; margin-bottom: 1.5rem }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; font-weight: 650 }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; font-weight: 650 }
h3 { font-size: 1rem; margin: 0 0 .3rem; font-weight: 650 }
p { margin: .4rem 0; max-width: 46rem }
.soft { color: var(--soft) }
.about { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0 0 }
.about dt { color: var(--soft) } .about dd { margin: 0 }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1px; background: var(--line); border: 1px solid var(--line); border-radius: 4px; overflow: hidden }
.facts div { padding: .7rem .9rem; background: var(--paper) }
.facts b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .85rem; line-height: 1.3; display: block }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--ink); padding: .3rem .9rem .3rem 0; vertical-align: bottom; overflow-wrap: normal }
td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0; vertical-align: top }
th:last-child, td:last-child { padding-right: 0 }
td.n, th.n { text-align: right }
td.n, td.t { white-space: nowrap } td.s { min-width: 10em } td.d { min-width: 7em }
td.w { min-width: 6.5em; overflow-wrap: normal }
.good { color: var(--good) } .bad { color: var(--bad) } td.bad, b.bad, p.bad { font-weight: 600 }
.drill { border: 1px solid var(--line); border-radius: 4px; padding: 1rem 1.1rem; margin: 1rem 0; break-inside: avoid }
.drill table { margin-top: .8rem }
code, pre { font: .87em/1.45 ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace }
pre { background: var(--pale); border: 1px solid var(--line); border-radius: 4px; padding: .7rem .9rem; margin: .4rem 0; white-space: pre-wrap }
svg { width: 100%; height: auto; display: block; font-size: 12px }
svg text { fill: var(--soft) } svg line { stroke: var(--line) } svg polyline { fill: none; stroke: var(--mark); stroke-opacity: .35 }
svg circle { fill: var(--mark) } svg circle.late { fill: var(--bad) } svg line.limit { stroke: var(--bad); stroke-dasharray: 5 4 }
svg text.late { fill: var(--bad); font-weight: 600 }
ul, ol { padding-left: 1.2rem; margin: .4rem 0 } li { margin: .3rem 0 } li::marker { color: var(--soft) }
ul.findings > li::marker { color: var(--bad) }
@media screen and (max-width: 56rem) {
  body { padding: 1.5rem 1rem 3rem }
  .about { grid-template-columns: 1fr } .about dt { margin-top: .35rem }
  .facts { grid-template-columns: 1fr 1fr }
  svg { font-size: 24px } svg text.between { display: none }
  thead { display: none } table, tbody, tr, td { display: block }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0 }
  td.s, td.d, td.w { min-width: 0 }
  td, td:last-child { display: grid; grid-template-columns: 7.5rem 1fr; gap: .8rem; border: 0; padding: .1rem 0 }
  td.n { text-align: left } td::before { content: attr(data-of); color: var(--soft); font-weight: 400 }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5px } h2, h3 { break-after: avoid } tr, li { break-inside: avoid }
  .drill { padding: .6rem .8rem; margin: .6rem 0 } td, th { padding-top: .15rem; padding-bottom: .15rem } p { max-width: none }
}
@page { margin: 14mm }
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

/// `2026-11-22 15:00:00`, of UTC.
fn at(unix_ms: u64) -> String {
    instant(unix_ms).replace('T', " ").replace('Z', "")
}

/// With places where it may be broken, as scopes are.
fn segments(scope: &Scope) -> String {
    text(&scope.to_string()).replace('/', "/<wbr>")
}

/// One cell, with what its column is called for windows that are too narrow for columns. `inner` is markup.
fn cell(of: &str, class: &str, inner: &str) -> String {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<td data-of=\"{of}\"{class}>{inner}</td>")
}

fn header(report: &Report, name: &str) -> String {
    let since = report.since_ms.map_or_else(|| "the beginning of the log".into(), at);
    let scope = match &report.scope {
        Some(scope) => format!("{} and all below", text(&scope.to_string())),
        None => "all".into(),
    };
    let promised =
        report.every_ms.map_or_else(|| "not given".into(), |every| format!("one every {}", span(every)));
    let limit = report.limit_ms.map_or_else(|| "not given".into(), |limit| format!("{limit} ms"));
    let about = [
        ("Deployment", format!("<code>{}</code>", text(&report.deployment))),
        ("Canaries", scope),
        ("Period", format!("{since} to {}, all times in UTC", at(report.generated_at_ms))),
        ("Drills promised", promised),
        ("Limit of a confirmation", limit),
        ("Log", format!("{} entries, all of them verified", report.log_size)),
    ];
    let about = about.map(|(what, value)| format!("<dt>{what}</dt><dd>{value}</dd>\n")).concat();
    format!(
        "<header>\n<h1>Drills of {}</h1>\n<p>A drill stops a real agent by a signed command, waits until every instance of it \
         has confirmed that it stopped, and brings it back. This page shows what an audit log says of them that was verified \
         as a whole before this was written.</p>\n<dl class=\"about\">\n{about}</dl>\n</header>\n",
        text(name)
    )
}

fn facts(report: &Report) -> String {
    let confirmed: u64 = report.drills.iter().map(|drill| drill.confirmed).sum();
    let bounded: u64 = report.drills.iter().map(|drill| drill.bounded).sum();
    let over = report.worst_ms.zip(report.limit_ms).is_some_and(|(worst, limit)| worst > limit);
    let mut all = vec![
        (report.drills.len().to_string(), "drills", false),
        (ms(report.worst_ms), "slowest confirmation, worst", over),
        (ms(report.p50_ms), "slowest confirmation, median", false),
        (format!("{confirmed} of {}", confirmed.saturating_add(bounded)), "instances confirmed", bounded > 0),
        (report.unfinished.len().to_string(), "drills without evidence", !report.unfinished.is_empty()),
    ];
    if report.every_ms.is_some() {
        let gaps = report.gaps.len();
        all.push((gaps.to_string(), "times longer than the schedule", gaps > 0));
    }
    let each = all.into_iter().map(|(value, what, bad)| {
        let class = if bad { " class=\"bad\"" } else { "" };
        format!("<div><b{class}>{value}</b><span>{what}</span></div>\n")
    });
    format!("<section class=\"facts\">\n{}</section>\n", each.collect::<String>())
}

fn findings(report: &Report) -> String {
    let findings = report.findings();
    if findings.is_empty() {
        return "<h2>Findings</h2>\n<p class=\"good\">None.</p>\n".into();
    }
    let each = findings.iter().map(|finding| format!("<li>{}</li>\n", quote(finding)));
    format!("<h2>Findings</h2>\n<ul class=\"findings\">\n{}</ul>\n", each.collect::<String>())
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
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y = |ms: u64| HEIGHT - BOTTOM - ms as f64 / top as f64 * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<h2>Slowest confirmation of each drill</h2>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Slowest confirmation of each drill in milliseconds, over time\" font-family=\"inherit\">\n"
    );
    for value in (0..=top).step_by(step as usize) {
        let y = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"0\" y=\"{:.1}\">{value} ms</text>",
            y - 4.0
        );
    }
    let ticks = if report.drills.len() == 1 { 1 } else { TICKS };
    for tick in 0..ticks {
        let at_ms = from_ms + (to_ms - from_ms) / (ticks - 1).max(1) * tick;
        let (anchor, class) = match tick {
            _ if ticks == 1 => ("middle", ""),
            0 => ("start", ""),
            _ if tick == ticks - 1 => ("end", ""),
            _ => ("middle", " class=\"between\""),
        };
        let label = at(at_ms);
        let label = if to_ms - from_ms > 5 * 86_400_000 { label[..10].to_owned() } else { label };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\"{class}>{label}</text>",
            x(at_ms),
            HEIGHT - 10.0
        );
    }
    if let Some(limit) = report.limit_ms {
        let y = y(limit);
        let _ = writeln!(
            svg,
            "<line class=\"limit\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"late\" x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">limit {limit} ms</text>",
            y - 5.0
        );
    }
    let timed = report.drills.iter().filter_map(|drill| Some((drill, drill.slowest_ms?)));
    let line: Vec<_> = timed
        .clone()
        .map(|(drill, ms)| format!("{:.1},{:.1}", x(drill.stop.placed.time_ms), y(ms)))
        .collect();
    let _ = writeln!(svg, "<polyline points=\"{}\"/>", line.join(" "));
    for (drill, ms) in timed {
        let late = report.limit_ms.is_some_and(|limit| ms > limit);
        let _ = writeln!(
            svg,
            "<circle{} cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}</title></circle>",
            if late { " class=\"late\"" } else { "" },
            x(drill.stop.placed.time_ms),
            y(ms),
            text(&format!("{} at {}: {ms} ms", drill.scope, at(drill.stop.placed.time_ms)))
        );
    }
    for drill in report.drills.iter().filter(|drill| drill.bounded > 0) {
        let _ = writeln!(
            svg,
            "<text class=\"late\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">×<title>{}</title></text>",
            x(drill.stop.placed.time_ms),
            TOP - 20.0,
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
        "<h2>Drills</h2>\n<table>\n<thead><tr><th>stopped at, UTC</th><th>canary</th><th>signed by</th><th class=\"n\">confirmed</th>\
         <th class=\"n\">slowest</th><th class=\"n\">stopped for</th><th>then</th><th class=\"n\">entry</th></tr></thead>\n<tbody>\n",
    );
    for drill in &report.drills {
        let state = match drill.state {
            State::Resumed => "w good",
            State::ResumedLater | State::Stopped => "w bad",
        };
        let late = drill.slowest_ms.zip(report.limit_ms).is_some_and(|(slowest, limit)| slowest > limit);
        let number = |bad: bool| if bad { "n bad" } else { "n" };
        let cells = [
            cell("stopped at", "t", &at(drill.stop.placed.time_ms)),
            cell("canary", "s", &segments(&drill.scope)),
            cell("signed by", "d", &text(&drill.evidence.by.join(", "))),
            cell("confirmed", number(drill.bounded > 0), &drill.confirmed_of_all()),
            cell("slowest", number(late), &ms(drill.slowest_ms)),
            cell("stopped for", "n", &drill.stopped_for_ms.map_or_else(|| "–".into(), span)),
            cell("then", state, drill.state.words()),
            cell("entry", "n", &drill.evidence.placed.index.to_string()),
        ];
        let _ = writeln!(table, "<tr>{}</tr>", cells.concat());
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
        "<section class=\"drill\">\n<h3>{} at {}</h3>\n<p>{}</p>\n<p class=\"soft\">lock <code>{}</code>, {}</p>\n",
        text(&drill.scope.to_string()),
        at(drill.stop.placed.time_ms),
        quote(&drill.reason),
        drill.lock,
        drill.state.words()
    );
    for wrong in &drill.wrong {
        let _ = writeln!(part, "<p class=\"bad\">{}</p>", quote(wrong));
    }
    for note in &drill.notes {
        let _ = writeln!(part, "<p>{}</p>", quote(note));
    }
    part.push_str(
        "<table>\n<thead><tr><th>step</th><th>by</th><th>at, UTC</th><th class=\"n\">entry</th><th>SHA-256 of the entry</th></tr>\
         </thead>\n<tbody>\n",
    );
    let mut row = |step: &str, by: &str, placed: &Placed| {
        let cells = [
            cell("step", "t", step),
            cell("by", "d", &text(by)),
            cell("at", "t", &at(placed.time_ms)),
            cell("entry", "n", &placed.index.to_string()),
            cell("SHA-256", "", &format!("<code>{}</code>", placed.sha256)),
        ];
        let _ = writeln!(part, "<tr>{}</tr>", cells.concat());
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
    part.push_str(
        "</tbody>\n</table>\n<table>\n<thead><tr><th>agent</th><th>instance</th><th class=\"n\">confirmed after</th></tr></thead>\n\
         <tbody>\n",
    );
    for instance in &drill.instances {
        let (class, after) = match instance.after_ms {
            Some(ms) => ("n", format!("{ms} ms")),
            None => ("n bad", "silent; its lease ended".into()),
        };
        let cells = [
            cell("agent", "s", &segments(&instance.agent)),
            cell("instance", "", &quote(&instance.instance)),
            cell("confirmed after", class, &after),
        ];
        let _ = writeln!(part, "<tr>{}</tr>", cells.concat());
    }
    part.push_str("</tbody>\n</table>\n");
    let unlisted = (drill.confirmed + drill.bounded).saturating_sub(drill.instances.len() as u64);
    if unlisted > 0 {
        let _ = writeln!(part, "<p class=\"soft\">and {unlisted} more, which the counts hold for</p>");
    }
    part.push_str("</section>\n");
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
    use tagout_proto::digest::Digest;

    use super::*;
    use crate::cli::drill::report::{Gap, Instance, Unfinished};

    const HOSTILE: &str = "</td></pre><script>alert('x')</script> & \"more\"";
    const DAY_MS: u64 = 86_400_000;
    const FIRST_MS: u64 = 1_795_359_600_000;

    #[test]
    fn what_people_wrote_is_text() {
        assert_eq!(
            text("<script>alert('x')</script> & \"more\""),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;more&quot;"
        );
        // Wherever somebody else than this program had a word: people, nodes, instances.
        let mut drill = drill(0, Some(7), 0);
        drill.reason = HOSTILE.into();
        drill.node = HOSTILE.into();
        drill.instances[0].instance = HOSTILE.into();
        drill.notes = vec![HOSTILE.into()];
        drill.wrong = vec![HOSTILE.into()];
        for signed in [&mut drill.stop, drill.start.as_mut().unwrap(), &mut drill.evidence] {
            signed.by = vec![HOSTILE.into()];
        }
        let mut report = report(vec![drill]);
        report.deployment = format!("{HOSTILE}:0f");
        report.checkpoint = HOSTILE.into();
        report.allowed_signers = HOSTILE.into();
        let page = html(&report);
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() >= 12, "{page}");
        assert_eq!(page.matches("<td").count(), page.matches("</td>").count(), "{page}");
    }

    #[test]
    fn every_finding_is_on_the_page_and_the_figure_says_what_was_slow_and_who_was_silent() {
        let mut drills: Vec<_> = (0..20).map(|n| drill(n, Some(20 + n * 37 % 90), 0)).collect();
        drills.push(drill(21, Some(12_345), 0));
        drills.push(drill(22, Some(41), 1));
        let mut later = drill(23, Some(64), 0);
        (later.start, later.stopped_for_ms, later.state) = (None, None, State::ResumedLater);
        drills.push(later);
        drills.push(drill(27, None, 2));
        let mut report = report(drills);
        (report.worst_ms, report.p50_ms) = (Some(12_345), Some(57));
        (report.every_ms, report.limit_ms) = (Some(DAY_MS), Some(500));
        let (from_ms, to_ms) = (FIRST_MS + 23 * DAY_MS, FIRST_MS + 27 * DAY_MS);
        report.gaps = vec![Gap { scope: scope(), from_ms, to_ms }];
        let (lock, stop) = (Digest([3; 32]), signed(99, to_ms));
        report.unfinished = vec![Unfinished { scope: scope(), lock, stop, state: State::Stopped }];
        let (page, findings) = (html(&report), report.findings());
        assert_eq!(findings.len(), 6);
        for finding in &findings {
            assert!(page.contains(&quote(finding)), "{finding} is not in {page}");
        }
        assert_eq!(page.matches("<circle").count(), 23);
        assert_eq!(page.matches("<circle class=\"late\"").count(), 1);
        assert_eq!(page.matches(">×<title>").count(), 2);
        assert!(page.contains(">limit 500 ms<"), "{page}");
        assert_eq!(page.matches("<section class=\"drill\">").count(), report.drills.len());
    }

    fn scope() -> Scope {
        Scope::parse("moltbook/support/canary").unwrap()
    }

    fn placed(index: u64, time_ms: u64) -> Placed {
        Placed { index, time_ms, sha256: Digest([0xab; 32]) }
    }

    fn signed(index: u64, time_ms: u64) -> Signed {
        Signed { placed: placed(index, time_ms), by: vec!["alice".into(), "bob".into()] }
    }

    /// That of the `n`th day, with one instance that confirmed or none, and so many that were silent.
    fn drill(n: u64, slowest_ms: Option<u64>, bounded: u64) -> Record {
        let (at_ms, index) = (FIRST_MS + n * DAY_MS, 2 + n * 5);
        let instance =
            |after_ms| Instance { agent: scope(), instance: "host-7.4711.0f6f4d8c".into(), after_ms };
        let instances = slowest_ms.map(|ms| instance(Some(ms))).into_iter();
        Record {
            scope: scope(),
            lock: Digest([2; 32]),
            reason: "drill: scheduled".into(),
            stop: signed(index, at_ms),
            outcome: placed(index + 1, at_ms + 90),
            node: "node-1".into(),
            release: Some(signed(index + 2, at_ms + 3_000)),
            start: Some(signed(index + 3, at_ms + 3_010)),
            evidence: signed(index + 4, at_ms + 3_300),
            confirmed: u64::from(slowest_ms.is_some()),
            bounded,
            slowest_ms,
            instances: instances.chain((0..bounded).map(|_| instance(None))).collect(),
            stopped_for_ms: Some(3_010),
            state: State::Resumed,
            wrong: Vec::new(),
            notes: Vec::new(),
            document: String::new(),
            signatures: Vec::new(),
        }
    }

    fn report(drills: Vec<Record>) -> Report {
        Report {
            deployment: format!("moltbook-prod:{}", Digest([1; 32])),
            scope: None,
            since_ms: None,
            generated_at_ms: FIRST_MS + 30 * DAY_MS,
            log_size: 1234,
            log_root: Digest([4; 32]),
            checkpoint: format!(
                "moltbook-prod/log\n1234\n{}\n\n— moltbook-prod/node-1 Az3…\n",
                "x".repeat(44)
            ),
            every_ms: None,
            limit_ms: None,
            worst_ms: drills.iter().filter_map(|drill| drill.slowest_ms).max(),
            p50_ms: None,
            drills,
            unfinished: Vec::new(),
            gaps: Vec::new(),
            allowed_signers: format!("alice ssh-ed25519 {}\n", "A".repeat(68)),
        }
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
