//! A session at a terminal that is compared with a golden file, word for word.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::deployment::Deployment;
use crate::ran::Ran;

/// What was typed and said.
pub struct Session<'a> {
    deployment: &'a Deployment,
    golden: PathBuf,
    text: String,
}

impl<'a> Session<'a> {
    /// `golden` is a file of tests/golden, and `title` its first words; `test` names the test that compares.
    pub fn of(deployment: &'a Deployment, golden: &str, title: &str, test: &str) -> Self {
        let text = format!(
            "{title}, as it is typed and answered; <…> stands for what differs from run to run.\n\
             {test} compares; TAGOUT_BLESS=1 writes this file anew.\n"
        );
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(golden);
        Self { deployment, golden, text }
    }

    pub fn says(&mut self, what: &str) {
        write!(self.text, "\n# {what}\n").unwrap();
    }

    /// Something else than a command, and what came of it.
    pub fn shows(&mut self, what: &str, lines: &[String]) {
        write!(self.text, "\n$ {what}\n").unwrap();
        for line in lines {
            writeln!(self.text, "{}", normal(line)).unwrap();
        }
    }

    /// Runs `tagout`, where keys lie below the folder of the deployment.
    #[track_caller]
    pub fn runs(&mut self, arguments: &[&str], code: i32) {
        let ran =
            Ran::of(self.deployment.command(arguments).current_dir(self.deployment.folder())).exits(code);
        let quoted = |word: &&str| if word.contains(' ') { format!("{word:?}") } else { normal(word) };
        let typed = arguments.iter().map(quoted).collect::<Vec<_>>().join(" ");
        write!(self.text, "\n$ tagout {typed}\n").unwrap();
        for line in ran.stdout.lines().chain(ran.stderr.lines()) {
            writeln!(self.text, "{}", normal(line)).unwrap();
        }
        if code != 0 {
            writeln!(self.text, "[exit {code}]").unwrap();
        }
    }

    pub fn compare(&self) {
        if std::env::var_os("TAGOUT_BLESS").is_some() {
            std::fs::write(&self.golden, &self.text).unwrap();
        }
        let expected = std::fs::read_to_string(&self.golden).unwrap_or_default();
        assert!(
            expected == self.text,
            "what is said has changed; look at it, and write it anew with TAGOUT_BLESS=1:\n{}",
            self.text
        );
    }
}

/// Without digests, instants, spans of time, fingerprints, signed documents and the width of columns.
fn normal(line: &str) -> String {
    // Where most of the time of a confirmation went.
    let line = match line.split_once(", most of it ") {
        Some((before, rest)) => {
            let after = &rest[rest.find([',', ';']).unwrap_or(rest.len())..];
            &format!("{before}, most of it <where>{after}")
        }
        None => line,
    };
    let indent = line.len() - line.trim_start().len();
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        if word.starts_with('{') {
            words.push("<document>".into());
            break;
        }
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = bare.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let unit = &bare[digits.len()..];
        let is_span = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && ["ms", "s", "m", "h", "d"].contains(&unit);
        let put = |what: &str| word.replacen(bare, what, 1);
        if bare == "ms" && words.last().is_some_and(|before| before.bytes().all(|b| b.is_ascii_digit())) {
            *words.last_mut().expect("seen above") = "<n>".into();
        }
        // How far the log has grown meanwhile, beside an entry's own place.
        let is_size =
            line.starts_with("in the log: index") && words.last().is_some_and(|before| before == "of");
        let word = if is_size {
            put("<n>")
        } else if word.contains("SHA256:") {
            "(<fingerprint>)".into()
        } else if bare.len() >= 12 && bare.bytes().all(|b| b.is_ascii_hexdigit()) {
            put("<digest>")
        } else if bare.starts_with("20") && bare.ends_with('Z') && bare.contains('T') {
            put("<time>")
        } else if is_span && words.last().is_some_and(|before| before.ends_with("<span>")) {
            // Of two units, such as 59m 59s.
            let rest = word[word.find(bare).expect("its own part") + bare.len()..].to_owned();
            words.last_mut().expect("seen above").push_str(&rest);
            continue;
        } else if is_span {
            put("<span>")
        } else {
            word.into()
        };
        words.push(word);
    }
    format!("{}{}", " ".repeat(indent), words.join(" "))
}
