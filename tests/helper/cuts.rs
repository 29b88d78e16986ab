//! Rounds of: serve the disk, mount it, write to it, cut the power, and see what is still there.
//!
//! Runs in a mount namespace of its own, so that however it ends, no mount outlives it; the loop devices go with the
//! mounts. The disk is served by another process in yet another namespace: a process that waits for a disk which it
//! serves itself cannot even be killed, and the last process of a namespace waits when it unmounts what is left in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tagout_control_plane::raft::STORAGE_FAILED_EXIT_CODE;
use tagout_control_plane::store::StoreKind;
use tagout_tests::process::Process;
use tagout_tests::random::Random;
use tagout_tests::wait::{wait_at_most, wait_for, wait_until};

use crate::careless::Careless;
use crate::disk::DISK;
use crate::log_writer::RaftLog;
use crate::tile_writer::Tiles;

/// What is written to a disk that loses its power.
pub trait Target {
    /// Opens what is in `folder`, or makes it, and goes on writing until the disk fails. Prints `acknowledged <n>`, with
    /// growing numbers, for what from then on may not be lost.
    fn write(&self, folder: &Path, seed: u64, round: u64);

    /// Judges what is in `folder` after the cut, for the same seed and round and the last number that was acknowledged;
    /// says what it found, or what is wrong.
    fn check(
        &mut self,
        folder: &Path,
        seed: u64,
        round: u64,
        acknowledged: Option<u64>,
    ) -> Result<String, String>;
}

pub fn target(name: &str) -> Box<dyn Target> {
    match name {
        "sled" => Box::new(RaftLog::new(StoreKind::Sled)),
        "segment" => Box::new(RaftLog::new(StoreKind::Segment)),
        "tiles" => Box::new(Tiles),
        "careless" => Box::new(Careless),
        _ => panic!("nothing is called {name}"),
    }
}

/// Ends the writer, as a node ends.
pub fn disk_failed<T>(error: io::Error) -> T {
    eprintln!("the disk failed: {error}");
    std::process::exit(STORAGE_FAILED_EXIT_CODE)
}

const IMAGE_BYTES: u64 = 96 << 20;
/// How long a writer may take to notice that its disk is gone.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// After so many cuts, a new disk.
const ROUNDS_A_DISK: u64 = 6;
/// The power goes after at most 2^this writes and flushes.
const REQUESTS_BITS: u64 = 11;

pub fn run(name: &str, folder: &Path, seed: u64, rounds: u64) {
    let (image, copy) = (folder.join("image"), folder.join("copy"));
    let (served, mounted) = (folder.join("served"), folder.join("mounted"));
    for folder in [&served, &mounted] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    // What is mounted at it is mounted in both namespaces.
    command("mount", &["--bind", path(&served), path(&served)]);
    command("mount", &["--make-shared", path(&served)]);
    let mut target = target(name);
    let mut wrong = 0;
    for round in 0..rounds {
        if round % ROUNDS_A_DISK == 0 {
            format(&image);
            target = self::target(name);
        }
        let mut random = Random::new(seed, round);
        let requests = random.magnitude(REQUESTS_BITS);
        // Every other time everything that was not flushed is gone.
        let percent = if round % 2 == 0 { 0 } else { 1 + random.below(99) };

        let mut serve = Command::new("unshare");
        serve.args(["--mount", "--propagation", "unchanged", "--"]).arg(itself());
        let mut disk = Process::spawn("disk", folder, serve.args(["disk", path(&image), path(&served)]));
        disk.wait_for_line("mounted");
        mount(&served.join(DISK), &mounted);
        disk.send(&format!("arm {requests} {} {percent}", random.number()));
        let data = mounted.join("data");
        let write = ["write", name, path(&data), &seed.to_string(), &round.to_string()];
        let mut writer = Process::spawn("writer", folder, Command::new(itself()).args(write));
        let cut = wait_for("the power to go", || {
            let ended = writer.ended();
            disk.line("cut, with").map(Ok).or(ended.map(Err))
        });
        // It has to notice that its disk is gone, and until then it may not acknowledge any more. sled has been seen to hang
        // in a dead disk: there, what it had acknowledged is what counts.
        if name == "sled" && wait_at_most(HANGS_AFTER, || writer.ended()).is_none() {
            println!("note: the writer hung in the dead disk and was killed");
            writer.kill();
        }
        writer.wait();
        let acknowledged = writer.stdout();
        let acknowledged =
            acknowledged.lines().filter_map(|line| line.strip_prefix("acknowledged ")).next_back();
        let acknowledged = acknowledged.map(|n| n.parse().expect("a number"));
        unmount(&mounted);
        unmount(&served);
        drop(disk);

        let found = match &cut {
            Ok(_) => {
                // A copy, so that the next round starts from the cut too: recovery happens on the disk that fails.
                fs::copy(&image, &copy).expect("the image can be copied");
                mount(&copy, &mounted);
                let found = target.check(&data, seed, round, acknowledged);
                unmount(&mounted);
                found
            }
            Err(status) => Err(format!("it gave up ({status}) although the disk was well")),
        };
        let cut = cut.map_or("never cut".into(), |with| format!("cut at request {requests}, with{with}"));
        let told = acknowledged.map_or("nothing".into(), |n| format!("up to {n}"));
        let about = format!("{name}, seed {seed}, round {round}: {cut}; acknowledged {told}");
        match found {
            Ok(found) => println!("ok: {about}; {found}"),
            Err(error) => {
                println!("WRONG: {about}; {error}; the writer said:\n{}", writer.stderr());
                wrong += 1;
                // What comes after on this disk would only repeat it.
                format(&image);
                target = self::target(name);
            }
        }
    }
    println!("{wrong} of {rounds} rounds went wrong");
    std::process::exit(if wrong == 0 { 0 } else { 1 });
}

fn format(image: &Path) {
    let file = File::create(image).expect("an image can be made");
    file.set_len(IMAGE_BYTES).expect("an image can be made larger");
    command("mkfs.ext4", &["-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0", path(image)]);
}

/// With `-o loop` the kernel gives the device up together with the mount.
fn mount(file: &Path, at: &Path) {
    command("mount", &["-t", "ext4", "-o", "loop,errors=remount-ro", path(file), path(at)]);
}

/// The kernel may hold a file of a process for a moment after its end.
fn unmount(at: &Path) {
    wait_until("a file system to be free", || {
        Command::new("umount").arg(at).output().is_ok_and(|output| output.status.success())
    });
}

fn command(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn itself() -> PathBuf {
    std::env::current_exe().expect("a process knows its own path")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test folders have plain names")
}
