//! Any bytes in a segment file, and in the commits within it. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Random, Target, mutate, same};

use super::*;

const SALT: u64 = 7;

/// A file whose checksums are right: what stands in it is what a node with this file would have written.
fn image(payloads: &[Vec<u8>], zeros: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { number: 0, first_sequence: 3, salt: SALT }.write(&mut bytes);
    for (sequence, payload) in (3..).zip(payloads.iter().filter(|payload| !payload.is_empty())) {
        write_frame(&mut bytes, SALT, sequence, payload);
    }
    bytes.resize(bytes.len() + zeros, 0);
    bytes
}

fn commits() -> Vec<Vec<Op>> {
    let append = |index, bytes| Op::Append { index, entry: vec![index as u8; bytes] };
    vec![
        vec![Op::SaveIdentity(b"node".to_vec()), Op::SaveVote(b"vote".to_vec())],
        vec![append(0, 30), append(1, 0), append(2, 700), Op::SaveCommitted(Some(b"1".to_vec()))],
        vec![Op::TruncateAfter(Some(1)), append(2, 8), Op::SaveCommitted(None)],
        vec![Op::Purge(Purged { index: 0, id: b"id".to_vec() }), append(3, 1)],
        vec![Op::TruncateAfter(None), Op::Purge(Purged { index: 9, id: vec![] }), append(10, 2)],
    ]
}

fn payloads() -> Vec<Vec<u8>> {
    commits().iter().map(|ops| encode(ops).unwrap()).collect()
}

/// A commit with a number changed where it does the most harm.
fn changed(random: &mut Random) -> Vec<u8> {
    let commits = commits();
    let mut ops = random.pick(&commits);
    let at = random.below(ops.len());
    match &mut ops[at] {
        Op::SaveIdentity(bytes) | Op::SaveVote(bytes) => *bytes = random.garbage(40),
        Op::SaveCommitted(committed) => *committed = None,
        Op::Append { index, .. } | Op::TruncateAfter(Some(index)) => *index = random.boundary(),
        Op::TruncateAfter(None) => {}
        Op::Purge(purged) => purged.index = random.boundary(),
    }
    let encoded = encode(&ops).unwrap();
    if random.one_in(3) { mutate::bytes(random, &encoded, &[b"\x05\0\0\0\0\0\0\0\0"]) } else { encoded }
}

#[test]
fn commit() {
    Target::new("segment-commit", payloads()).make(changed).check(|bytes| {
        let ops = same(|| decode(bytes));
        if let Some(ops) = &ops {
            // Operations without bytes of their own drop theirs, so only what was decoded has one encoding.
            assert_eq!(decode(&encode(ops).unwrap()).as_ref(), Some(ops));
        }
        Answer::taken(ops.is_some())
    });
}

#[test]
fn file() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = segment_path(folder.path(), 0);
    let good = image(&payloads(), 2048);
    let seeds = [good.clone(), image(&[], 512), image(&payloads()[..2], 0)];
    let target = Target::new("segment-file", seeds).make(|random| {
        let mut payloads = payloads();
        let keep = random.below(payloads.len() + 1);
        payloads.truncate(keep);
        payloads.push(changed(random));
        let zeros = random.below(1500);
        let mut bytes = image(&payloads, zeros);
        if random.one_in(3) {
            // As a crash leaves it: some sectors of the last commit are still blank.
            let from = random.below(bytes.len()).next_multiple_of(SECTOR_BYTES).min(bytes.len());
            let to = (from + SECTOR_BYTES).min(bytes.len());
            bytes[from..to].fill(0);
        }
        bytes
    });
    target.check(|bytes| {
        fs::write(&path, bytes).unwrap();
        let found = Found::read(folder.path());
        if let Ok(found) = &found {
            let tail = found.tail.as_ref().expect("there is a segment");
            // Honest: what is not part of a commit is blank, or the one torn commit at the end.
            let torn = tail.torn.unwrap_or(0);
            // A file may end within the zeros that round up its last frame.
            assert!(bytes.iter().skip(tail.end + torn).all(|byte| *byte == 0));
            assert!(torn == 0 || bytes[tail.end + torn - 1] != 0);
            assert_eq!(found.loaded.gap(), None);
            if let Some(first) = found.loaded.entries.keys().next() {
                assert_eq!(*first, found.loaded.first_index());
            }
        }
        Answer::of(&found)
    });
}
