//! Server-sent events, as section 9.2.6 of the WHATWG HTML standard has them, each within a bound.
//!
//! Written here because what is read comes from the network before anything in it is proven: the time is linear, the
//! memory is that of one event, and bytes that are no text end the stream.

use crate::limits::EVENT_MAX_BYTES;

const BYTE_ORDER_MARK: &str = "\u{feff}";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// `message` where the stream does not say.
    pub(crate) kind: String,
    pub(crate) data: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    #[error("an event has more than {EVENT_MAX_BYTES} bytes")]
    TooLarge,
    #[error("a line is not UTF-8")]
    NotUtf8,
}

/// Reads a stream from its first byte on, in pieces of any size.
#[derive(Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    kind: String,
    data: String,
    /// The first line is behind us; only that one may have a byte order mark.
    begun: bool,
    after_return: bool,
}

impl Parser {
    /// Takes the next bytes, and hands over the events that they complete, also those before an error.
    pub(crate) fn read(&mut self, bytes: &[u8], mut event: impl FnMut(Event)) -> Result<(), SseError> {
        for byte in bytes {
            // A line ends with a line feed, a carriage return, or both together.
            let ended_before = std::mem::replace(&mut self.after_return, *byte == b'\r') && *byte == b'\n';
            match byte {
                b'\n' if ended_before => {}
                b'\n' | b'\r' => self.end_line()?.into_iter().for_each(&mut event),
                _ if self.line.len() + self.kind.len() + self.data.len() >= EVENT_MAX_BYTES => {
                    return Err(SseError::TooLarge);
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, SseError> {
        let line = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            let (kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            if data.pop().is_none() {
                return Ok(None);
            }
            let kind = if kind.is_empty() { "message".into() } else { kind };
            return Ok(Some(Event { kind, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.kind = value.into(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
                // A line without a value has no byte of its own that was counted.
                if self.data.len() > EVENT_MAX_BYTES {
                    return Err(SseError::TooLarge);
                }
            }
            // Comments, ids and retry times: which node to ask when is not for a node to say.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let mut events = Vec::new();
        Parser::default().read(text.as_bytes(), |event| events.push((event.kind, event.data))).unwrap();
        events
    }

    fn event(kind: &str, data: &str) -> (String, String) {
        (kind.into(), data.into())
    }

    #[test]
    fn the_examples_of_the_standard() {
        let stocks = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(read(stocks), [event("message", "YHOO\n+2\n10")]);
        let comments =
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let expected = [" third event", "second event", "first event"].map(|data| event("message", data));
        assert_eq!(read(comments), expected.into_iter().rev().collect::<Vec<_>>());
        assert_eq!(read("data\n\ndata\ndata\n\ndata:"), [event("message", ""), event("message", "\n")]);
        assert_eq!(read("data:test\n\ndata: test\n\n"), [event("message", "test"), event("message", "test")]);
    }

    #[test]
    fn every_end_of_line_ends_one_line() {
        for end in ["\n", "\r", "\r\n"] {
            let text = "\u{feff}event: a\ndata: 1\n\nevent: b\n\ndata: 2\n\n".replace('\n', end);
            assert_eq!(read(&text), [event("a", "1"), event("message", "2")], "{end:?}");
        }
        assert_eq!(
            read("data: 1\n\u{feff}data: 2\n\n"),
            [event("message", "1")],
            "a mark is one at the start only"
        );
    }

    #[test]
    fn one_event_is_bounded_and_a_stream_of_them_is_not() {
        let mut parser = Parser::default();
        let mut events = 0;
        for _ in 0..EVENT_MAX_BYTES {
            parser.read(b"event: x\ndata: 12345678\n: comment\n\n", |_| events += 1).unwrap();
        }
        assert_eq!(events, EVENT_MAX_BYTES);
        for line in [&b"data: 12345678\n"[..], b"data\n", b"x"] {
            let mut parser = Parser::default();
            let ended = (0..=EVENT_MAX_BYTES).try_for_each(|_| parser.read(line, |_| {}));
            assert_eq!(ended, Err(SseError::TooLarge), "S3: no stream fills our memory");
        }
    }

    #[test]
    fn what_is_no_text_ends_the_stream_after_what_came_before() {
        let (mut parser, mut events) = (Parser::default(), 0);
        let ended = parser.read(b"data: 1\n\ndata: \xa9\n\n", |_| events += 1);
        assert_eq!((ended, events), (Err(SseError::NotUtf8), 1));
    }
}
