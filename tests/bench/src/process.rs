//! Node processes: started, measured, killed; none of them outlives the benchmark.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running node. Dropped, it is killed.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it with its output appended to `<folder>/<name>.log`.
    pub fn spawn(name: &str, folder: &Path, program: &Path, arguments: &[String]) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&log)?;
        // setpriv becomes the program, under the same id.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}: is setpriv of util-linux installed?"))?;
        Ok(Self { name: name.into(), child })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, without waiting for it to be gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill()?)
    }

    /// Waits until it is gone.
    pub fn reap(&mut self) -> anyhow::Result<()> {
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > Duration::from_secs(60) {
                bail!("{} did not end within 60 s", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn ended(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status}); its output is in {}.log", self.name, self.name),
            None => Ok(()),
        }
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // Behind the name, which may hold anything: state is field 3, utime 14 and stime 15 (proc(5)).
        let (_, rest) = stat.rsplit_once(") ").context("/proc/…/stat has an unknown form")?;
        let ticks: u64 = rest.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap_or(0)).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    pub fn resident_kib(&self) -> u64 {
        resident_kib(self.id())
    }
}

pub fn resident_kib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its id stays ours until it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a folder takes on the disk, in bytes: allocated blocks.
pub fn disk_bytes(path: &Path) -> anyhow::Result<u64> {
    let metadata = match path.symlink_metadata() {
        // The node tidies while we look.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        metadata => metadata?,
    };
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}
