//! A disk that never answers.

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use tagout_proto::log::tree::{Frontier, leaf_hash};

use super::super::{AuditError, AuditLog};
use super::{ORIGIN, bundle_path, entries, signer};

const PATIENCE: Duration = Duration::from_millis(600);

#[test]
fn a_disk_that_hangs_ends_the_node_instead_of_silencing_it() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever opens it waits for a writer: this is how the disk hangs when a tile is sealed.
    let tile = bundle_path(dir.path(), 0, 256);
    fs::create_dir_all(tile.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&tile).status().unwrap().success());
    let (failed, failure) = channel();
    let told = move |error| failed.send(error).unwrap();
    let log = AuditLog::open_with(dir.path(), ORIGIN.into(), signer(), told, PATIENCE).unwrap();
    let sink = log.sink();
    let mut frontier = Frontier::default();
    for (index, entry) in (0..).zip(entries(255)) {
        frontier.push(leaf_hash(&entry));
        sink.append(index, entry, frontier.root());
    }
    std::thread::sleep(2 * PATIENCE);
    assert!(failure.try_recv().is_err(), "nothing hangs yet");
    let entry = entries(256).pop().unwrap();
    frontier.push(leaf_hash(&entry));
    sink.append(255, entry, frontier.root());
    let error = failure.recv_timeout(20 * PATIENCE).unwrap();
    assert!(matches!(error, AuditError::Hung { .. }) && error.to_string().contains("hangs"), "{error}");
    assert_eq!(log.reader().checkpointed_size(), 255);
    // The tile's reader gets an end of file, so that the thread can end.
    drop(fs::OpenOptions::new().write(true).open(&tile).unwrap());
}
