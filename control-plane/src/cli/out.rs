//! What people and programs see: lines on standard output, or one JSON document instead of them.

use std::cell::Cell;
use std::io::{IsTerminal, Write};

use serde::Serialize;
use tagout_proto::strict::format_instant_ms;

use super::failure::Failure;

pub struct Out {
    json: bool,
    color: bool,
    live: bool,
    closed: Cell<bool>,
}

#[derive(Clone, Copy)]
pub enum Ink {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Out {
    pub fn new(json: bool) -> Self {
        let live = std::io::stdout().is_terminal() && !json;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, color: live && !no_color && !dumb, live: live && !dumb, closed: Cell::new(false) }
    }

    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether a progress bar can be redrawn.
    pub fn live(&self) -> bool {
        self.live
    }

    /// Whether whoever read standard output has gone.
    pub fn closed(&self) -> bool {
        self.closed.get()
    }

    /// A line for people.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            self.bytes(format!("{}\n", text.as_ref()).as_bytes());
        }
    }

    /// The document for programs, on one line.
    pub fn document(&self, document: &impl Serialize) {
        if self.json {
            let text = serde_json::to_string(document).expect("our documents have text keys only");
            self.bytes(format!("{text}\n").as_bytes());
        }
    }

    /// Bytes as they are. A reader that has gone never keeps a stop from being sent, so its absence is only noted.
    pub fn bytes(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
            self.closed.set(true);
        }
    }

    /// A remark beside the result, on standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
    }

    pub fn failure(&self, failure: &Failure) {
        self.document(&failure.problem);
        if !self.json {
            let color = std::io::stderr().is_terminal() && self.color;
            let label = if color { "\x1b[31merror:\x1b[0m" } else { "error:" };
            self.note(format!("{label} {failure}"));
        }
    }

    pub fn ink(&self, ink: Ink, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.color {
            return text.into();
        }
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Red => 31,
            Ink::Green => 32,
            Ink::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Lines of columns, each as wide as its widest cell; only the last one is left ragged.
    pub fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| visible(c)).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in rows {
            let mut line = String::from(" ");
            for (cell, width) in row.iter().zip(&widths) {
                line.push(' ');
                line.push_str(cell);
                line.push_str(&" ".repeat(width - visible(cell) + 1));
            }
            self.line(line.trim_end());
        }
    }
}

/// Characters that take room on a terminal: all but the colours.
fn visible(text: &str) -> usize {
    let mut in_escape = false;
    text.chars()
        .filter(|c| {
            let starts = *c == '\x1b';
            let hidden = in_escape || starts;
            in_escape = hidden && (starts || *c != 'm');
            !hidden
        })
        .count()
}

/// This machine's clock. It dates what people sign, and decides nothing.
pub use crate::clock::wall_ms as now_ms;

/// `2026-11-22T15:00:00Z`: to the second, for people.
pub fn instant(unix_ms: u64) -> String {
    format_instant_ms(unix_ms - unix_ms % 1000).replace(".000Z", "Z")
}

/// The two largest units of a time span: `2d 3h`, `5m 10s`, `340ms`.
pub fn span(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = ms / 1000;
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let (name, size) = units[first];
    let head = format!("{}{name}", seconds / size);
    match units.get(first + 1).map(|(name, next)| (name, seconds % size / next)) {
        Some((name, rest)) if rest > 0 => format!("{head} {rest}{name}"),
        _ => head,
    }
}

/// `1 agent`, `2 agents`.
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        for (ms, text) in [
            (0, "0ms"),
            (340, "340ms"),
            (5_000, "5s"),
            (310_000, "5m 10s"),
            (3_600_000, "1h"),
            (183_600_000, "2d 3h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible("\x1b[31mSTOPPED\x1b[0m"), 7);
        assert_eq!(instant(1_795_359_600_123), "2026-11-22T15:00:00Z");
    }
}
