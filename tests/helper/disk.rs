//! A disk with a volatile cache, whose power can be cut: a file system with one file, for a loop device.
//!
//! A write stays in memory until a flush, and only then goes to the image. At the cut the image gets some of what was
//! not flushed, in no order, sector by sector, and for a sector that was written several times any of these contents:
//! all of this a drive may do. From then on everything fails. What a request answered before is thus decided in the
//! same instant as what the disk still has after.
//!
//! Controlled by lines on the standard input: `arm <requests> <seed> <percent>` cuts the power at the so-manieth write
//! or flush from now on, where each unflushed sector survives with this chance. Prints `mounted`, and `cut …`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use tagout_tests::random::Random;

/// The file in the folder that `serve` mounts.
pub const DISK: &str = "disk";

const SECTOR_BYTES: usize = 512;
/// The file system's.
const SECTORS_PER_BLOCK: u64 = 8;
/// How jbd2's control blocks begin, its superblock among them.
const JOURNAL_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];
type Sector = [u8; SECTOR_BYTES];

/// Serves `image` as `<folder>/disk` until the standard input ends.
pub fn serve(image: &Path, folder: &Path) {
    let image = OpenOptions::new().read(true).write(true).open(image).expect("the image can be opened");
    let size = image.metadata().expect("the image has a size").len();
    let power = Power { image, unflushed: BTreeMap::new(), armed: None, off: false };
    let disk = Disk { power: Arc::new(Mutex::new(power)), size };
    let power = disk.power.clone();
    let session = fuser::spawn_mount(disk, folder, &fuser::Config::default());
    let session = session.expect("the disk can be mounted");
    println!("mounted");

    for line in io::stdin().lines() {
        let line = line.expect("standard input can be read");
        let words: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().expect("a number")).collect();
        let [requests, seed, percent] = words[..] else { panic!("what is {line:?}?") };
        lock(&power).armed = Some(Armed { requests, random: Random::new(seed, 0), percent });
    }
    // Whoever used this disk has unmounted it or is dead. Nothing is left to be waited for.
    std::mem::forget(session);
    std::process::exit(0);
}

struct Power {
    image: File,
    /// By sector: what was written since the last flush, oldest first.
    unflushed: BTreeMap<u64, Vec<Sector>>,
    armed: Option<Armed>,
    off: bool,
}

struct Armed {
    requests: u64,
    random: Random,
    percent: u64,
}

impl Power {
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        if self.off {
            return Err(io::ErrorKind::Other.into());
        }
        let mut bytes = vec![0; length];
        self.image.read_exact_at(&mut bytes, offset)?;
        let first = sector_of(offset);
        for (sector, versions) in self.unflushed.range(first..first + (length / SECTOR_BYTES) as u64) {
            let at = (sector - first) as usize * SECTOR_BYTES;
            bytes[at..at + SECTOR_BYTES].copy_from_slice(versions.last().expect("a version per write"));
        }
        Ok(bytes)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.off {
            let (sectors, rest) = data.as_chunks::<SECTOR_BYTES>();
            assert!(rest.is_empty(), "a loop device writes whole sectors");
            for (sector, content) in (sector_of(offset)..).zip(sectors) {
                self.unflushed.entry(sector).or_default().push(*content);
            }
        }
        self.count()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.count()?;
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            let newest = versions.last().expect("a version per write");
            self.image.write_all_at(newest, sector * SECTOR_BYTES as u64)?;
        }
        Ok(())
    }

    /// Fails for the request at which the power goes, and for all after it.
    fn count(&mut self) -> io::Result<()> {
        if let Some(armed) = &mut self.armed {
            armed.requests -= 1;
            if armed.requests == 0 {
                let armed = self.armed.take().expect("it is armed");
                self.cut(armed)?;
            }
        }
        if self.off { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    /// Keeps some sectors, each as it was at some moment since the last flush. Only the file system's own superblocks
    /// are kept or lost whole: ext4 does not mount again when half of one is new, and that is no fault of a store.
    fn cut(&mut self, Armed { mut random, percent, .. }: Armed) -> io::Result<()> {
        self.off = true;
        let (unflushed, mut kept) = (self.unflushed.len(), 0);
        let (mut whole, mut survives, mut moment) = (None, false, 0);
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            let block = sector / SECTORS_PER_BLOCK;
            let first = sector % SECTORS_PER_BLOCK == 0;
            let journal = first && versions.iter().any(|v| v.starts_with(&JOURNAL_MAGIC));
            if whole != Some(block) {
                whole = (block == 0 || journal).then_some(block);
                survives = random.below(100) < percent;
                moment = random.below(1 << 16);
            }
            if survives {
                // Sectors that were always written together have equally many versions, and so keep the same one.
                let version = versions[((moment * versions.len() as u64) >> 16) as usize];
                self.image.write_all_at(&version, sector * SECTOR_BYTES as u64)?;
                kept += 1;
            }
        }
        println!("cut, with {unflushed} sectors not flushed, of which {kept} survive");
        Ok(())
    }
}

fn sector_of(offset: u64) -> u64 {
    assert_eq!(offset % SECTOR_BYTES as u64, 0, "a loop device works on whole sectors");
    offset / SECTOR_BYTES as u64
}

struct Disk {
    power: Arc<Mutex<Power>>,
    size: u64,
}

fn lock(power: &Mutex<Power>) -> MutexGuard<'_, Power> {
    power.lock().expect("no holder of this lock panics")
}

const FOREVER: Duration = Duration::from_secs(1 << 30);
const FILE: INodeNo = INodeNo(2);

impl Disk {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = if inode == FILE {
            (FileType::RegularFile, 0o600, self.size)
        } else {
            (FileType::Directory, 0o700, 0)
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / SECTOR_BYTES as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == DISK {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(length).min(self.size.saturating_sub(offset));
        match lock(&self.power).read(offset, length as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.power).write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match lock(&self.power).flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    /// On close, which promises nothing.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
