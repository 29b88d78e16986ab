//! S10 on a disk that fills up: what gives is refused in time, stops go on out of the reserve, and beyond it they are pushed
//! and honestly refused. At each stage the node is killed and started again.
//!
//! The disk is an ext4 image, mounted where only the node sees it; the test reaches it through the node's /proc/PID/root.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tagout_control_plane::reserve::{WATERMARK_BYTES, WORKING_BYTES, cost_bytes};
use tagout_control_plane::store::StoreKind;
use tagout_proto::command::{Action, LockCommand};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::REASON_MAX_BYTES;
use tagout_proto::lock::LockKind;
use tagout_proto::wire::{CommandAnswer, Locks, Problem, StopReach};
use tagout_tests::deployment::{Choice, Deployment, Listener, PEOPLE, parse, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::receiver::{self, Receiver};
use tagout_tests::wait::wait_until;
use tagout_tests::{bin, skip};

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 128 * MIB;
/// The reserve for stops, as the deployment's configuration has it.
const RESERVE_BYTES: u64 = MIB;
/// What is left so that the disk is low, and the reserve untouched.
const LOW_BYTES: u64 = WATERMARK_BYTES - 4 * MIB;

#[test]
fn s10_a_full_disk_takes_stops_from_its_reserve_on_sled() {
    if !disk_is_possible() {
        skip!("full_disk::s10_a_full_disk_takes_stops_from_its_reserve_on_sled", NO_DISK);
    }
    fill(StoreKind::Sled);
}

#[test]
fn s10_a_full_disk_takes_stops_from_its_reserve_on_the_segment_file() {
    if !disk_is_possible() {
        skip!("full_disk::s10_a_full_disk_takes_stops_from_its_reserve_on_the_segment_file", NO_DISK);
    }
    fill(StoreKind::Segment);
}

const NO_DISK: &str = "its disk needs root, mount namespaces and loop devices";

fn disk_is_possible() -> bool {
    let usable = |path: &str| File::options().read(true).write(true).open(path).is_ok();
    let namespace = || Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|s| s.success());
    rustix::process::geteuid().is_root() && usable("/dev/loop-control") && namespace()
}

struct FullDisk {
    deployment: Deployment,
    image: PathBuf,
    runtime: tokio::runtime::Runtime,
    /// Who is told of every stop, whatever the disk is like.
    soc: Receiver,
}

impl FullDisk {
    fn start(store: StoreKind) -> Self {
        let deployment = Deployment::make(Choice { store, ..Choice::default() });
        let soc = Receiver::start();
        receiver::configure(&deployment, 1, &receiver::entry("soc", &soc.url(), "events = ['tightening']"));
        let image = deployment.folder().join("disk.ext4");
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        // With what the folder of a new node holds already.
        std::fs::create_dir_all(deployment.data()).unwrap();
        let mut make = Command::new("mkfs.ext4");
        let made = make.args(["-q", "-F", "-m", "0", "-d"]).arg(deployment.data()).arg(&image).status();
        assert!(made.is_ok_and(|status| status.success()));
        let mut disk = Self { deployment, image, runtime: runtime(), soc };
        disk.serve();
        disk
    }

    /// Runs the node on its disk, which is mounted for it alone and gone with it.
    fn serve(&mut self) {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
        command.arg("mount -o loop \"$1\" \"$2\" && exec \"$3\" serve --config \"$4\"").arg("sh");
        command.arg(&self.image).arg(self.deployment.data()).arg(bin::tagout()).arg(self.deployment.config());
        self.deployment.start_node_as(&mut command);
    }

    /// `kill -9`, and again: everything that was acknowledged is still there.
    fn restart(&mut self, acknowledged: &[Digest]) {
        self.deployment.kill_node();
        self.serve();
        let http = self.deployment.http();
        let locks: Locks = self.runtime.block_on(self.deployment.get(&http, "/v1/locks"));
        let lost = acknowledged.iter().filter(|id| !locks.locks.iter().any(|record| record.lock.id == **id));
        assert_eq!(lost.count(), 0, "of {} acknowledged", acknowledged.len());
    }

    /// The node's folder, as the node sees it.
    fn data(&self) -> PathBuf {
        let data = std::path::absolute(self.deployment.data()).unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", self.deployment.node_id()));
        root.join(data.strip_prefix("/").unwrap())
    }

    fn free_bytes(&self) -> u64 {
        let disk = statvfs(self.data()).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Fills the disk, but for so much beside the reserve.
    fn fill(&self, but_bytes: u64) {
        let path = self.data().join("filler");
        let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
        let mut length = file.metadata().unwrap().len();
        // Files that large need some blocks for themselves, so that the last of it comes in pieces.
        for step in [MIB, 64 * 1024, 4096] {
            while self.free_bytes() >= but_bytes + step
                && fallocate(&file, FallocateFlags::empty(), length, step).is_ok()
            {
                length += step;
            }
        }
        file.sync_all().unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.data().join("filler")).unwrap();
    }

    fn submit(&self, envelope: &Envelope) -> Result<CommandAnswer, Problem> {
        self.runtime.block_on(async { self.deployment.submit(&self.deployment.http(), envelope).await })
    }

    fn stop(&self, n: usize) -> Envelope {
        let (scope, kind, reason) =
            (parse(&format!("full/{n}")), LockKind::Halt, "x".repeat(REASON_MAX_BYTES));
        self.deployment.envelope(&["alice"], &Action::Lock(LockCommand { scope, kind, reason, case: None }))
    }

    /// A grant is what gives: it is taken on a disk with room only.
    fn gives(&self) -> Result<CommandAnswer, Problem> {
        self.runtime.block_on(async {
            let http = self.deployment.http();
            let grant = self.deployment.grant_for("given").await;
            self.deployment.submit(&http, &self.deployment.envelope(&PEOPLE, &grant)).await
        })
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.runtime.block_on(async {
            let answer = self.deployment.http().get(self.deployment.url("/metrics")).send().await.unwrap();
            answer.text().await.unwrap()
        });
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name}: {text}"));
        line.trim().parse::<f64>().unwrap() as u64
    }
}

fn fill(store: StoreKind) {
    let mut disk = FullDisk::start(store);
    let mut acknowledged = Vec::new();
    disk.gives().expect("there is room");
    let held = disk.metric("tagout_reserve_target_bytes");
    assert_eq!(std::fs::metadata(disk.data().join("reserve")).unwrap().len(), held);

    // Low: what gives is refused, in words that say what to do; what takes away is taken.
    disk.fill(LOW_BYTES);
    for restarted in [false, true] {
        if restarted {
            disk.restart(&acknowledged);
        }
        let refused = disk.gives().expect_err("the disk is low");
        assert_eq!((refused.code.as_str(), refused.status), ("disk-low", 507), "{}", refused.detail);
        assert!(refused.detail.contains("free space"), "{}", refused.detail);
        let n = acknowledged.len();
        acknowledged.push(disk.submit(&disk.stop(n)).expect("a stop").digest);
        assert_eq!(disk.metric("tagout_reserve_bytes"), held, "it is not touched yet");
    }

    // To the last block: stops are taken out of the reserve, at least as many as it was counted for.
    disk.fill(0);
    let cost = cost_bytes(disk.stop(0).document.len() + disk.stop(0).signatures[0].len() + 64);
    let counted = (RESERVE_BYTES / cost) as usize;
    let before = acknowledged.len();
    let full = loop {
        let taken = acknowledged.len() - before;
        if taken == counted / 2 {
            disk.restart(&acknowledged);
        }
        match disk.submit(&disk.stop(acknowledged.len())) {
            Ok(answer) => acknowledged.push(answer.digest),
            Err(problem) => break problem,
        }
        assert!(taken < 20 * counted, "it never fills");
    };
    let taken = acknowledged.len() - before;
    println!("{store:?}: a reserve for {counted} stops of {cost} bytes took {taken}");
    assert!(taken >= counted, "{taken} of {counted} stops: {}", full.detail);
    assert_eq!((full.code.as_str(), full.status), ("disk-full", 507), "{}", full.detail);
    assert!(full.detail.contains("NOT kept"), "{}", full.detail);

    // At the edge a stop may still fit in what the audit log has just tidied; others take that too.
    disk.fill(WORKING_BYTES - MIB);

    // Full: nothing is acknowledged, and a stop is pushed all the same.
    for restarted in [false, true] {
        if restarted {
            disk.restart(&acknowledged);
        }
        let mut guard = disk.runtime.block_on(Listener::start(&disk.deployment, "full"));
        let stop = disk.stop(1_000_000);
        assert_eq!(disk.submit(&stop).expect_err("the disk is full").code, "disk-full");
        assert_eq!(disk.runtime.block_on(guard.hear_stop(&stop)), None, "pushed by its signatures");
        assert_eq!(disk.gives().expect_err("the disk is full").code, "disk-low");
    }
    let said =
        Ran::of(&mut disk.deployment.command(&["stop", "full/person", "--reason", "by hand"])).exits(6);
    assert!(said.stdout.contains("PUSHED ONLY"), "{said:?}");

    // Space returns: the reserve grows back, all is taken again, and the outcomes that had to wait are appended.
    disk.empty();
    wait_until("the reserve to grow back", || disk.metric("tagout_reserve_bytes") == held);
    wait_until("the disk to have room", || disk.metric("tagout_disk_state{state=\"enough\"}") == 1);
    disk.gives().expect("there is room again");
    acknowledged.push(disk.submit(&disk.stop(1_000_001)).expect("a stop").digest);
    let last = acknowledged.last().expect("one was taken");
    wait_until("the outcome", || {
        let reach: StopReach = disk.runtime.block_on(async {
            let path = format!("/v1/locks/{last}/reach");
            disk.deployment.get(&disk.deployment.http(), &path).await
        });
        reach.outcome_index.is_some()
    });
    disk.restart(&acknowledged);
    wait_until("everybody to be told of every stop", || disk.soc.taken().len() >= acknowledged.len());
    let told = disk.soc.entries();
    assert!(told.len() == acknowledged.len() && told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
    assert_eq!(disk.metric("tagout_reserve_bytes"), held);
    let verified = Ran::of(&mut disk.deployment.command(&["log", "verify"])).exits(0);
    println!("{}", verified.stdout);
}
