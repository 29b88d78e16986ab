//! Samples of where processes are, taken by perf while it is told to.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

pub struct Perf {
    child: Child,
    data: PathBuf,
    orders: File,
    answers: File,
}

impl Perf {
    /// Starts perf beside `pids`; it takes nothing before [`Perf::on`].
    pub fn start(folder: &Path, pids: &[u32]) -> anyhow::Result<Self> {
        let [data, orders, answers] =
            ["data", "orders", "answers"].map(|name| folder.join(format!("perf.{name}")));
        let made = Command::new("mkfifo").args([&orders, &answers]).status()?;
        if !made.success() {
            bail!("mkfifo: {made}");
        }
        let child = Command::new("perf")
            .args([
                "record",
                "-q",
                "-F",
                "499",
                "-e",
                "cpu-clock",
                "--call-graph",
                "dwarf,16384",
                "-D",
                "-1",
                "-p",
            ])
            .arg(pids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
            .arg("--control")
            .arg(format!("fifo:{},{}", orders.display(), answers.display()))
            .arg("-o")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run perf: install linux-perf")?;
        // For reading and writing: opening a pipe for one of them waits for the other end, which perf may never open.
        let open = |path| File::options().read(true).write(true).open(path);
        Ok(Self { child, data, orders: open(&orders)?, answers: open(&answers)? })
    }

    pub fn on(&mut self) -> anyhow::Result<()> {
        self.order("enable\n")
    }

    pub fn off(&mut self) -> anyhow::Result<()> {
        self.order("disable\n")
    }

    fn order(&mut self, order: &str) -> anyhow::Result<()> {
        self.orders.write_all(order.as_bytes())?;
        let mut answer = [0; 5];
        self.answers.read_exact(&mut answer)?;
        if answer != *b"ack\n\0" {
            bail!("perf answers {order:?} with {answer:?}");
        }
        Ok(())
    }

    /// Ends it. The processes must still be there: their symbols are read from them.
    pub fn samples(mut self) -> anyhow::Result<Vec<Sample>> {
        self.order("stop\n")?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("perf record failed: {status}");
        }
        let script = Command::new("perf")
            .args(["script", "--no-inline", "-F", "pid,comm,ip,sym", "-i"])
            .arg(&self.data)
            .stderr(Stdio::null())
            .output()?;
        let samples = parse(&String::from_utf8_lossy(&script.stdout));
        if samples.is_empty() {
            bail!("perf took no samples");
        }
        Ok(samples)
    }
}

/// Where a thread was at one moment.
pub struct Sample {
    pub pid: u32,
    pub thread: String,
    /// The innermost first.
    pub frames: Vec<String>,
}

/// What `perf script -F pid,comm,ip,sym` prints: a thread's name and its process, then a line a frame, then an empty line.
fn parse(script: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for block in script.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.trim().is_empty());
        let Some((thread, pid)) = lines.next().and_then(|line| line.trim().rsplit_once(char::is_whitespace))
        else {
            continue;
        };
        let Ok(pid) = pid.parse() else { continue };
        let frames: Vec<_> = lines
            .filter_map(|line| line.trim().split_once(' ').map(|(_, symbol)| tidy(symbol.trim())))
            .collect();
        if !frames.is_empty() {
            samples.push(Sample { pid, thread: thread.trim().into(), frames });
        }
    }
    samples
}

/// A symbol without hashes, offsets and the longest generics.
fn tidy(symbol: &str) -> String {
    let symbol = symbol.split("+0x").next().unwrap_or(symbol);
    let symbol = match symbol.rsplit_once("::h") {
        Some((rest, hash)) if hash.len() == 16 => rest,
        _ => symbol,
    };
    let mut tidy = String::new();
    let mut depth = 0;
    for c in symbol.chars() {
        match c {
            '<' if !tidy.is_empty() => depth += 1,
            '>' if depth > 0 => depth -= 1,
            _ if depth == 0 => tidy.push(c),
            _ => {}
        }
    }
    tidy.chars().take(110).collect()
}
