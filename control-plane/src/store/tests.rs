//! What every store must do, against a model; and what each must refuse.

use proptest::prelude::*;

use super::*;

type Opener = fn(&Path) -> Result<Box<dyn LogDisk>, StoreError>;

fn sled(path: &Path) -> Result<Box<dyn LogDisk>, StoreError> {
    Ok(Box::new(SledDisk::open(path)?))
}

/// With segments so small that a few commits fill one.
fn segment(path: &Path) -> Result<Box<dyn LogDisk>, StoreError> {
    Ok(Box::new(SegmentDisk::with_segment_bytes(path, 4096)?))
}

const STORES: [Opener; 2] = [sled, segment];

fn entry(index: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (index as usize * 31 + n * 7) as u8 | 1).collect()
}

fn append(index: u64, bytes: usize) -> Op {
    Op::Append { index, entry: entry(index, bytes) }
}

fn purge(index: u64) -> Op {
    Op::Purge(Purged { index, id: format!("id {index}").into_bytes() })
}

/// A step of a history, which the model turns into a valid operation.
#[derive(Clone, Debug)]
enum Step {
    Append {
        entry_bytes: Vec<usize>,
    },
    /// Keeps this share of the entries, in 256ths.
    Truncate(u8),
    TruncateAll,
    /// Up to this share of the entries, in 256ths, and then this much further.
    Purge(u8, u64),
    Vote(Vec<u8>),
    Committed(Option<Vec<u8>>),
    Identity(Vec<u8>),
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0usize..200, 2 => 3000usize..9000, 1 => Just(4084), 1 => Just(4085)];
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        8 => proptest::collection::vec(size, 1..5).prop_map(|entry_bytes| Step::Append { entry_bytes }),
        2 => any::<u8>().prop_map(Step::Truncate),
        1 => Just(Step::TruncateAll),
        3 => (any::<u8>(), prop_oneof![8 => Just(0u64), 1 => 0u64..4]).prop_map(|(share, on)| Step::Purge(share, on)),
        2 => bytes().prop_map(Step::Vote),
        2 => proptest::option::of(bytes()).prop_map(Step::Committed),
        1 => bytes().prop_map(Step::Identity),
        6 => Just(Step::Commit),
        2 => Just(Step::Reopen),
    ]
}

/// The plainest thing that does what a store promises.
#[derive(Default)]
struct Model {
    held: Loaded,
}

impl Model {
    fn ops(&mut self, step: &Step) -> Vec<Op> {
        let first = self.held.first_index();
        let entries = self.held.entries.len() as u64;
        let share = |of: u8| entries * u64::from(of) / 256;
        match step {
            Step::Append { entry_bytes } => {
                let ops: Vec<Op> = (first + entries..).zip(entry_bytes).map(|(i, n)| append(i, *n)).collect();
                for op in &ops {
                    let Op::Append { index, entry } = op else { unreachable!() };
                    self.held.entries.insert(*index, entry.clone());
                }
                ops
            }
            Step::Truncate(kept) => {
                // Index 0 has nothing before it to keep.
                let Some(last) = (first + share(*kept)).checked_sub(1) else { return vec![] };
                self.held.entries.retain(|index, _| *index <= last);
                vec![Op::TruncateAfter(Some(last))]
            }
            Step::TruncateAll => {
                self.held.entries.clear();
                vec![Op::TruncateAfter(None)]
            }
            Step::Purge(of, on) => {
                let index = first + share(*of) + on;
                self.held.entries.retain(|i, _| *i > index);
                let op = purge(index);
                let Op::Purge(purged) = &op else { unreachable!() };
                self.held.purged = Some(purged.clone());
                vec![op]
            }
            Step::Vote(bytes) => {
                self.held.vote = Some(bytes.clone());
                vec![Op::SaveVote(bytes.clone())]
            }
            Step::Committed(bytes) => {
                self.held.committed = bytes.clone();
                vec![Op::SaveCommitted(bytes.clone())]
            }
            Step::Identity(bytes) => {
                self.held.identity = Some(bytes.clone());
                vec![Op::SaveIdentity(bytes.clone())]
            }
            Step::Commit | Step::Reopen => vec![],
        }
    }
}

fn follows_the_model(open: Opener, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut disk = open(&path).unwrap();
    let mut model = Model::default();
    let mut ops = Vec::new();
    for step in steps.iter().chain([&Step::Reopen]) {
        ops.extend(model.ops(step));
        if matches!(step, Step::Commit | Step::Reopen) {
            disk.commit(&ops).unwrap();
            ops.clear();
        }
        if matches!(step, Step::Reopen) {
            drop(disk);
            disk = open(&path).unwrap();
            assert_eq!(disk.load().unwrap(), model.held);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn sled_follows_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        follows_the_model(sled, &steps);
    }

    #[test]
    fn segment_follows_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        follows_the_model(segment, &steps);
    }
}

#[test]
fn a_new_store_is_empty_and_a_full_one_comes_back_whole() {
    for open in STORES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/log");
        let disk = open(&path).unwrap();
        assert!(disk.load().unwrap().is_empty());
        disk.commit(&[]).unwrap();
        disk.commit(&[Op::SaveIdentity(vec![1]), Op::SaveVote(vec![2]), append(0, 10)]).unwrap();
        disk.commit(&[append(1, 65_535), Op::SaveCommitted(Some(vec![3])), append(2, 0)]).unwrap();
        let held = disk.load().unwrap();
        drop(disk);
        let found = open(&path).unwrap().load().unwrap();
        assert_eq!(found, held);
        assert_eq!(
            (found.identity, found.vote, found.committed),
            (Some(vec![1]), Some(vec![2]), Some(vec![3]))
        );
        assert_eq!(
            found.entries.into_values().collect::<Vec<_>>(),
            [entry(0, 10), entry(1, 65_535), entry(2, 0)]
        );
    }
}

#[test]
fn a_hole_in_the_log_is_refused_before_it_is_written() {
    for open in STORES {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(&dir.path().join("log")).unwrap();
        let error = disk.commit(&[append(0, 1), append(2, 1)]).unwrap_err();
        assert_eq!(error.to_string(), "entry 2 does not follow entry 0");
        assert!(disk.load().unwrap().is_empty());
    }
}

#[test]
fn a_store_is_open_once() {
    for open in STORES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _held = open(&path).unwrap();
        assert!(matches!(open(&path).err().unwrap(), StoreError::InUse { .. }));
    }
}

mod kinds {
    use super::*;

    fn filled(kind: StoreKind, path: &Path) -> Loaded {
        let disk = open(kind, path).unwrap();
        let mut ops = vec![Op::SaveIdentity(vec![9]), Op::SaveVote(vec![8]), purge(4)];
        ops.extend((5..900).map(|index| append(index, 50)));
        ops.push(Op::SaveCommitted(Some(vec![7])));
        disk.commit(&ops).unwrap();
        disk.load().unwrap()
    }

    #[test]
    fn the_log_moves_with_the_configuration_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let held = filled(StoreKind::Sled, dir.path());
        for kind in [StoreKind::Segment, StoreKind::Segment, StoreKind::Sled] {
            assert_eq!(open(kind, dir.path()).unwrap().load().unwrap(), held);
            let folders = BOTH.into_iter().filter(|k| dir.path().join(k.name()).exists());
            assert_eq!(folders.collect::<Vec<_>>(), [kind]);
        }
    }

    #[test]
    fn a_move_that_a_crash_stopped_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let held = filled(StoreKind::Sled, dir.path());
        // The crash came before CURRENT changed: the new store has some of the entries.
        StoreKind::Segment.open(dir.path()).unwrap().commit(&[Op::SaveVote(vec![1]), append(0, 5)]).unwrap();
        assert_eq!(open(StoreKind::Segment, dir.path()).unwrap().load().unwrap(), held);
        // It came after: the old one is still there, and is not asked again.
        StoreKind::Sled.open(dir.path()).unwrap().commit(&[Op::SaveVote(vec![1])]).unwrap();
        assert_eq!(open(StoreKind::Sled, dir.path()).unwrap().load().unwrap(), held);
    }

    #[test]
    fn a_log_that_is_gone_is_never_replaced_by_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        filled(StoreKind::Segment, dir.path());
        let current = dir.path().join("CURRENT");
        fs::rename(dir.path().join("segment"), dir.path().join("elsewhere")).unwrap();
        for kind in BOTH {
            let error = open(kind, dir.path()).err().unwrap();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        }
        fs::rename(dir.path().join("elsewhere"), dir.path().join("segment")).unwrap();
        fs::remove_file(&current).unwrap();
        for kind in BOTH {
            let error = open(kind, dir.path()).err().unwrap().to_string();
            assert!(error.contains("CURRENT is damaged: it is gone, but segment holds a log"), "{error}");
            assert!(error.contains("with part of its log gone it must not vote"), "{error}");
        }
    }

    #[test]
    fn a_first_start_that_crashed_is_a_first_start_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(StoreKind::Sled.open(dir.path()).unwrap());
        assert!(open(StoreKind::Segment, dir.path()).unwrap().load().unwrap().is_empty());
        assert!(!dir.path().join("sled").exists());
    }

    #[test]
    fn the_configuration_says_it_in_lower_case() {
        assert_eq!(serde_json::from_str::<StoreKind>("\"sled\"").unwrap(), StoreKind::Sled);
        assert_eq!(serde_json::from_str::<StoreKind>("\"segment\"").unwrap(), StoreKind::Segment);
        assert_eq!(StoreKind::default(), StoreKind::Sled);
    }
}

mod segments {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A store of one segment, its file, and where each of its commits ends.
    struct Written {
        dir: tempfile::TempDir,
        file: PathBuf,
        ends: Vec<usize>,
        held: Vec<Loaded>,
    }

    impl Written {
        fn path(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn open(&self) -> Result<SegmentDisk, StoreError> {
            SegmentDisk::with_segment_bytes(&self.path(), 1 << 16)
        }
    }

    /// `last_bytes`: how large the last commit's entry is.
    fn written(last_bytes: usize) -> Written {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = path.join(format!("{:020}.seg", 0));
        let disk = SegmentDisk::with_segment_bytes(&path, 1 << 16).unwrap();
        let (mut ends, mut held) = (Vec::new(), Vec::new());
        for op in [Op::SaveVote(entry(1, 30)), append(0, 700), append(1, 100), append(2, last_bytes)] {
            disk.commit(&[op]).unwrap();
            let bytes = fs::read(&file).unwrap();
            ends.push((bytes.iter().rposition(|b| *b != 0).unwrap() + 1).next_multiple_of(8));
            held.push(disk.load().unwrap());
        }
        Written { dir, file, ends, held }
    }

    #[test]
    fn a_torn_last_commit_is_cut_whichever_sectors_reached_the_disk() {
        let store = written(1800);
        let whole = fs::read(&store.file).unwrap();
        let (start, end) = (store.ends[2], store.ends[3]);
        let sectors: Vec<(usize, usize)> = (start / 512..end.div_ceil(512))
            .map(|s| ((s * 512).max(start), ((s + 1) * 512).min(end)))
            .collect();
        assert!(sectors.len() >= 4);
        for reached in 0..(1u32 << sectors.len()) {
            let mut torn = whole.clone();
            for (n, (from, to)) in sectors.iter().enumerate() {
                if reached & (1 << n) == 0 {
                    torn[*from..*to].fill(0);
                }
            }
            fs::write(&store.file, &torn).unwrap();
            let disk = store.open().unwrap();
            let all = reached == (1 << sectors.len()) - 1;
            assert_eq!(disk.load().unwrap(), store.held[if all { 3 } else { 2 }], "sectors {reached:b}");
            if !all {
                // What follows is written over clean ground.
                disk.commit(&[append(2, 40)]).unwrap();
                drop(disk);
                assert_eq!(store.open().unwrap().load().unwrap().entries[&2], entry(2, 40));
            }
        }
    }

    #[test]
    fn a_flipped_byte_never_loses_a_commit() {
        let store = written(90);
        let whole = fs::read(&store.file).unwrap();
        let end = store.ends[3];
        let mut refused = 0;
        for at in (0..end + 600).chain([whole.len() - 1]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            fs::write(&store.file, &flipped).unwrap();
            match store.open().and_then(|disk| disk.load().map_err(StoreError::io("load", &store.file))) {
                Ok(loaded) => assert_eq!(loaded, store.held[3], "byte {at}"),
                Err(StoreError::Damaged { path, what }) => {
                    refused += 1;
                    assert_eq!(path, store.file);
                    assert!(what.starts_with("at byte "), "{what}");
                }
                Err(StoreError::NewerFormat { .. }) => assert!((8..12).contains(&at), "byte {at}"),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        // All but the padding, which carries nothing.
        assert!(refused > end - 64 - 8 * 4, "{refused} of {end}");
    }

    #[test]
    fn damage_before_the_tail_names_the_file_and_the_offset() {
        let store = written(90);
        let file = fs::OpenOptions::new().write(true).open(&store.file).unwrap();
        file.write_all_at(&[0; 512], 512).unwrap();
        let error = store.open().err().unwrap().to_string();
        let expected = format!(
            "{} is damaged: at byte {}, a commit does not read back, and",
            store.file.display(),
            store.ends[0]
        );
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.contains("with part of its log gone it must not vote"), "{error}");
    }

    #[test]
    fn an_entry_that_carries_a_frame_is_not_taken_for_one() {
        // A later commit of another store, byte for byte as this store would write it but for the salt.
        let other = written(90);
        other.open().unwrap().commit(&[append(3, 200)]).unwrap();
        let frame = fs::read(&other.file).unwrap()[other.ends[3]..][..256].to_vec();

        let store = written(1800);
        let mut torn = fs::read(&store.file).unwrap();
        let sector = (store.ends[2] + 24).next_multiple_of(512);
        torn[sector..sector + 256].copy_from_slice(&frame);
        torn[sector + 512..sector + 1024].fill(0);
        fs::write(&store.file, &torn).unwrap();
        assert_eq!(store.open().unwrap().load().unwrap(), store.held[2]);
    }

    #[test]
    fn purged_segments_are_deleted_and_a_missing_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let disk = SegmentDisk::with_segment_bytes(&path, 4096).unwrap();
        let count = || fs::read_dir(&path).unwrap().count() - 1;
        disk.commit(&[Op::SaveVote(vec![5])]).unwrap();
        for index in 0..20 {
            disk.commit(&[append(index, 1500)]).unwrap();
        }
        assert_eq!(count(), 10);
        disk.commit(&[purge(9)]).unwrap();
        assert_eq!(count(), 5);
        // A commit larger than a segment gets one of its own, with what the deleted ones said.
        disk.commit(&[append(20, 10_000)]).unwrap();
        disk.commit(&[purge(19)]).unwrap();
        let held = disk.load().unwrap();
        assert_eq!((held.vote.as_deref(), held.entries.len()), (Some(&[5][..]), 1));
        drop(disk);
        assert_eq!(SegmentDisk::open(&path).unwrap().load().unwrap(), held);
        assert_eq!(count(), 2);

        let disk = SegmentDisk::with_segment_bytes(&path, 4096).unwrap();
        for index in 21..30 {
            disk.commit(&[append(index, 1500)]).unwrap();
        }
        drop(disk);
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        fs::rename(&names[2], dir.path().join("lost")).unwrap();
        let error = SegmentDisk::open(&path).err().unwrap().to_string();
        assert!(error.contains("segment") && error.contains("is missing"), "{error}");
        // The oldest one, with entries that are still needed.
        fs::rename(dir.path().join("lost"), &names[2]).unwrap();
        fs::remove_file(&names[0]).unwrap();
        let error = SegmentDisk::open(&path).err().unwrap().to_string();
        assert!(error.contains("entry 20 is missing"), "{error}");
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let store = written(90);
        let file = fs::OpenOptions::new().write(true).open(&store.file).unwrap();
        file.write_all_at(&2u32.to_le_bytes(), 8).unwrap();
        let error = store.open().err().unwrap();
        assert!(matches!(error, StoreError::NewerFormat { found: 2, known: 1, .. }), "{error}");
    }
}

mod sleds {
    use super::*;

    type Change = fn(&::sled::Db);

    /// A store with three entries, changed behind its back.
    fn changed(change: Change) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let disk = SledDisk::open(&path).unwrap();
        disk.commit(&[append(0, 10), append(1, 10_000), append(2, 10)]).unwrap();
        change(disk.db());
        let error = disk.load().unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(
            error.contains("with part of its log gone it must not vote") || error.contains("newer one"),
            "{error}"
        );
        error
    }

    fn key(index: u64, chunk: u16) -> Vec<u8> {
        [&b"e"[..], &index.to_be_bytes(), &chunk.to_be_bytes()].concat()
    }

    #[test]
    fn what_does_not_read_back_is_refused() {
        let cases: [(&str, Change); 6] = [
            ("the checksum of row 1 of entry 1 does not match", |db| {
                let mut row = db.get(key(1, 1)).unwrap().unwrap().to_vec();
                row[2000] ^= 1;
                db.insert(key(1, 1), row).unwrap();
            }),
            // A whole row in the wrong place.
            ("the checksum of row 0 of entry 2 does not match", |db| {
                let row = db.get(key(0, 0)).unwrap().unwrap();
                db.insert(key(2, 0), row).unwrap();
            }),
            ("row 2 of entry 1 has no place in an entry", |db| drop(db.remove(key(1, 1)).unwrap())),
            ("row 0 of entry 2 has no place in an entry", |db| drop(db.remove(key(1, 2)).unwrap())),
            ("entry 0 is missing", |db| drop(db.remove(key(0, 0)).unwrap())),
            ("its format row is missing", |db| drop(db.remove("m/format").unwrap())),
        ];
        for (expected, change) in cases {
            let error = changed(change);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let error =
            changed(|db| drop(db.insert("m/format", sealed("m/format", &2u32.to_le_bytes())).unwrap()));
        assert!(error.contains("store format 2"), "{error}");
    }

    fn sealed(key: &str, data: &[u8]) -> Vec<u8> {
        let crc = crc32fast::hash(&[key.as_bytes(), data].concat());
        [&crc.to_le_bytes(), data].concat()
    }

    #[test]
    fn a_store_that_sled_cannot_open_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let disk = SledDisk::open(&path).unwrap();
        disk.commit(&[append(0, 10)]).unwrap();
        drop(disk);
        fs::write(path.join("conf"), b"segment_size: 3\nuse_compression: oh").unwrap();
        let error = SledDisk::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("is damaged: sled")
                && error.contains("with part of its log gone it must not vote"),
            "{error}"
        );
    }
}
