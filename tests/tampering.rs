//! A log that a real node wrote, every way to tamper with a copy of it, and two verifiers that share no code: `tagout log
//! verify`, and an outsider's program over the transparency log packages of the Go project (verifier/main.go).

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::tile::{parse_bundle, push_entry};
use tagout_proto::log::tree::{leaf_hash, root};
use tagout_proto::note::NoteSigner;
use tagout_tests::deployment::{Choice, Deployment, runtime, try_submit};
use tagout_tests::wait::DEADLINE;

/// Each makes two entries, itself and its outcome: several tiles.
const STOPS: u64 = 400;
/// After so many somebody takes a look and keeps the checkpoint.
const OLDER: u64 = 150;

#[test]
fn s9_two_verifiers_accept_a_real_log_and_reject_every_way_to_tamper_with_it() {
    let mut deployment = Deployment::make(Choice::default());
    deployment.add_access("open = ['log']\n", "");
    deployment.start_node();
    let beside = deployment.folder().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let go = Outsider::build(&beside, &signer(&deployment));

    drill(&deployment);
    let older = beside.join("older");
    grow(&deployment, 0, OLDER);
    std::fs::write(&older, curl(&deployment, &format!("/log/checkpoint?size={OLDER}"))).unwrap();
    grow(&deployment, OLDER, STOPS);
    curl(&deployment, &format!("/log/checkpoint?size={}", 2 * STOPS));
    // So that there are stops in the last tile too.
    grow(&deployment, STOPS, STOPS + 10);
    curl(&deployment, &format!("/log/checkpoint?size={}", 2 * STOPS + 20));

    // Over the network, with the proofs that `tagout` makes for somebody who has only files.
    let tagout =
        |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&beside)).succeeds().stdout;
    let proven = (STOPS + 7).to_string();
    tagout(&["log", "prove", &proven, "--output", "included"]);
    tagout(&["log", "prove", "--since", "older", "--output", "continues"]);
    std::fs::write(beside.join("entry"), tagout(&["log", "show", &proven, "--raw"])).unwrap();
    let proofs = ["-since", "older", "-continues", "continues", "-entry", "entry", "-included", "included"];
    let accepted = go.run(&proofs, &deployment.url("/log")).succeeds();
    assert!(accepted.said.starts_with("accepted: "), "{}", accepted.said);
    deployment.kill_node();

    let offline = |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&beside));
    offline(&["log", "verify", "--proof", "included", "--entry", "entry"]).succeeds();
    let continues = offline(&["log", "verify", "--proof", "continues", "--since", "older"]).succeeds();
    assert!(continues.said.contains("continues the one of "), "{}", continues.said);
    let proof = std::fs::read_to_string(beside.join("continues")).unwrap();
    let (hash, other) = (proof.lines().nth(1).unwrap(), proof.lines().nth(2).unwrap());
    std::fs::write(beside.join("continues"), proof.replacen(hash, other, 1)).unwrap();
    offline(&["log", "verify", "--proof", "continues", "--since", "older"]).fails(7, "does not continue");
    go.run(&proofs, &deployment.url("/log")).fails(1, "");

    // A copy of what the node wrote, as it is.
    let honest = Copied::of(&deployment.data().join("log"), &beside.join("honest"));
    go.run(&["-since", "older"], honest.path()).succeeds();
    let cli = Auditor { deployment: &deployment, state: beside.join("state") };
    let first = cli.verify(&honest, &[]).succeeds();
    assert!(first.said.contains("the first checkpoint that this machine remembers"), "{}", first.said);
    let again = cli.verify(&honest, &["--since", "older"]).succeeds();
    assert!(again.said.contains(&format!("went on from entry {}: those before it are", honest.size())));
    let whole = cli.verify(&honest, &["--from-start"]).succeeds();
    assert!(!whole.said.contains("went on"), "{}", whole.said);

    let newest = honest.checkpoint();
    let newest_file = beside.join("newest");
    std::fs::write(&newest_file, &newest).unwrap();
    let node = signer(&deployment);
    let mut number = 0;
    let mut tampered = |what: &str, by_go: &str, by_cli: &str, tamper: &dyn Fn(&Copied)| {
        number += 1;
        let copy = Copied::of(&honest.folder, &beside.join(format!("copy-{number}")));
        tamper(&copy);
        println!("{what}");
        go.run(&["-since", "newest"], copy.path()).fails(1, by_go);
        // Somebody who verified the honest log before, and somebody who never saw it and has only its checkpoint.
        cli.verify(&copy, &[]).fails(7, by_cli);
        let stranger = Auditor { deployment: &deployment, state: beside.join(format!("state-{number}")) };
        stranger.verify(&copy, &["--since", "newest"]).fails(7, by_cli);
    };

    // A stop in the middle of the second tile. Go tells where the chain breaks, which is at the next entry.
    let (entries, at) = (honest.entries(), honest.stop_after(300));
    let (of, next) = (named(&entries[at]), at + 1);
    let unchained = |at: usize| format!("entry {} does not hold the SHA-256 of entry {at}", at + 1);
    let misfit =
        "the signature of alice does not fit the document: the entry was changed after it was signed";
    tampered(
        "one byte of a signed document",
        &unchained(at),
        &format!("error: entry {at} ({of}): {misfit}"),
        &|copy| {
            copy.change_entry(at, |entry| flip(entry, b"\"reason\":\"test\"", 10));
        },
    );
    let evidence = |bytes: &Vec<u8>| Entry::decode(bytes).unwrap().kind == EntryKind::Drill;
    let drill = entries.iter().position(evidence).expect("a drill");
    tampered(
        "what a drill showed",
        &unchained(drill),
        &format!("error: entry {drill} (drill): {misfit}"),
        &|copy| copy.change_entry(drill, |entry| flip(entry, b"\"confirmed\":1", 12)),
    );
    let unreadable = format!("error: entry {at} ({of}): ");
    tampered("one byte of a signature", &unchained(at), &unreadable, &|copy| {
        copy.change_entry(at, |entry| flip(entry, b"-----BEGIN SSH SIGNATURE-----\n", 200));
    });
    let by_tile = format!("error: entry {at} ({of}): it does not hash to its leaf in tile/0/001");
    tampered("what nobody signed, the time", &unchained(at), &by_tile, &|copy| {
        copy.change_entry(at, |entry| entry[17] ^= 1);
    });
    tampered("the same, with the tile taken away", "", "tile/0/001 is missing", &|copy| {
        copy.change_entry(at, |entry| entry[17] ^= 1);
        std::fs::remove_file(copy.folder.join("tile/0/001")).unwrap();
    });
    let (late, end) = (honest.stop_after(entries.len() / 256 * 256 + 1), entries.len() - 1);
    let of_late = named(&entries[late]);
    let changed =
        format!("error: entry {late} ({of_late}): its SHA-256 is not the `prev` of entry {}", late + 1);
    tampered("the time of an entry of which no tile is kept", &unchained(late), &changed, &|copy| {
        copy.change_entry(late, |entry| entry[17] ^= 1);
    });
    let not_signed = "the log is not what the node signed";
    tampered(
        "the last entry's, of which the chain tells nothing",
        "the entries have root",
        not_signed,
        &|copy| {
            copy.change_entry(end, |entry| entry[17] ^= 1);
        },
    );
    tampered(
        "one byte of a tile",
        "tile/0/001 is not what follows from the entries",
        "error: tile/0/001: its hash 44 is not the one that follows from the entries: the tile was changed",
        &|copy| copy.change("tile/0/001", |bytes| bytes[44 * 32 + 7] ^= 1),
    );
    tampered("one byte of a bundle's framing", "entry 1", "error: entry 0", &|copy| {
        copy.change("tile/entries/000", |bytes| bytes[1] ^= 1);
    });
    for (what, from_the_end) in [("one byte of the checkpoint's signature", 20), ("one of its root", 150)] {
        tampered(
            what,
            "the checkpoint: ",
            "error: no node of this deployment signed the checkpoint",
            &|copy| {
                copy.change("checkpoint", |bytes| {
                    let at = bytes.len() - from_the_end;
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                });
            },
        );
    }
    let stands = |found: usize| format!("): the record of entry {found} stands in its place");
    let says = |found: usize| format!("entry {at} says that it is entry {found}");
    tampered("a dropped entry", &says(next), &stands(next), &|copy| {
        copy.change_entries(1, |entries| drop(entries.remove(at - 256)));
    });
    tampered(
        "a dropped entry at the end of a tile",
        "tile/entries/000 ends before entry 255",
        "error: entry 255: it is missing: tile/entries/000 ends before it",
        &|copy| copy.change_entries(0, |entries| drop(entries.pop())),
    );
    tampered("an inserted entry", &says(at - 1), &stands(at - 1), &|copy| {
        copy.change_entries(1, |entries| entries.insert(at - 256, entries[at - 1 - 256].clone()));
    });
    tampered("two swapped entries", &says(next), &stands(next), &|copy| {
        copy.change_entries(1, |entries| entries.swap(at - 256, next - 256));
    });

    // By a node that has gone bad, and chains, hashes and signs anew what it made up.
    tampered("a cut-off end", "its end was cut off", "its end was cut off", &|copy| {
        copy.publish(&entries[..520], &node);
    });
    tampered("a fork", "it is a fork", "error: the log is a fork: its first ", &|copy| {
        let mut entries = entries.clone();
        entries[450][17] ^= 1;
        rechain(&mut entries);
        copy.publish(&entries, &node);
    });
    tampered("a dropped entry, rechained", "its end was cut off", "its end was cut off", &|copy| {
        let mut entries = entries.clone();
        entries.remove(450);
        rechain(&mut entries);
        copy.publish(&entries, &node);
    });
    tampered("another deployment's node", "the checkpoint: ", "the checkpoint", &|copy| {
        copy.publish(&entries, &NoteSigner::new("test/node-1", &[7; 32]).unwrap());
    });
    assert!(cli.verify(&honest, &[]).succeeds().said.contains("went on from entry"), "nothing bad was kept");
}

#[test]
fn s9_s10_a_node_with_another_history_gets_no_consent_and_every_stop() {
    let deployment = Deployment::start(Choice::default());
    let (runtime, http) = (runtime(), deployment.http());
    let submit = |envelope| runtime.block_on(deployment.submit(&http, &envelope)).unwrap().digest;
    submit(deployment.stop("fork/stopped"));
    let released = submit(deployment.stop("fork/released"));
    submit(deployment.release("fork/released", &[released]));
    let tagout = |arguments: &[&str]| Ran::of(&mut deployment.command(arguments));
    tagout(&["log", "show"]).succeeds();

    // What this machine remembers now is another history, which the node has signed too.
    let remembered = std::fs::read_dir(deployment.folder().join("state/tagout")).unwrap();
    let mut remembered = remembered.map(|entry| entry.unwrap().path());
    let remembered = remembered.find(|path| path.extension().is_some_and(|e| e == "checkpoint")).unwrap();
    let node = signer(&deployment);
    let note = std::fs::read_to_string(&remembered).unwrap();
    let seen = Checkpoint::open(&note, &node.verifier(), &deployment.name.to_string()).unwrap();
    let other = Checkpoint { root: Digest::of(b"another history"), ..seen }.sign(&node);
    std::fs::write(&remembered, &other).unwrap();

    let (alice, bob) = (deployment.key("alice"), deployment.key("bob"));
    let both = ["--reason", "r", "--key", alice.to_str().unwrap(), "--key", bob.to_str().unwrap()];
    for gives in [
        &["grant", "fork", "--for", "1h"][..],
        &["release", "--scope", "fork/stopped"],
        &["start", "--scope", "fork/released"],
        &["resume", "fork/stopped"],
    ] {
        let refused = tagout(&[gives, &both].concat()).fails(7, "the log is a fork");
        assert!(refused.said.contains("nothing was signed"), "{}", refused.said);
        assert!(!refused.said.contains("signing"), "{}", refused.said);
    }
    let stop = tagout(&["stop", "fork/running", "--reason", "r", "--no-wait"]).fails(7, "the log is a fork");
    assert!(
        stop.said.starts_with("signing ") && stop.said.contains("STOPPED fork/running (halt)"),
        "{}",
        stop.said
    );
    assert!(stop.said.contains("the stop stands; but"), "{}", stop.said);
    assert_eq!(std::fs::read_to_string(&remembered).unwrap(), other, "the evidence is kept");
}

/// An agent is stopped and brought back, with the evidence in the log.
fn drill(deployment: &Deployment) {
    let (runtime, http) = (runtime(), deployment.http());
    let client = runtime.block_on(async {
        deployment.grant(&http, "tampering").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard("tampering/canary").unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    deployment.run_by_both(&["drill", "tampering/canary", "--reason", "test", "--yes"]);
}

/// Stops, by several writers at a time, until the log has at least `to` entries.
fn grow(deployment: &Deployment, from: u64, to: u64) {
    let (http, next) = (deployment.http(), AtomicU64::new(from));
    let writer = async || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= to {
                return;
            }
            let stop = deployment.stop(&format!("tampering/{n}"));
            try_submit(&http, &deployment.url("/v1/commands"), &stop).await.unwrap().unwrap();
        }
    };
    runtime().block_on(futures_util::future::join_all((0..32).map(|_| writer())));
}

fn curl(deployment: &Deployment, path: &str) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--cacert"]).arg(deployment.dir().join("ca.pem"));
    Ran::of(curl.arg(deployment.url(path))).succeeds().stdout
}

/// The node, for whoever has taken its key.
fn signer(deployment: &Deployment) -> NoteSigner {
    let seed = std::fs::read_to_string(deployment.dir().join("node-1/node.key")).unwrap();
    let seed = data_encoding::BASE64.decode(seed.trim().as_bytes()).unwrap();
    NoteSigner::new("test/node-1", &seed.try_into().unwrap()).unwrap()
}

/// Changes the byte `at` bytes into the first place where `what` stands.
fn flip(entry: &mut [u8], what: &[u8], at: usize) {
    let found = entry.windows(what.len()).position(|window| window == what);
    entry[found.expect("it is in the entry") + at] ^= 1;
}

/// As `tagout log verify` names a stop.
fn named(stop: &[u8]) -> String {
    let document = Entry::decode(stop).unwrap().envelope.document;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    format!("stop of {}", document["scope"].as_str().unwrap())
}

fn rechain(entries: &mut [Vec<u8>]) {
    let mut prev = Digest::default();
    for (index, bytes) in entries.iter_mut().enumerate() {
        let entry = Entry::decode(bytes).unwrap();
        *bytes = Entry { index: index as u64, prev, ..entry }.encode().unwrap();
        prev = Digest::of(bytes);
    }
}

/// A folder with a copy of a log.
struct Copied {
    folder: PathBuf,
}

impl Copied {
    fn of(log: &Path, folder: &Path) -> Self {
        Ran::of(Command::new("cp").arg("-a").arg(log).arg(folder)).succeeds();
        Self { folder: folder.into() }
    }

    fn path(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    fn checkpoint(&self) -> String {
        std::fs::read_to_string(self.folder.join("checkpoint")).unwrap()
    }

    fn size(&self) -> u64 {
        self.checkpoint().lines().nth(1).unwrap().parse().unwrap()
    }

    fn bundle(&self, n: u64) -> String {
        match self.size() - n * 256 {
            partial @ ..256 => format!("tile/entries/{n:03}.p/{partial}"),
            _ => format!("tile/entries/{n:03}"),
        }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Sealed tiles cannot be written to; whoever owns the disk replaces them.
    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.folder.join(path);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(path);
        change(&mut bytes);
        self.write(path, &bytes);
    }

    fn change_entries(&self, n: u64, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.change(&self.bundle(n), |bytes| {
            let mut entries = parse_bundle(bytes).unwrap().into_iter().map(<[u8]>::to_vec).collect();
            change(&mut entries);
            bytes.clear();
            entries.iter().for_each(|entry| push_entry(bytes, entry));
        });
    }

    fn change_entry(&self, index: usize, change: impl FnOnce(&mut [u8])) {
        self.change_entries(index as u64 / 256, |entries| change(&mut entries[index % 256]));
    }

    /// The index of the first stop after `index`.
    fn stop_after(&self, index: usize) -> usize {
        let entries = self.entries();
        let stop = |bytes: &[u8]| Entry::decode(bytes).unwrap().envelope.document.contains("\"stop\"");
        (index + 1..entries.len()).find(|i| stop(&entries[*i])).expect("there are stops after it")
    }

    fn entries(&self) -> Vec<Vec<u8>> {
        let bundles = (0..self.size().div_ceil(256)).map(|n| self.read(&self.bundle(n)));
        bundles
            .flat_map(|b| parse_bundle(&b).unwrap().iter().map(|e| e.to_vec()).collect::<Vec<_>>())
            .collect()
    }

    /// Makes it the log of `entries`, as the node `by` would write it.
    fn publish(&self, entries: &[Vec<u8>], by: &NoteSigner) {
        let origin = self.checkpoint().lines().next().unwrap().to_owned();
        std::fs::remove_dir_all(self.folder.join("tile")).unwrap();
        let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let checkpoint = Checkpoint { origin, size: entries.len() as u64, root: root(&leaves) };
        self.write("checkpoint", checkpoint.sign(by).as_bytes());
        for (n, (entries, leaves)) in entries.chunks(256).zip(leaves.chunks(256)).enumerate() {
            let mut bundle = Vec::new();
            entries.iter().for_each(|entry| push_entry(&mut bundle, entry));
            self.write(&self.bundle(n as u64), &bundle);
            if leaves.len() == 256 {
                self.write(&format!("tile/0/{n:03}"), &leaves.iter().flat_map(|l| l.0).collect::<Vec<_>>());
            }
        }
    }
}

/// `tagout log verify`, by somebody with a memory of their own.
struct Auditor<'a> {
    deployment: &'a Deployment,
    state: PathBuf,
}

impl Auditor<'_> {
    fn verify(&self, log: &Copied, more: &[&str]) -> Ran {
        let mut command = self.deployment.command(&["log", "verify", "--dir", log.path()]);
        command.args(more).env("XDG_STATE_HOME", &self.state).current_dir(log.folder.parent().unwrap());
        Ran::of(&mut command)
    }
}

/// The program in Go.
struct Outsider {
    program: PathBuf,
    key: String,
    ca: PathBuf,
}

impl Outsider {
    fn build(folder: &Path, node: &NoteSigner) -> Self {
        let program = folder.join("verifier");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&program).arg("main.go");
        go.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/verifier"));
        // Debian's packages and nothing else: no module proxy is asked.
        go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOPROXY", "off");
        go.env("GOFLAGS", "").env("GOCACHE", folder.join("go-cache"));
        Ran::of(&mut go).succeeds();
        let ca = folder.parent().unwrap().join("deployment/ca.pem");
        Self { program, key: node.verifier().to_string(), ca }
    }

    fn run(&self, options: &[&str], log: &str) -> Ran {
        let mut program = Command::new(&self.program);
        program.arg("-key").arg(&self.key).args(options).arg(log).env("SSL_CERT_FILE", &self.ca);
        Ran::of(program.current_dir(self.program.parent().unwrap()))
    }
}

/// A program that ended.
struct Ran {
    what: String,
    code: Option<i32>,
    stdout: Vec<u8>,
    /// All that it printed.
    said: String,
}

impl Ran {
    #[track_caller]
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } =
            command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        Self { what: format!("{command:?}"), code: status.code(), stdout, said }
    }

    #[track_caller]
    fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}:\n{}", self.what, self.said);
        self
    }

    #[track_caller]
    fn fails(self, code: i32, reason: &str) -> Self {
        assert_eq!(self.code, Some(code), "{}:\n{}", self.what, self.said);
        assert!(self.said.contains(reason), "{} does not say {reason:?}:\n{}", self.what, self.said);
        self
    }
}
