//! Child processes that do not outlive their test.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{DEADLINE, wait_for, wait_within};

/// A running program with its output in files. Dropped, it is killed; in a test that fails, its output is shown.
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts it, with `<name>.out` and `<name>.err` in `folder`. Its input stays open for as long as this lives.
    pub fn spawn(name: &str, folder: &Path, command: &mut Command) -> Self {
        let (stdout, stderr) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let file = |path: &Path| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let child = command
            .stdin(Stdio::piped())
            .stdout(file(&stdout))
            .stderr(file(&stderr))
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        Self { name: name.into(), child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its input.
    pub fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("its input is a pipe");
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("cannot write to {}: {e}", self.name));
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The rest of the first whole line so far that begins with `start`.
    pub fn line(&self, start: &str) -> Option<String> {
        let stdout = self.stdout();
        let mut lines = stdout.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.find_map(|line| line.strip_prefix(start)).map(str::to_owned)
    }

    /// Waits for such a line.
    #[track_caller]
    pub fn wait_for_line(&mut self, start: &str) -> String {
        wait_for(&format!("{} to print {start:?}", self.name), || {
            // Looked at first: what it printed before its end must be found.
            let ended = self.ended();
            let found = self.line(start);
            if let (None, Some(status)) = (&found, ended) {
                panic!("{} ended ({status}) before it printed {start:?}", self.name);
            }
            found
        })
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(DEADLINE)
    }

    #[track_caller]
    pub fn wait_within(&mut self, deadline: Duration) -> ExitStatus {
        wait_within(deadline, &format!("{} to end", self.name), || self.ended())
    }

    /// Waits for it to end well.
    #[track_caller]
    pub fn succeed(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{} failed: {status}", self.name);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // Its id stays ours until it is waited for, so no other process can be hit.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                eprintln!("--- {stream} of {}:\n{}", self.name, tail(&text));
            }
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

const SHOWN_LINES: usize = 60;

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// The memory that a process holds (Linux), in KiB; 0 elsewhere.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
