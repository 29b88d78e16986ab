//! `tagout log`: the audit log, shown, proven and verified. Whatever is shown was proven to be in the signed log first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tagout_proto::authority::Authority;
use tagout_proto::command::{Action, Command};
use tagout_proto::digest::Digest;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::proof::{InclusionProof, ProofError};
use tagout_proto::wire::Outcome;

use super::Globals;
use super::failure::{Exit, Failure};
use super::files::{quoted, write_new};
use super::out::{Ink, Out, count, instant};
use super::profile::{self, Profile};
use super::session::Session;

mod export;
pub mod seen;
pub mod tiles;
pub mod verify;

use seen::Seen;
use tiles::{LogReader, TileDir, Tiles, check_index, open_checkpoint, read_checkpoint};
use verify::Verified;

#[derive(Subcommand)]
pub enum LogVerb {
    /// Show entries, each proven to be in the signed log
    Show(ShowArgs),
    /// Verify the whole log, or a proof: signatures, authority, chain, tree and checkpoint
    Verify(VerifyArgs),
    /// Make a proof that an entry is in the log, for somebody who has only the file
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
pub struct VerifyArgs {
    /// A folder with a copy of the log (checkpoint and tile/), instead of the node
    #[arg(long, value_name = "DIR", conflicts_with = "proof")]
    dir: Option<PathBuf>,
    /// Verify this proof of one entry instead of the log
    #[arg(long, value_name = "FILE", requires = "entry")]
    proof: Option<PathBuf>,
    /// The entry's exact bytes, as `log show INDEX --raw` writes them
    #[arg(long, value_name = "FILE", requires = "proof")]
    entry: Option<PathBuf>,
}

#[derive(Args)]
pub struct ProveArgs {
    index: u64,
    /// Where the proof goes [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(out: &Out, globals: &Globals, verb: LogVerb) -> Result<Exit, Failure> {
    match verb {
        LogVerb::Show(args) => show(out, globals, args),
        LogVerb::Verify(VerifyArgs { proof: Some(proof), entry: Some(entry), .. }) => {
            verify_proof(out, globals, &proof, &entry)
        }
        LogVerb::Verify(args) => verify_log(out, globals, args),
        LogVerb::Prove(args) => prove(out, globals, args),
    }
}

fn show(out: &Out, globals: &Globals, args: ShowArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let authority = session.authority();
    let checkpoint = session.checkpoint(0)?;
    if let Some(index) = args.index {
        check_index(index, checkpoint.size)?;
        let (bytes, _) =
            LogReader::new(&session.client, checkpoint.size).proven_entry(index, checkpoint.root)?;
        if let Some(dir) = &args.out {
            let entry = Entry::decode(&bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
            export::write(&entry, authority, dir)?.say(out);
        } else if args.raw {
            out.bytes(&bytes);
        } else {
            let record = Record::new(&bytes, authority)?;
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
        let record = Record::new(&bytes, session.authority())?;
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
    fn new(bytes: &[u8], authority: &Authority) -> Result<Self, Failure> {
        let entry = Entry::decode(bytes).map_err(|e| Failure::unverified("entry", e.to_string()))?;
        Ok(Self {
            index: entry.index,
            kind: entry.kind,
            time_ms: entry.time_ms,
            sha256: Digest::of(bytes),
            prev: entry.prev,
            digest: entry.envelope.digest(),
            signed_by: authority.signers(&entry.envelope).names(),
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
            EntryKind::Trip
            | EntryKind::Proposal
            | EntryKind::Drill
            | EntryKind::Restore
            | EntryKind::RuleVersion => self.kind.name().into(),
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
        Action::Release(release) => {
            format!("release {} on {scope} {:?}", count(release.locks.count(), "lock"), release.reason)
        }
        Action::Start(start) => {
            format!("start {scope} after {} {:?}", count(start.locks.count(), "lock"), start.reason)
        }
        Action::Grant(grant) => {
            format!("grant {scope} until {} {:?}", instant(grant.expires_at_ms), grant.reason)
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

fn verify_log(out: &Out, globals: &Globals, args: VerifyArgs) -> Result<Exit, Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        deployment: String,
        #[serde(flatten)]
        verified: &'a Verified,
    }
    let (profile, verified) = match args.dir {
        Some(path) => {
            let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
            let tiles = TileDir { path };
            let note = read_checkpoint(&tiles)?;
            let verified = verify_and_remember(out, &profile, &tiles, &note)?;
            (profile, verified)
        }
        None => {
            let session = Session::open(out, globals)?;
            // A node that is only behind gets the time to catch up with what was seen of another.
            let seen = Seen::load(&session.profile)?;
            let (note, _) = session.fetch_checkpoint(seen.size(), &seen)?;
            let verified = verify_and_remember(out, &session.profile, &session.client, &note)?;
            (session.profile, verified)
        }
    };
    out.document(&Report { deployment: profile.deployment().to_string(), verified: &verified });
    let Verified { size, root, kinds, signatures, continues } = &verified;
    let kinds: Vec<_> = kinds.iter().map(|(kind, n)| count(*n, kind)).collect();
    out.line(format!(
        "{}: {} ({}) and {}",
        out.ink(Ink::Green, "verified"),
        entries(*size),
        kinds.join(", "),
        count(*signatures, "signature")
    ));
    out.line(format!("  root {root}"));
    match continues {
        Some(seen) => {
            out.line(format!("  continues the log of {} that this machine had seen", entries(*seen)))
        }
        None => out.line("  the first checkpoint that this machine remembers; later ones must continue it"),
    }
    Ok(Exit::Ok)
}

fn entries(n: u64) -> String {
    if n == 1 { "1 entry".into() } else { format!("{n} entries") }
}

fn verify_and_remember(
    out: &Out,
    profile: &Profile,
    tiles: &dyn Tiles,
    note: &str,
) -> Result<Verified, Failure> {
    let mut seen = Seen::load(profile)?;
    let bar = if out.live() { progress_bar() } else { ProgressBar::hidden() };
    let verified =
        verify::verify(tiles, note, &profile.authority, seen.checkpoint.as_ref(), &mut |done, of| {
            bar.set_length(of);
            bar.set_position(done);
        });
    bar.finish_and_clear();
    let verified = verified?;
    seen.remember(note, &open_checkpoint(note, &profile.authority)?)?;
    Ok(verified)
}

fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("  {bar:30} {human_pos}/{human_len} entries  {per_sec}  {eta} left");
    let bar = ProgressBar::new(0).with_style(style.expect("the template is ours"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn prove(out: &Out, globals: &Globals, args: ProveArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    let (note, checkpoint) = session.checkpoint_note(0)?;
    check_index(args.index, checkpoint.size)?;
    let proof = LogReader::new(&session.client, checkpoint.size).prove(args.index, &note, checkpoint.root)?;
    let text = proof.to_text();
    out.document(&serde_json::json!({ "index": args.index, "size": checkpoint.size, "proof": text, "file": args.output }));
    match &args.output {
        Some(file) => {
            write_new(file, text.as_bytes(), 0o644)?;
            let (index, file) = (args.index, quoted(file));
            out.line(format!("wrote {file}; whoever has the entry verifies it offline:"));
            out.line(format!("  tagout log show {index} --raw > entry-{index}"));
            out.line(format!("  tagout log verify --proof {file} --entry entry-{index}"));
        }
        None if !out.json() => out.bytes(text.as_bytes()),
        None => {}
    }
    Ok(Exit::Ok)
}

fn verify_proof(
    out: &Out,
    globals: &Globals,
    proof: &std::path::Path,
    entry: &std::path::Path,
) -> Result<Exit, Failure> {
    let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
    let text = std::fs::read_to_string(proof).map_err(|e| Failure::file("read the proof", proof, &e))?;
    let bytes = std::fs::read(entry).map_err(|e| Failure::file("read the entry", entry, &e))?;
    let (proof, checkpoint) = check_proof(&text, &bytes, &profile.authority)?;
    let record = Record::new(&bytes, &profile.authority)?;
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

/// Whether `entry` is where the proof says, in a log that a node of the deployment signed.
fn check_proof(
    text: &str,
    entry: &[u8],
    authority: &Authority,
) -> Result<(InclusionProof, Checkpoint), Failure> {
    let wrong = |error: ProofError| Failure::unverified("proof", error.to_string());
    let proof = InclusionProof::parse(text).map_err(wrong)?;
    // Which node signed is not known beforehand.
    open_checkpoint(&proof.checkpoint, authority)?;
    let origin = authority.deployment.to_string();
    let opened = authority.nodes.iter().map(|node| proof.verify(entry, &node.key, &origin));
    let mut refused = None;
    for result in opened {
        match result {
            Ok(checkpoint) => return Ok((proof, checkpoint)),
            Err(error @ ProofError::NotIncluded { .. }) => return Err(wrong(error)),
            Err(error) => refused = Some(error),
        }
    }
    Err(wrong(refused.expect("an authority names a node")))
}
