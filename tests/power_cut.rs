//! A power cut loses nothing that was acknowledged, and nothing that it leaves behind keeps a node from starting.
//!
//! The disk has a volatile cache, as real ones do, which is lost (see helper/cuts.rs and helper/disk.rs); a killed
//! process would show nothing, since the kernel keeps what it wrote.

use std::process::Command;
use std::time::Duration;

use tagout_tests::process::Process;
use tagout_tests::{bin, skip};

struct Cuts {
    losses: bool,
    printed: String,
}

const QUICK_ROUNDS: u64 = 6;
const LONG_ROUNDS: u64 = 60;

/// The seed is printed and may be given as `TAGOUT_SEED`. The cut comes at the same request then, and what was written
/// is the same; how the writer's and the kernel's threads take turns is not.
fn cut_power(target: &str) -> Cuts {
    let long = std::env::var_os("TAGOUT_LONG").is_some();
    let rounds = if long { LONG_ROUNDS } else { QUICK_ROUNDS };
    let seed = from_env("TAGOUT_SEED").unwrap_or_else(|| getrandom::u32().expect("randomness").into());
    println!("TAGOUT_SEED={seed}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]).arg(bin::helper()).arg("cut-power");
    command.arg(target).arg(folder.path()).args([seed.to_string(), rounds.to_string()]);
    let mut process = Process::spawn(target, folder.path(), &mut command);
    let status = process.wait_within(Duration::from_secs(60 + 20 * rounds));
    let printed = process.stdout();
    println!("{printed}{}", process.stderr());
    assert!(printed.contains(&format!("of {rounds} rounds went wrong")), "it came to no verdict: {status}");
    Cuts { losses: !status.success(), printed }
}

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn disk_is_possible() -> bool {
    let usable = |path: &str| std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok();
    let namespace = || Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success());
    rustix::process::geteuid().is_root() && usable("/dev/fuse") && usable("/dev/loop-control") && namespace()
}

const NO_DISK: &str = "its disk needs root, mount namespaces, /dev/fuse and loop devices";

#[test]
fn the_raft_log_in_sled_keeps_what_it_acknowledged() {
    if !disk_is_possible() {
        skip!("power_cut::the_raft_log_in_sled_keeps_what_it_acknowledged", NO_DISK);
    }
    let cuts = cut_power("sled");
    assert!(!cuts.losses, "{}", cuts.printed);
}

#[test]
fn the_raft_log_in_segment_files_keeps_what_it_acknowledged() {
    if !disk_is_possible() {
        skip!("power_cut::the_raft_log_in_segment_files_keeps_what_it_acknowledged", NO_DISK);
    }
    let cuts = cut_power("segment");
    assert!(!cuts.losses, "{}", cuts.printed);
}

#[test]
fn the_audit_log_keeps_its_checkpoint_and_its_sealed_tiles() {
    if !disk_is_possible() {
        skip!("power_cut::the_audit_log_keeps_its_checkpoint_and_its_sealed_tiles", NO_DISK);
    }
    let cuts = cut_power("tiles");
    assert!(!cuts.losses, "{}", cuts.printed);
}

/// Without this, a disk that never loses anything would pass for stores that never lose anything.
#[test]
fn a_log_that_does_not_sync_is_caught() {
    if !disk_is_possible() {
        skip!("power_cut::a_log_that_does_not_sync_is_caught", NO_DISK);
    }
    let cuts = cut_power("careless");
    assert!(cuts.losses && cuts.printed.contains("WRONG: careless"), "{}", cuts.printed);
}
