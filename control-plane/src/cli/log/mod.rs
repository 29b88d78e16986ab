//! `tagout log`: the audit log, shown, proven and verified. Whatever is shown was proven to be in the signed log first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::drill::Drill;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::proof::{ConsistencyProof, InclusionProof, ProofError};
use tagout_proto::note::VerifierKey;
use tagout_proto::restore::Restore;
use tagout_proto::trust::Trust;
use tagout_proto::wire::Outcome;

use super::Globals;
use super::backup;
use super::failure::{Exit, Failure};
use super::files::{quoted, write_new};
use super::out::{Ink, Out, count, instant};
use super::profile::{self, Profile};
use super::session::Session;
use crate::signers::signed_by;

pub(super) mod export;
pub mod resume;
pub mod seen;
pub mod tiles;
pub mod verify;

use resume::Kept;
use seen::Seen;
use tiles::{LogError, LogReader, TileDir, Tiles, check_index, node_keys, open_checkpoint, read_checkpoint};
use verify::{Log, Replay, Step, Verified};

#[derive(Subcommand)]
pub enum LogVerb {
    /// Show entries, each proven to be in the signed log
    Show(ShowArgs),
    /// Verify the whole log, or a proof: signatures, authority, chain, tree and checkpoint
    Verify(VerifyArgs),
    /// Make a proof for somebody who has only the file: that an entry is in the log, or that the log was only added to
    Prove(ProveArgs),
}

#[derive(Args)]
pub struct ShowArgs {
    /// One entry, in full
    index: Option<u64>,
    /// The newest entries [default: 20]
    #[arg(long, value_name = "N", conflicts_with = "index")]
    last: Option<u64>,
    /// Go on and show what comes; with --json each entry is a line of its own
    #[arg(long, conflicts_with = "index")]
    follow: bool,
    /// The entry's exact bytes, for sha256sum and `log verify --entry`
    #[arg(long, requires = "index")]
    raw: bool,
    /// Write the document and its signatures into this folder, for `ssh-keygen -Y verify`
    #[arg(long, value_name = "DIR", requires = "index", conflicts_with = "raw")]
    out: Option<PathBuf>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("of").args(["entry", "since"]))]
pub struct VerifyArgs {
    /// A folder with a copy of the log (checkpoint and tile/), instead of the node
    #[arg(long, value_name = "DIR", conflicts_with = "proof")]
    dir: Option<PathBuf>,
    /// An older signed checkpoint that the log must continue, besides the one that this machine remembers
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Replay every entry, also those that this machine has verified before
    #[arg(long, conflicts_with = "proof")]
    from_start: bool,
    /// Verify this proof instead of the log: of one entry, or that the log continues an older checkpoint
    #[arg(long, value_name = "FILE", requires = "of")]
    proof: Option<PathBuf>,
    /// The entry's exact bytes, as `log show INDEX --raw` writes them
    #[arg(long, value_name = "FILE", requires = "proof", conflicts_with = "since")]
    entry: Option<PathBuf>,
}

#[derive(Args)]
pub struct ProveArgs {
    /// The entry that is in the log
    #[arg(required_unless_present = "since", conflicts_with = "since")]
    index: Option<u64>,
    /// An older signed checkpoint, such as somebody saved from /log/checkpoint: proves that the log continues it
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// Where the proof goes [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(out: &Out, globals: &Globals, verb: LogVerb) -> Result<Exit, Failure> {
    match verb {
        LogVerb::Show(args) => show(out, globals, args),
        LogVerb::Verify(VerifyArgs { proof: Some(proof), entry: Some(entry), .. }) => {
            verify_inclusion(out, globals, &proof, &entry)
        }
        LogVerb::Verify(VerifyArgs { proof: Some(proof), since: Some(since), .. }) => {
            verify_consistency(out, globals, &proof, &since)
        }
        LogVerb::Verify(args) => verify_log(out, globals, args),
        LogVerb::Prove(ProveArgs { since: Some(since), output, .. }) => {
            prove_consistency(out, globals, &since, output)
        }
        LogVerb::Prove(ProveArgs { index, output, .. }) => {
            prove_inclusion(out, globals, index.expect("required by clap"), output)
        }
    }
}

fn show(out: &Out, globals: &Globals, args: ShowArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let checkpoint = session.checkpoint(0)?;
    if let Some(index) = args.index {
        check_index(index, checkpoint.size)?;
        let (bytes, _) =
            LogReader::new(&session.client, checkpoint.size).proven_entry(index, checkpoint.root)?;
        if let Some(dir) = &args.out {
            let entry = Entry::decode(&bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
            export::write(&entry, session.authority(), dir)?.say(out);
        } else if args.raw {
            out.bytes(&bytes);
        } else {
            let record = Record::new(&bytes, session.trust())?;
            out.document(&record);
            record.say_in_full(out, &checkpoint);
        }
        return Ok(Exit::Ok);
    }

    let mut next = checkpoint.size.saturating_sub(args.last.unwrap_or(20));
    let mut records = show_from(&session, &mut next, &checkpoint, args.follow)?;
    while args.follow && !out.closed() {
        let newer = session.checkpoint_beyond(next)?;
        records = show_from(&session, &mut next, &newer, true)?;
    }
    if !args.follow {
        out.document(
            &serde_json::json!({ "size": checkpoint.size, "root": checkpoint.root, "entries": records }),
        );
    }
    Ok(Exit::Ok)
}

/// Shows the entries from `next` on; in JSON each is a line of its own where they `stream`.
fn show_from(
    session: &Session<'_>,
    next: &mut u64,
    checkpoint: &Checkpoint,
    stream: bool,
) -> Result<Vec<Record>, Failure> {
    let reader = LogReader::new(&session.client, checkpoint.size);
    let mut records = Vec::new();
    while *next < checkpoint.size {
        let (bytes, _) = reader.proven_entry(*next, checkpoint.root)?;
        let record = Record::new(&bytes, session.trust())?;
        record.say(session.out);
        if stream {
            session.out.document(&record);
        } else {
            records.push(record);
        }
        *next += 1;
    }
    Ok(records)
}

/// An entry for people and programs.
#[derive(Serialize)]
struct Record {
    index: u64,
    kind: EntryKind,
    time_ms: u64,
    /// SHA-256 of the entry's bytes: the next entry's `prev`.
    sha256: Digest,
    prev: Digest,
    /// SHA-256 of the document: a stop's lock id.
    digest: Digest,
    signed_by: Vec<String>,
    /// The exact text that was signed.
    document: String,
    signatures: Vec<String>,
}

impl Record {
    fn new(bytes: &[u8], trust: &Trust) -> Result<Self, Failure> {
        let entry = Entry::decode(bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
        Ok(Self {
            index: entry.index,
            kind: entry.kind,
            time_ms: entry.time_ms,
            sha256: Digest::of(bytes),
            prev: entry.prev,
            digest: entry.envelope.digest(),
            signed_by: signed_by(trust, entry.kind, &entry.envelope),
            document: entry.envelope.document,
            signatures: entry.envelope.signatures,
        })
    }

    fn say(&self, out: &Out) {
        let by = if self.signed_by.is_empty() {
            String::new()
        } else {
            format!(" by {}", self.signed_by.join(", "))
        };
        let index = out.ink(Ink::Dim, format!("{:>6}", self.index));
        out.line(format!("{index}  {}  {}{by}", instant(self.time_ms), self.summary()));
    }

    /// The entry in a few words.
    fn summary(&self) -> String {
        match self.kind {
            EntryKind::Command => match Command::parse(self.document.as_bytes()) {
                Ok(command) => of_command(&command.action),
                // The one document of this kind that is no command.
                Err(_) => format!("authority {}", self.digest.short()),
            },
            EntryKind::Outcome => match serde_json::from_str::<Outcome>(&self.document) {
                Ok(outcome) => of_outcome(&outcome),
                Err(_) => "outcome".into(),
            },
            EntryKind::Restore => match Restore::parse(self.document.as_bytes()) {
                Ok(restore) => {
                    format!("restore, epoch {} begins: {:?}", restore.epoch.number, restore.reason)
                }
                Err(_) => "restore".into(),
            },
            EntryKind::Proposal => match Command::parse(self.document.as_bytes()) {
                Ok(command) => format!("proposal {}: {}", self.digest.short(), of_command(&command.action)),
                Err(_) => "proposal".into(),
            },
            EntryKind::Drill => match Drill::parse(self.document.as_bytes()) {
                Ok(drill) => of_drill(&drill),
                Err(_) => "drill".into(),
            },
            EntryKind::Trip | EntryKind::RuleVersion => self.kind.name().into(),
        }
    }

    fn say_in_full(&self, out: &Out, checkpoint: &Checkpoint) {
        out.line(format!("{} {}", out.ink(Ink::Bold, format!("entry {}", self.index)), self.summary()));
        let by = if self.signed_by.is_empty() { "nobody".into() } else { self.signed_by.join(", ") };
        for (name, value) in [
            ("kind", self.kind.name().to_owned()),
            ("time", instant(self.time_ms)),
            ("signed by", by),
            ("digest", self.digest.to_string()),
            ("sha256", self.sha256.to_string()),
            ("prev", self.prev.to_string()),
            (
                "in the log",
                format!("of {} entries, root {}, proven", checkpoint.size, checkpoint.root.short()),
            ),
        ] {
            out.line(format!("  {name:<11}{value}"));
        }
        out.line(&self.document);
        self.signatures.iter().for_each(|signature| out.line(signature.trim_end()));
    }
}

fn of_command(action: &Action) -> String {
    let scope = action.scope();
    match action {
        Action::Lock(lock) => {
            let (action, kind) = (action.kind(), lock.kind.name());
            let how = if action.name() == kind { String::new() } else { format!(" ({kind})") };
            format!("{action} {scope}{how} {:?}{}", lock.reason, of_case(&lock.case))
        }
        Action::Revoke(revoke) => {
            let grants = count(revoke.grants.len() as u64, "grant");
            format!("revoke {grants} on {scope} {:?}{}", revoke.reason, of_case(&revoke.case))
        }
        Action::Suspend(suspend) => {
            let keys = count(suspend.keys.len() as u64, "key");
            format!("suspend {keys} {:?}{}", suspend.reason, of_case(&suspend.case))
        }
        Action::Refuse(refuse) => {
            let id = refuse.proposal.short();
            format!("refuse proposal {id} on {scope} {:?}{}", refuse.reason, of_case(&refuse.case))
        }
        Action::Release(release) => {
            format!("release {} on {scope} {:?}", count(release.locks.count(), "lock"), release.reason)
        }
        Action::Start(start) => {
            format!("start {scope} after {} {:?}", count(start.locks.count(), "lock"), start.reason)
        }
        Action::Grant(grant) => {
            format!("grant {scope} until {} {:?}", instant(grant.expires_at_ms), grant.reason)
        }
        Action::Enroll(enroll) => {
            let until = enroll.expires_at_ms.map(|at| format!(" until {}", instant(at))).unwrap_or_default();
            format!("enroll {scope}{until} {:?}", enroll.reason)
        }
        Action::Authority(authority) => format!("authority version {}", authority.version),
    }
}

fn of_case(case: &Option<String>) -> String {
    case.as_ref().map(|case| format!(" [{case}]")).unwrap_or_default()
}

fn of_outcome(outcome: &Outcome) -> String {
    let slowest = outcome.slowest_ms.map(|ms| format!(", the slowest after {ms} ms")).unwrap_or_default();
    let (confirmed, bounded) = (outcome.confirmed, outcome.bounded);
    format!("outcome of {}: {confirmed} confirmed{slowest}, {bounded} bounded", outcome.outcome.short())
}

fn of_drill(drill: &Drill) -> String {
    let Drill { scope, stop, confirmed, bounded, .. } = drill;
    let slowest = drill.slowest_ms.map(|ms| format!(", the slowest after {ms} ms")).unwrap_or_default();
    let stop = stop.digest.short();
    format!("drill of {scope}, stopped by {stop}: {confirmed} confirmed{slowest}, {bounded} bounded")
}

fn verify_log(out: &Out, globals: &Globals, args: VerifyArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        deployment: String,
        #[serde(flatten)]
        verified: &'a Verified,
    }
    let (profile, verified) = match &args.dir {
        Some(path) => {
            let mut profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
            backup::learn(path, &mut profile)?;
            let tiles = TileDir { path: path.clone() };
            let note = read_checkpoint(&tiles)?;
            let verified = verify_and_remember(out, &profile, &tiles, &note, &args)?;
            (profile, verified)
        }
        None => {
            let session = Session::open(out, globals)?;
            // A node that is only behind gets the time to catch up with what was seen of another.
            let seen = Seen::load(&session.profile)?;
            let (note, _) = session.fetch_checkpoint(seen.size(), &seen)?;
            let verified = verify_and_remember(out, &session.profile, &session.client, &note, &args)?;
            (session.profile, verified)
        }
    };
    out.document(&Report { deployment: profile.deployment().to_string(), verified: &verified });
    let Verified { size, root, kinds, signatures, continues, resumed_at } = &verified;
    let kinds: Vec<_> = kinds.iter().map(|(kind, n)| count(*n, kind.name())).collect();
    out.line(format!(
        "{}: {} ({}) and {}",
        out.ink(Ink::Green, "verified"),
        entries(*size),
        kinds.join(", "),
        count(*signatures, "signature")
    ));
    out.line(format!("  root {root}"));
    if *resumed_at > 0 {
        out.line(format!(
            "  went on from entry {resumed_at}: those before it are, byte for byte, what this machine verified before \
             (--from-start replays them too)"
        ));
    }
    match continues {
        Some(older) => out.line(format!("  continues the log of {} that was seen before", entries(*older))),
        None => out.line("  the first checkpoint that this machine remembers; later ones must continue it"),
    }
    Ok(Exit::Ok)
}

pub(super) fn entries(n: u64) -> String {
    if n == 1 { "1 entry".into() } else { format!("{n} entries") }
}

fn verify_and_remember(
    out: &Out,
    profile: &Profile,
    tiles: &dyn Tiles,
    note: &str,
    args: &VerifyArgs,
) -> Result<Verified, Failure> {
    let (mut seen, trust) = (Seen::load(profile)?, profile.trust());
    let checkpoint = open_checkpoint(note, trust)?;
    let since = args.since.as_deref().map(|file| read_older(file, trust)).transpose()?;
    if let Some(since) = &since {
        check_not_lost(profile, since)?;
    }
    let older: Vec<_> = seen.checkpoint.iter().cloned().chain(since).collect();
    let verified = verify_all(out, profile, tiles, note, &older, args.from_start, &mut |_| ())?;
    seen.remember(note, &checkpoint)?;
    Ok(verified)
}

/// What a restore says, signed, that it may have lost, no log continues.
fn check_not_lost(profile: &Profile, since: &Checkpoint) -> Result<(), Failure> {
    let Some(restore) = profile.chain.restores().find(|restore| restore.lost_from < since.size) else {
        return Ok(());
    };
    let (size, number, from) = (since.size, restore.epoch.number, restore.lost_from);
    let detail = format!(
        "the older checkpoint has {}, and the restore that began epoch {number} says, signed by the root keys, that those \
         from entry {from} on may be lost: give one of at most {from} entries, or one of epoch {number}",
        entries(size)
    );
    Err(Failure::unverified("restored", detail))
}

/// Verifies a log as a whole, going on from what this machine replayed of it before; `ended` gets the state at its end.
pub(super) fn verify_all(
    out: &Out,
    profile: &Profile,
    tiles: &dyn Tiles,
    note: &str,
    older: &[Checkpoint],
    from_start: bool,
    ended: &mut dyn FnMut(&Replay),
) -> Result<Verified, Failure> {
    let trust = profile.trust();
    let checkpoint = open_checkpoint(note, trust)?;
    let mut kept = Kept::open(profile)?;
    let before = if from_start { Ok(None) } else { kept.load(profile.deployment().genesis) };
    let before = before.unwrap_or_else(|why| {
        let path = quoted(kept.path());
        out.note(format!("note: {path}, where the last run left off, is not used: {why}"));
        None
    });
    let known = before.as_ref().map_or(0, |before| before.size());

    let bar = if out.live() { progress_bar(checkpoint.size) } else { ProgressBar::hidden() };
    let (mut done, mut not_kept) = (0, None);
    let log = Log { tiles, note, trust, older };
    let result = verify::verify(&log, before, &mut |step| {
        let kept = match step {
            Step::Hashed(size) => {
                done = size;
                Ok(())
            }
            Step::Replayed(replay) => {
                done = replay.size();
                if done > known { kept.keep_now_and_then(replay) } else { Ok(()) }
            }
            Step::Ended(replay) => {
                done = replay.size();
                ended(replay);
                if done > known { kept.keep(replay) } else { Ok(()) }
            }
        };
        not_kept = kept.err().or(not_kept.take());
        bar.set_position(done);
    });
    bar.finish_and_clear();
    if let Some(failure) = &not_kept {
        out.note(format!("warning: the next run begins anew, since this one is not kept: {failure}"));
    }
    let verified = result.map_err(|error| match error {
        LogError::Read(mut failure) if done > 0 && not_kept.is_none() => {
            let more =
                format!("; {} were good so far: run it again, and it goes on from there", entries(done));
            failure.problem.detail.push_str(&more);
            failure
        }
        error => error.into(),
    })?;
    if (verified.resumed_at + 1..=verified.size).contains(&known) {
        out.note(format!(
            "note: the {} that this machine had verified before are not the beginning of this log, and all of it was replayed",
            entries(known)
        ));
    }
    Ok(verified)
}

/// An older checkpoint that somebody kept.
pub(super) fn read_older(file: &Path, trust: &Trust) -> Result<Checkpoint, Failure> {
    let note =
        std::fs::read_to_string(file).map_err(|e| Failure::file("read the older checkpoint", file, &e))?;
    open_checkpoint(&note, trust).map_err(|error| {
        let detail = format!("the older checkpoint {}: {error}", file.display());
        Failure::unverified("checkpoint", detail)
    })
}

fn progress_bar(size: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("  {bar:30} {human_pos}/{human_len} entries  {per_sec}  {eta} left");
    let bar = ProgressBar::new(size).with_style(style.expect("the template is ours"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn prove_inclusion(
    out: &Out,
    globals: &Globals,
    index: u64,
    output: Option<PathBuf>,
) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let (note, checkpoint) = session.checkpoint_note(0)?;
    check_index(index, checkpoint.size)?;
    let proof = LogReader::new(&session.client, checkpoint.size).prove(index, &note, checkpoint.root)?;
    let text = proof.to_text();
    out.document(
        &serde_json::json!({ "index": index, "size": checkpoint.size, "proof": text, "file": output }),
    );
    write_proof(out, &text, output.as_deref(), |file| {
        out.line(format!("wrote {file}; whoever has the entry verifies it offline:"));
        out.line(format!("  tagout log show {index} --raw > entry-{index}"));
        out.line(format!("  tagout log verify --proof {file} --entry entry-{index}"));
    })
}

fn prove_consistency(
    out: &Out,
    globals: &Globals,
    since: &Path,
    output: Option<PathBuf>,
) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let old = read_older(since, session.trust())?;
    let (note, checkpoint) = session.checkpoint_note(0)?;
    let reader = LogReader::new(&session.client, checkpoint.size);
    let text = reader.prove_since(&old, &note, checkpoint.root)?.to_text();
    out.document(
        &serde_json::json!({ "old_size": old.size, "size": checkpoint.size, "proof": text, "file": output }),
    );
    write_proof(out, &text, output.as_deref(), |file| {
        let (old, new) = (entries(old.size), checkpoint.size);
        out.line(format!(
            "wrote {file}: the log of {new} continues the one of {old}; whoever has {} verifies it offline:",
            quoted(since)
        ));
        out.line(format!("  tagout log verify --proof {file} --since {}", quoted(since)));
    })
}

fn write_proof(
    out: &Out,
    text: &str,
    output: Option<&Path>,
    say: impl FnOnce(String),
) -> Result<Exit, Failure> {
    match output {
        Some(file) => {
            write_new(file, text.as_bytes(), 0o644)?;
            say(quoted(file));
        }
        None if !out.json() => out.bytes(text.as_bytes()),
        None => {}
    }
    Ok(Exit::Ok)
}

fn read_proof(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|e| Failure::file("read the proof", file, &e))
}

fn verify_inclusion(out: &Out, globals: &Globals, proof: &Path, entry: &Path) -> Result<Exit, Failure> {
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let text = read_proof(proof)?;
    let bytes = std::fs::read(entry).map_err(|e| Failure::file("read the entry", entry, &e))?;
    let (proof, checkpoint) = check_inclusion(&text, &bytes, profile.trust())?;
    let record = Record::new(&bytes, profile.trust())?;
    let place = BTreeMap::from([("index", proof.index), ("size", checkpoint.size)]);
    out.document(
        &serde_json::json!({ "verified": true, "place": place, "root": checkpoint.root, "entry": record }),
    );
    let verified = out.ink(Ink::Green, "verified");
    let (index, size) = (proof.index, checkpoint.size);
    out.line(format!(
        "{verified}: it is entry {index} of the log of {size} with root {}",
        checkpoint.root.short()
    ));
    record.say(out);
    Ok(Exit::Ok)
}

fn verify_consistency(out: &Out, globals: &Globals, proof: &Path, since: &Path) -> Result<Exit, Failure> {
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let (text, old) = (read_proof(proof)?, read_older(since, profile.trust())?);
    let checkpoint = check_consistency(&text, &old, profile.trust())?;
    out.document(&serde_json::json!({
        "verified": true, "old_size": old.size, "size": checkpoint.size, "root": checkpoint.root,
    }));
    let (verified, root) = (out.ink(Ink::Green, "verified"), checkpoint.root.short());
    out.line(format!(
        "{verified}: the log of {} with root {root} continues the one of {} with root {}",
        entries(checkpoint.size),
        old.size,
        old.root.short()
    ));
    Ok(Exit::Ok)
}

/// Whether `entry` is where the proof says, in a log that a node of the deployment signed.
fn check_inclusion(text: &str, entry: &[u8], trust: &Trust) -> Result<(InclusionProof, Checkpoint), Failure> {
    let proof = InclusionProof::parse(text).map_err(unproven)?;
    let origin = trust.deployment().to_string();
    let checkpoint = by_its_node(&proof.checkpoint, trust, |key| proof.verify(entry, key, &origin))?;
    Ok((proof, checkpoint))
}

/// Whether the log that a node of the deployment signed continues `old`.
fn check_consistency(text: &str, old: &Checkpoint, trust: &Trust) -> Result<Checkpoint, Failure> {
    let proof = ConsistencyProof::parse(text).map_err(unproven)?;
    let origin = trust.deployment().to_string();
    by_its_node(&proof.checkpoint, trust, |key| proof.verify(old, key, &origin))
}

/// Verifies a proof with the key of the node that signed its checkpoint: which one that is, is not known beforehand.
fn by_its_node(
    note: &str,
    trust: &Trust,
    verify: impl Fn(&VerifierKey) -> Result<Checkpoint, ProofError>,
) -> Result<Checkpoint, Failure> {
    open_checkpoint(note, trust)?;
    let signed = |key: &&VerifierKey| key.open(note).is_ok();
    let key = node_keys(trust).find(signed).expect("it was opened with one of them");
    verify(key).map_err(unproven)
}

fn unproven(error: ProofError) -> Failure {
    Failure::unverified("proof", error.to_string())
}
