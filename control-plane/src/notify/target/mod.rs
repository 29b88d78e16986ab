//! Where a receiver is, and what it answers.

mod file;
mod http;
mod syslog;

use std::time::Duration;

use super::event::Event;

pub use self::file::FileTarget;
pub use self::http::{HttpTarget, Surroundings};
pub use self::syslog::{SyslogTarget, Transport};

/// For one attempt, from the name to the end of the answer: receivers are given 15 to 30 s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

pub enum Target {
    Http(HttpTarget),
    File(FileTarget),
    Syslog(SyslogTarget),
}

/// What came of one attempt.
#[derive(Debug)]
pub enum Answer {
    Taken(String),
    /// It does not want this one, and never will.
    Refused(String),
    /// It wants nothing any more (410).
    Gone(String),
    /// Another time; `after` if it said when.
    Later {
        why: String,
        after: Option<Duration>,
    },
}

impl Target {
    /// `has_room` says whether the node's disk has room that no stop may need.
    pub async fn send(&self, event: &Event, has_room: bool) -> Answer {
        match self {
            Self::Http(http) => http.send(event).await,
            Self::File(_) if !has_room => {
                let why = "the node's disk is nearly full, and what room there is belongs to stops".into();
                Answer::Later { why, after: None }
            }
            Self::File(file) => file.write(event).await,
            Self::Syslog(syslog) => syslog.send(event).await,
        }
    }

    pub fn format(&self) -> &'static str {
        match self {
            Self::Http(http) => http.format.name(),
            Self::File(_) => "file",
            Self::Syslog(syslog) => syslog.transport_name(),
        }
    }

    /// Where it is, without what may be a secret in it: the path of a URL is one at some vendors.
    pub fn place(&self) -> String {
        match self {
            Self::Http(http) => http.place(),
            Self::File(file) => file.path.display().to_string(),
            Self::Syslog(syslog) => syslog.place(),
        }
    }
}
