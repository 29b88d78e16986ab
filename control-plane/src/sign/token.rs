//! A key whose private half is in a FIDO2 token. Its file holds only a handle; OpenSSH's own `ssh-keygen -Y sign`
//! knows how to talk to tokens, so the handle goes to it.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SignError;

/// A handle in a file, and the program that can use it.
#[derive(Debug)]
pub(super) struct Token {
    path: PathBuf,
    program: PathBuf,
}

impl Token {
    pub(super) fn at(path: PathBuf, program: Option<PathBuf>) -> Self {
        Self { path, program: program.unwrap_or_else(|| "ssh-keygen".into()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The armored signature, as `ssh-keygen` made it.
    pub(super) fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, SignError> {
        let mut child = Command::new(&self.program)
            .args(["-Y", "sign", "-q", "-n", namespace, "-f"])
            .arg(&self.path)
            // An agent was asked before, and would only refuse again.
            .env_remove("SSH_AUTH_SOCK")
            // A PIN is asked for on the terminal, although standard input is the document.
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| SignError::NoSshKeygen { path: self.path.clone(), source })?;
        // If it is gone already, then what it said tells why.
        let _ = child.stdin.take().expect("it is piped").write_all(message);
        let failed = |said: String| SignError::TokenFailed { path: self.path.clone(), said };
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(reason(&output.stderr)));
        }
        String::from_utf8(output.stdout).map_err(|_| failed("its answer is no text".to_owned()))
    }
}

/// Whether there is a terminal on which `ssh-keygen` can ask. Without one it would take the document's first line
/// for the PIN, and a token locks itself after a few wrong ones.
pub(super) fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok_and(|tty| tty.is_terminal())
}

/// Tells whoever waits that the next move is theirs.
pub(super) fn call_for_touch(fingerprint: &str, comment: &str) {
    let comment = if comment.is_empty() { String::new() } else { format!(" ({comment})") };
    let _ = writeln!(io::stderr(), "touch your security key {fingerprint}{comment} when it blinks");
}

/// The last thing that `ssh-keygen` said, which names the cause, fit for a terminal.
fn reason(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let says = |line: &&str| !line.trim().is_empty() && !line.starts_with("Confirm user presence");
    let last = text.lines().rfind(says).unwrap_or("nothing");
    last.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}
