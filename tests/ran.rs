//! Commands that ran to their end, and what they said.

use std::process::{Command, Output};

use serde_json::Value;

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    pub what: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub raw: Vec<u8>,
}

impl Ran {
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } =
            command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (what, code) = (format!("{command:?}"), status.code());
        Self { what, code, stdout: text(&stdout), stderr: text(&stderr), raw: stdout }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}:\n{}\n{}", self.what, self.stdout, self.stderr);
        self
    }

    /// The rest of the first line that begins with `start`.
    #[track_caller]
    pub fn line(&self, start: &str) -> String {
        let found = self.stdout.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{}", self.stdout)).into()
    }

    /// The rest of the table row that begins with `name`.
    #[track_caller]
    pub fn row(&self, name: &str) -> String {
        self.line(&format!("  {name} ")).trim_start().into()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{}: {e}: {}", self.what, self.stdout))
    }

    /// What curl printed: the body and, after it, the status.
    #[track_caller]
    pub fn answer(&self) -> (Value, String) {
        let (body, status) = self.stdout.trim_end().rsplit_once('\n').expect("a body and a status");
        let body = body.lines().next_back().expect("a body");
        (serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {}", self.stdout)), status.into())
    }

    #[track_caller]
    pub fn created(&self) -> Value {
        let (body, status) = self.answer();
        assert_eq!((status.as_str(), &body["repeated"]), ("201", &false.into()), "{body}");
        body
    }
}
