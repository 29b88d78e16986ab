//! Durable before acknowledged, as the kernel sees it: the system calls of a node under strace.

use std::path::Path;
use std::process::Command;

use tagout_tests::process::Process;
use tagout_tests::{bin, skip};

/// What happened, in order, from the first proposal on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A write to the store's file was begun.
    Write,
    /// An fdatasync of the store's file returned success.
    Synced,
    /// The acknowledgement was begun.
    Acknowledged,
}

fn strace_works() -> bool {
    Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

/// Runs the proposals and gives what they caused.
fn trace(store: &str, file: &str, tasks: u64, each: u64) -> Vec<Event> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "40", "-e", "signal=none", "-e"]);
    command.arg(
        "trace=write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,msync,syncfs,sync",
    );
    command.arg("-o").arg(&log).arg(bin::helper()).arg("propose").arg(store).arg(folder.path().join("node"));
    command.args([tasks.to_string(), each.to_string()]);
    let mut process = Process::spawn("strace", folder.path(), &mut command);
    process.succeed();
    let trace = std::fs::read_to_string(&log).expect("strace wrote its log");
    events(&trace, file)
}

fn events(trace: &str, file: &str) -> Vec<Event> {
    let mut events = Vec::new();
    // By thread: the fdatasync of the store's file that it is in.
    let mut syncing = std::collections::HashSet::new();
    let from_ready = trace.lines().skip_while(|line| !line.contains("\"ready\\n\""));
    for line in from_ready.take_while(|line| !line.contains("\"done\\n\"")) {
        let (thread, call) = line.split_once(' ').unwrap_or_else(|| panic!("strace wrote {line:?}"));
        let call = call.trim_start();
        let of_store = || {
            call.split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'))
                .is_some_and(|(path, _)| is(path, file))
        };
        if call.starts_with("<... fdatasync resumed>") {
            if syncing.remove(thread) {
                assert!(call.ends_with("= 0"), "{line}");
                events.push(Event::Synced);
            }
        } else if call.starts_with("fdatasync(") {
            assert!(of_store(), "nothing else is synced while it takes proposals: {line}");
            if call.contains("<unfinished ...>") {
                syncing.insert(thread);
            } else {
                assert!(call.ends_with("= 0"), "{line}");
                events.push(Event::Synced);
            }
        } else if call.contains("\"acknowledged\\n\"") {
            events.push(Event::Acknowledged);
        } else if (call.starts_with("write") || call.starts_with("pwrite")) && of_store() {
            events.push(Event::Write);
        } else {
            let dear = ["fsync(", "msync(", "syncfs(", "sync("].iter().any(|name| call.starts_with(name));
            assert!(!dear, "a commit needs one fdatasync and nothing else: {line}");
        }
    }
    assert!(syncing.is_empty(), "an fdatasync never returned");
    events
}

/// `…/segment/*.seg` and `…/sled/db`.
fn is(path: &str, file: &str) -> bool {
    let path = Path::new(path);
    match file.strip_prefix("*.") {
        Some(extension) => path.extension().is_some_and(|e| e == extension),
        None => path.file_name().is_some_and(|name| name == file),
    }
}

fn count(events: &[Event], event: Event) -> usize {
    events.iter().filter(|e| **e == event).count()
}

const STORES: [(&str, &str); 2] = [("sled", "db"), ("segment", "*.seg")];

#[test]
fn one_fdatasync_stands_before_every_acknowledgement() {
    if !strace_works() {
        skip!("durable::one_fdatasync_stands_before_every_acknowledgement", "strace may not trace here");
    }
    const PROPOSALS: u64 = 50;
    for (store, file) in STORES {
        let events = trace(store, file, 1, PROPOSALS);
        assert_eq!(count(&events, Event::Acknowledged) as u64, PROPOSALS, "{store}");
        for batch in events.split_inclusive(|event| *event == Event::Acknowledged) {
            let [Event::Write, .., Event::Synced, Event::Acknowledged] = batch else {
                panic!("{store}: a proposal was acknowledged after {batch:?}");
            };
            assert_eq!(count(batch, Event::Synced), 1, "{store}: {batch:?}");
        }
    }
}

#[test]
fn proposals_at_once_share_an_fdatasync() {
    if !strace_works() {
        skip!("durable::proposals_at_once_share_an_fdatasync", "strace may not trace here");
    }
    const TASKS: u64 = 64;
    const EACH: u64 = 8;
    for (store, file) in STORES {
        let events = trace(store, file, TASKS, EACH);
        assert_eq!(count(&events, Event::Acknowledged) as u64, TASKS * EACH, "{store}");
        let syncs = count(&events, Event::Synced) as u64;
        println!("{store}: {syncs} fdatasyncs for {} proposals of {TASKS} at once", TASKS * EACH);
        assert!(syncs * 2 <= TASKS * EACH, "{store}: {syncs} fdatasyncs for {} proposals", TASKS * EACH);
    }
}
