//! Any bytes in a snapshot's file. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use super::super::types::fuzz::{log_id, meta};
use super::*;

#[test]
fn snapshot_file() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let snapshots = Snapshots::open(folder.path()).unwrap();
    snapshots.write(&meta(), b"what the machine says").unwrap();
    let written = snapshots.list().unwrap().remove(0);
    let id = log_id();
    let path = folder.path().join(format!("{:020}-{:020}.{SUFFIX}", id.index() + 1, id.leader_id.term));
    // Without its checksum, which the check adds: a file that damage hits is found by that.
    let seed = fs::read(&written).unwrap();
    let seed = seed[..seed.len() - CRC_BYTES].to_vec();
    let target = Target::new("snapshot", [seed.clone()]).make(|random| {
        let mut bytes = seed.clone();
        if random.one_in(2) {
            let length = random.boundary() as u32;
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
        }
        let at = random.within(8..bytes.len());
        let tail = mutate::bytes(random, &bytes[at..], &[&seed]);
        bytes.truncate(at);
        bytes.extend(tail);
        bytes
    });
    target.check(|bytes| {
        let with_checksum = [bytes, &crc32fast::hash(bytes).to_le_bytes()].concat();
        fs::write(&path, &with_checksum).unwrap();
        match read(&path) {
            Ok(snapshot) => {
                assert!(bytes.ends_with(&snapshot.snapshot));
                assert!(encode(&snapshot.meta).is_ok());
                // Damage that is no more than one bit never passes.
                let mut damaged = with_checksum;
                let bit = bytes
                    .iter()
                    .fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
                    % (8 * damaged.len());
                damaged[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &damaged).unwrap();
                assert!(read(&path).is_err(), "bit {bit} is not covered");
                Answer::Taken
            }
            Err(Unreadable::Damaged(what)) => {
                check_sentence(&what);
                Answer::Refused
            }
            Err(Unreadable::Refused(error)) => {
                check_sentence(&error.to_string());
                Answer::Refused
            }
        }
    });
}
