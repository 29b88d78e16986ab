//! How the command ends: one exit code per kind of end, and for every failure a sentence that says what to do next.

use std::error::Error;
use std::fmt;
use std::path::Path;

use tagout_proto::authority::Unauthorised;
use tagout_proto::sentence::{paragraph, sentence};
use tagout_proto::strict::DocumentError;
use tagout_proto::wire::Problem;

use crate::pki::PkiError;
use crate::sign::SignError;

/// Scripts and runbooks depend on these numbers: they never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    MissingSignatures = 4,
    NoAgents = 5,
    Unreachable = 6,
    Unverified = 7,
    Proposed = 8,
}

impl Exit {
    pub const ALL: [Exit; 9] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Refused,
        Self::MissingSignatures,
        Self::NoAgents,
        Self::Unreachable,
        Self::Unverified,
        Self::Proposed,
    ];

    pub fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "failed on this machine",
            Self::Usage => "wrong usage",
            Self::Refused => "refused by the service",
            Self::MissingSignatures => "signatures are missing",
            Self::NoAgents => "the stop is in force, but no known agent matches its scope",
            Self::Unreachable => "no node answered, or none has a quorum",
            Self::Unverified => "verification failed: do not trust what was shown",
            Self::Proposed => "proposed: it takes effect once others have signed it, too",
        }
    }

    /// The table at the end of `tagout --help`.
    pub fn help() -> String {
        let lines = Self::ALL.map(|exit| format!("  {}  {}", exit as u8, exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

/// Why the command did not do what it was asked.
#[derive(Clone, Debug)]
pub struct Failure {
    pub exit: Exit,
    pub problem: Problem,
}

impl Failure {
    pub fn new(exit: Exit, code: &str, detail: impl Into<String>) -> Self {
        let (code, title, detail) = (code.into(), exit.meaning().into(), detail.into());
        // No HTTP answer stands behind it, so it has no HTTP status.
        Self { exit, problem: Problem { code, status: 0, title, detail } }
    }

    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", detail)
    }

    pub fn unverified(code: &str, detail: impl Into<String>) -> Self {
        Self::new(Exit::Unverified, code, detail)
    }

    /// A file that could not be read or written.
    pub fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(Exit::Failed, "file", format!("cannot {doing} {}: {error}", path.display()))
    }

    /// What a node answered instead of doing it.
    pub fn answered(problem: Problem) -> Self {
        let exit = match problem.code.as_str() {
            "below-threshold" | "root-threshold" | "unsigned" => Exit::MissingSignatures,
            _ if problem.status >= 500 => Exit::Unreachable,
            _ => Exit::Refused,
        };
        // Shown on a terminal, whoever speaks in the node's name.
        let Problem { code, status, title, detail } = problem;
        let (code, title) = (sentence(code), sentence(title));
        Self { exit, problem: Problem { code, status, title, detail: paragraph(&detail) } }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.detail)
    }
}

impl Error for Failure {}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        Self::new(Exit::Failed, "key", chain(&error))
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        Self::new(Exit::Failed, "certificate", chain(&error))
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        Self::new(Exit::Usage, "malformed", error.to_string())
    }
}

impl From<Unauthorised> for Failure {
    fn from(error: Unauthorised) -> Self {
        let detail = format!("{error}; nothing was sent");
        match error {
            Unauthorised::BelowThreshold { .. } => {
                let how = "give one --key per person";
                Self::new(Exit::MissingSignatures, "below-threshold", format!("{detail}: {how}"))
            }
            Unauthorised::NoRole { .. } => Self::new(Exit::Refused, "no-role", detail),
            Unauthorised::NoValidSignature(_) => Self::new(Exit::Refused, "no-valid-signature", detail),
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str, status: u16) -> Exit {
        let problem = Problem { code: code.into(), status, title: String::new(), detail: String::new() };
        Failure::answered(problem).exit
    }

    #[test]
    fn every_exit_code_is_its_own_and_in_the_help() {
        for (number, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(exit as usize, number);
            assert!(Exit::help().contains(&format!("  {number}  {}", exit.meaning())));
        }
    }

    #[test]
    fn answers_become_exit_codes() {
        assert_eq!(answered("below-threshold", 403), Exit::MissingSignatures);
        assert_eq!(answered("unsigned", 401), Exit::MissingSignatures);
        assert_eq!(answered("used", 409), Exit::Refused);
        assert_eq!(answered("no-quorum", 503), Exit::Unreachable);
        assert_eq!(answered("pending", 503), Exit::Unreachable);
        assert_eq!(answered("disk-full", 507), Exit::Unreachable);
    }
}
