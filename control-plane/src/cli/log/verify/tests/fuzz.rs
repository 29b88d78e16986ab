//! S9: any change to a copy of the log. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target};

use super::*;

/// A change to one of the log's files, as four numbers and the bytes that are put in: which file, where, and how many
/// bytes are left out there. The log has new keys in every run, so its own bytes would mean nothing in the next.
fn changed(files: &Memory, edit: &[u8]) -> Option<Memory> {
    let ([file, at_high, at_low, out], put) = edit.split_first_chunk::<4>()?;
    let mut files = files.clone();
    let name = files.0.keys().nth(usize::from(*file) % files.0.len())?.clone();
    let bytes = files.0.get_mut(&name)?;
    let at = usize::from(u16::from_be_bytes([*at_high, *at_low])) % (bytes.len() + 1);
    let end = (at + usize::from(*out)).min(bytes.len());
    bytes.splice(at..end, put.iter().copied());
    Some(files)
}

#[test]
fn s9_any_change_to_a_log_is_found() {
    let world = World::new(2);
    let files = world.publish(&world.entries);
    let target = Target::new("copied-log", [[0, 0, 0, 0]]).make(|random| {
        let mut edit = random.array::<4>().to_vec();
        edit[3] = random.pick(&[0, 0, 1, 1, 2, 32, 255]);
        edit.extend(random.garbage(3));
        edit
    });
    target.check(|edit| {
        let Some(changed) = changed(&files, edit) else { return Answer::Refused };
        let Ok(note) = std::str::from_utf8(&changed.0["checkpoint"]) else { return Answer::Refused };
        let log = Log { tiles: &changed, note, trust: world.trust(), older: &[] };
        let verified = verify(&log, None, &mut |_| {});
        if verified.is_ok() {
            // What passes is the same log: bytes behind a partial tile's end, and lines of strangers, are no part of it.
            for (name, bytes) in &files.0 {
                assert!(changed.0[name].starts_with(bytes), "{name} was changed");
            }
        }
        Answer::of(&verified)
    });
}
