//! What happens to a node's disk: it is small and full, its writes fail, its bytes flip.

use std::fs::{self, File, OpenOptions};

use rustix::fs::{FallocateFlags, fallocate};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tagout_tests::ran::Ran;

/// An ext4 file system of some MiB in a file, mounted where a node's data lies, in a mount namespace of the node's own: the
/// mount goes with the node, and what it wrote stays in the file.
pub struct SmallDisk {
    image: PathBuf,
    at: PathBuf,
}

/// Whether this machine lets us.
pub fn possible() -> bool {
    let usable = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let unshare = || Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    rustix::process::geteuid().is_root()
        && usable("/dev/loop-control")
        && unshare().is_ok_and(|status| status.success())
}

impl SmallDisk {
    /// Makes the disk, with what lies at `data` now.
    pub fn make(data: &Path, mib: u64) -> Self {
        fs::create_dir_all(data).expect("the data folder");
        let image = data.with_file_name("disk");
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("an image");
        // No blocks that only root could take when it is full.
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-J", "size=1", "-d"]).arg(data).arg(&image);
        Ran::of(&mut make).exits(0);
        Self { image, at: data.into() }
    }

    /// The words before a command that make it see the disk.
    pub fn mounted(&self) -> Vec<String> {
        // The kernel may hold the loop device of a killed node for a moment. Whoever starts a node makes room for it.
        let script = "for _ in $(seq 100); do mount -t ext4 -o loop \"$0\" \"$1\" && rm -f \"$1/filler\" && shift && \
                      exec \"$@\"; sleep 0.1; done";
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
        let paths = [&self.image, &self.at].map(|path| path.display().to_string());
        words.map(String::from).into_iter().chain(paths).collect()
    }

    /// Fills the disk that `filler` lies on with as much as is free on it now. What the node then gives back of its reserve
    /// is left to it: a process that takes that too ends the node, whatever it does.
    pub fn fill(filler: &Path) {
        let file = File::create(filler).unwrap_or_else(|e| panic!("{}: {e}", filler.display()));
        let disk = rustix::fs::statvfs(filler).unwrap_or_else(|e| panic!("{}: {e}", filler.display()));
        let mut left = disk.f_bavail * disk.f_frsize;
        let mut length = 0;
        // Files that large need some blocks for themselves, so that the last of it comes in pieces.
        for step in [1 << 20, 1 << 16, 1 << 12] {
            while left >= step && fallocate(&file, FallocateFlags::empty(), length, step).is_ok() {
                (left, length) = (left - step, length + step);
            }
        }
        let _ = file.sync_all();
    }
}

/// Bytes of a stopped node's file that were flipped, to be put right again.
pub struct Flipped {
    file: PathBuf,
    original: Vec<u8>,
    mode: u32,
}

impl Flipped {
    /// Flips one bit of the byte in the middle of what the file holds.
    pub fn in_the_middle_of(file: &Path) -> Self {
        let original = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        // Preallocated files end with zeros that mean nothing.
        let held = original.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self::at(file, original, held / 2)
    }

    fn at(file: &Path, original: Vec<u8>, at: usize) -> Self {
        let mode = fs::metadata(file).expect("the file").permissions().mode();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let open =
            OpenOptions::new().write(true).open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        open.write_all_at(&[original[at] ^ 0x10], at as u64).expect("the byte is written");
        Self { file: file.into(), original, mode }
    }

    pub fn put_right(self) {
        fs::write(&self.file, &self.original).expect("the file is ours");
        fs::set_permissions(&self.file, fs::Permissions::from_mode(self.mode)).expect("the file is ours");
    }
}

/// The largest file of a name below a folder.
pub fn largest(folder: &Path, wanted: impl Fn(&Path) -> bool) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    let mut largest = None;
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.map(|entry| entry.expect("a folder's entry")) {
            let (path, metadata) = (entry.path(), entry.metadata().expect("its metadata"));
            if metadata.is_dir() {
                folders.push(path);
            } else if wanted(&path) {
                largest = largest.max(Some((metadata.len(), path)));
            }
        }
    }
    largest.unwrap_or_else(|| panic!("{} has no such file", folder.display())).1
}
