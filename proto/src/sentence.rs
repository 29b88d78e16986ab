//! What is said about bytes that somebody else wrote.

use std::fmt::Display;

/// More than any sentence of ours that holds nothing foreign.
const SENTENCE_MAX_CHARS: usize = 400;
const PARAGRAPH_MAX_CHARS: usize = 2000;
/// Of either: characters may have up to four bytes.
const SHOWN_MAX_BYTES: usize = 4000;

/// What an error of a library says, fit for a log, a terminal and an answer.
///
/// serde and others repeat what they did not expect, so whoever sends a megabyte with an escape sequence in it would
/// have both written to the operator's screen.
pub fn sentence(error: impl Display) -> String {
    shown(&error.to_string(), SENTENCE_MAX_CHARS, |c| !c.is_control())
}

/// As [`sentence`], for what may have several lines: what a node says to do.
pub fn paragraph(text: &str) -> String {
    shown(text, PARAGRAPH_MAX_CHARS, |c| !c.is_control() || c == '\n')
}

fn shown(text: &str, max_chars: usize, harmless: impl Fn(char) -> bool) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().map(|c| if harmless(c) { c } else { '\u{fffd}' }).enumerate() {
        if count == max_chars || shown.len() + c.len_utf8() > SHOWN_MAX_BYTES {
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_short_and_nothing_obeys_it() {
        assert_eq!(sentence("unknown field `scpoe`"), "unknown field `scpoe`");
        assert_eq!(sentence("a\x1b[2Jb\nc\u{7f}\u{85}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\u{fffd}");
        assert_eq!(paragraph("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\nc");
        assert_eq!(sentence("é".repeat(SENTENCE_MAX_CHARS)).chars().count(), SENTENCE_MAX_CHARS);
        assert!(paragraph(&"\u{85}".repeat(PARAGRAPH_MAX_CHARS)).len() < SHOWN_MAX_BYTES + 4);
        let long = sentence("é".repeat(1 << 20));
        assert!(long.ends_with("é…") && long.chars().count() == SENTENCE_MAX_CHARS + 1);
    }
}
