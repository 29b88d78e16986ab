//! One run of a command that talks to the service: the verified profile, the node, and where to say things.

use std::time::{Duration, Instant};

use serde::Serialize;
use tagout_proto::authority::{Authority, Signer as Named, Signers};
use tagout_proto::command::{Action, Command, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::trust::Trust;
use tagout_proto::wire::{CommandAnswer, ProposalRecord};

use super::chain::{self, Disagreement};
use super::client::Client;
use super::failure::{Exit, Failure};
use super::log::seen::{self, Seen};
use super::log::tiles::{LogReader, open_checkpoint};
use super::out::{Ink, Out};
use super::profile::{self, Profile};
use super::proposals::{self, Checked};
use super::signing::{self, Signed};
use super::{Globals, KeyArgs};
use crate::sign::Signer;

/// How long a node may take to write an acknowledged entry into its published log.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(25);

pub struct Session<'a> {
    pub out: &'a Out,
    pub profile: Profile,
    pub client: Client,
}

/// A command that took effect, for programs.
#[derive(Serialize)]
pub struct Done {
    #[serde(flatten)]
    pub answer: CommandAnswer,
    /// Where it stands, unless whoever sent it may not read that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Place>,
}

/// What came of a command that gives.
pub enum Given {
    InForce(CommandAnswer),
    /// Others have to sign it, too.
    Proposed(ProposalRecord),
}

/// What was given, and what was only proposed; for programs.
#[derive(Serialize)]
pub struct Gift {
    pub commands: Vec<Done>,
    pub proposals: Vec<ProposedDone>,
}

#[derive(Serialize)]
pub struct ProposedDone {
    #[serde(flatten)]
    pub proposal: ProposalRecord,
    pub log: Place,
}

/// Where a command lies in the log, by a proof that was checked here.
#[derive(Serialize)]
pub struct Place {
    pub index: u64,
    pub log_size: u64,
    pub log_root: Digest,
}

impl<'a> Session<'a> {
    /// With the newest authority that the node shows and this machine can verify.
    pub fn open(out: &'a Out, globals: &Globals) -> Result<Self, Failure> {
        Self::open_with_entries(out, globals).map(|(session, _)| session)
    }

    /// As [`Session::open`], with the entries of the log where the documents of whom to believe stand.
    pub fn open_with_entries(out: &'a Out, globals: &Globals) -> Result<(Self, Vec<u64>), Failure> {
        let mut session = Self::open_offline(out, globals)?;
        let entries = session.learn()?;
        Ok((session, entries))
    }

    /// As [`Session::open_with_entries`], and where no node answers, with what this machine remembers and no entries.
    pub fn open_or_remembered(out: &'a Out, globals: &Globals) -> Result<(Self, Option<Vec<u64>>), Failure> {
        let mut session = Self::open_offline(out, globals)?;
        match session.learn() {
            Ok(entries) => Ok((session, Some(entries))),
            Err(failure) if failure.exit == Exit::Unreachable => {
                let version = session.authority().version;
                out.note(format!("note: going by what this machine remembers, version {version}: {failure}"));
                Ok((session, None))
            }
            Err(failure) => Err(failure),
        }
    }

    fn open_offline(out: &'a Out, globals: &Globals) -> Result<Self, Failure> {
        let profile = Profile::load(&profile::locate(globals.profile.as_deref())?)?;
        let client = Client::new(&profile, globals)?;
        Ok(Self { out, profile, client })
    }

    /// For whoever takes away: it asks nobody for anything, and goes by what this machine knows (S10).
    pub fn open_to_tighten(out: &'a Out, globals: &Globals) -> Result<Self, Failure> {
        let profile = Profile::load_to_tighten(out, &profile::locate(globals.profile.as_deref())?)?;
        let client = Client::new(&profile, globals)?;
        Ok(Self { out, profile, client })
    }

    /// Verifies whom a node says to believe, and remembers it. Gives the entries of the log where that stands. A node that
    /// shows less than this machine knows may only be behind: the others are asked before it is reported.
    pub fn learn(&mut self) -> Result<Vec<u64>, Failure> {
        let mut behind = None;
        for _ in 0..self.client.node_count() {
            let shown = match self.client.authority() {
                Ok(shown) => shown,
                Err(failure) => return Err(behind.unwrap_or(failure)),
            };
            match self.profile.chain.go_on(shown.documents) {
                Ok(new) => {
                    if new && let Err(failure) = chain::remember(&self.profile, shown.entries.clone()) {
                        self.out.note(format!("warning: this authority will not be remembered: {failure}"));
                    }
                    return Ok(shown.entries);
                }
                Err(wrong) => {
                    let node = self.client.node();
                    let detail = format!("{node}: {wrong}; do not trust this node, ask another with --node");
                    let failure = Failure::unverified(wrong.code(), detail);
                    if !matches!(wrong, Disagreement::Behind { .. }) {
                        return Err(failure);
                    }
                    behind.get_or_insert(failure);
                    self.client.pass_over();
                }
            }
        }
        Err(behind.expect("there is a node, and it was behind"))
    }

    /// As [`Session::learn`] for whoever takes away and can wait for the answer: without one, this machine's is used.
    pub fn learn_if_shown(&mut self) {
        if let Err(failure) = self.learn() {
            self.out.note(format!("warning: going by what this machine knows: {failure}"));
        }
    }

    pub fn trust(&self) -> &Trust {
        self.profile.trust()
    }

    pub fn authority(&self) -> &Authority {
        self.profile.authority()
    }

    pub fn deployment(&self) -> &Deployment {
        self.profile.deployment()
    }

    /// The keys that were named, or else all of the profile's: loosening takes several.
    pub fn signers(&self, args: &KeyArgs) -> Result<Vec<Signer>, Failure> {
        signing::open_signers(if args.keys.is_empty() { &self.profile.keys } else { &args.keys })
    }

    /// As the holders of `signers` would sign who show what roles may ask of keys: whether they do shows when they sign.
    pub fn assumed(&self, signers: &[Signer]) -> Signers<'_> {
        let mut all = Signers::default();
        for signer in signers {
            let key = signer.public_key().key();
            let owner = self.authority().principal_of(key).filter(|_| !self.trust().is_suspended(key));
            match owner {
                Some(principal) if all.valid.iter().any(|named| named.principal.name == principal.name) => {}
                Some(principal) => {
                    all.valid.push(Named { principal, key: key.clone(), presence: true, verification: true });
                }
                None => all.refused.push(format!(
                    "key {} belongs to no principal of this deployment, or is suspended",
                    key.fingerprint()
                )),
            }
        }
        all
    }

    /// Signs something that gives, once the node's log is known to continue what this machine has seen of it: a node that
    /// was set back or shows two histories gets nobody's consent. Knows before it is sent whether the signatures count, and
    /// leaves it to [`Session::give`] whether they suffice.
    ///
    /// A stop is not signed here: it waits for no such question (S10).
    pub fn sign_loosening(&self, action: Action, signers: &[Signer]) -> Result<Signed, Failure> {
        self.checkpoint_to_sign_on()?;
        let signed = Signed::new(self.deployment(), action, signers)?;
        signed.show(self.out, self.trust());
        signed.lacking(self.trust())?;
        Ok(signed)
    }

    /// Signs something that takes away: one signature does it. It is never refused here, since the service knows better
    /// if this machine's authority is old (S10).
    pub fn sign_tightening(&self, action: Action, signers: &[Signer]) -> Result<Signed, Failure> {
        let signed = Signed::new(self.deployment(), action, signers)?;
        signed.show(self.out, self.trust());
        Ok(signed)
    }

    /// The keys that were named, or else the first of the profile's.
    pub fn signers_to_tighten(&self, args: &KeyArgs) -> Result<Vec<Signer>, Failure> {
        let keys = &self.profile.keys;
        signing::open_signers(if args.keys.is_empty() { &keys[..keys.len().min(1)] } else { &args.keys })
    }

    /// As [`Session::checkpoint`], for somebody who is about to sign.
    pub fn checkpoint_to_sign_on(&self) -> Result<Checkpoint, Failure> {
        self.checkpoint(0).map_err(|mut failure| {
            failure.problem.detail.push_str("; nothing was signed");
            failure
        })
    }

    /// Sends a command: what takes away to all nodes at once.
    pub fn send(&self, envelope: &Envelope) -> Result<CommandAnswer, Failure> {
        let command = Command::parse(envelope.document.as_bytes());
        if command.is_ok_and(|command| command.action.kind().tightens_guards()) {
            self.client.tighten(envelope)
        } else {
            self.client.command(envelope)
        }
    }

    /// As [`Session::send`], and says what was done.
    pub fn send_said(&self, signed: &Signed) -> Result<CommandAnswer, Failure> {
        let answer = self.send(&signed.envelope)?;
        self.say_done(&signed.action, &answer);
        Ok(answer)
    }

    /// Sends a command that gives: with too few signatures it is proposed, and others add theirs. `before` are those who had
    /// signed it already, so that it is known who is new.
    pub fn give(&self, signed: &Signed, before: &[String]) -> Result<Given, Failure> {
        if before.is_empty() && signed.lacking(self.trust())?.is_none() {
            return self.send_said(signed).map(Given::InForce);
        }
        let given = match self.client.propose(&signed.envelope) {
            // Another node was asked, too, and had it from the first.
            Err(failure) if failure.problem.code == "nothing-new" && self.adds(signed, before) => {
                let shown = self.client.proposal(&signed.envelope.digest()).map_err(|_| failure)?;
                Given::Proposed(shown.proposal)
            }
            given => given?,
        };
        match &given {
            Given::InForce(answer) => self.say_done(&signed.action, answer),
            Given::Proposed(record) => {
                let (checked, done) =
                    (Checked::new(self, record.clone())?, self.out.ink(Ink::Yellow, "proposed"));
                let (what, entry, id) = (checked.what(), checked.entry(), record.id.short());
                self.out.line(format!("{done} {what} at entry {entry}: proposal {id}, {}", checked.who()));
            }
        }
        Ok(given)
    }

    fn adds(&self, signed: &Signed, before: &[String]) -> bool {
        signed.counting(self.trust()).iter().any(|name| !before.iter().any(|known| known == name))
    }

    /// Proves that what was given or proposed is in the log, and says what is to be done next; the exit code tells which.
    pub fn prove_given(&self, sent: Vec<(Signed, Given)>) -> Result<(Gift, Exit), Failure> {
        let (mut gift, mut open) = (Gift { commands: Vec::new(), proposals: Vec::new() }, Vec::new());
        for (signed, given) in sent {
            match given {
                Given::InForce(answer) => gift.commands.push(self.prove_done(&signed, answer)?),
                Given::Proposed(proposal) => {
                    let checked = Checked::new(self, proposal.clone())?;
                    let log = self.prove(checked.entry(), &signed.envelope)?;
                    self.say_place(&log);
                    open.push(checked);
                    gift.proposals.push(ProposedDone { proposal, log });
                }
            }
        }
        proposals::say_next(self.out, &open);
        let exit = if open.is_empty() { Exit::Ok } else { Exit::Proposed };
        Ok((gift, exit))
    }

    fn say_done(&self, action: &Action, answer: &CommandAnswer) {
        let done = match action {
            Action::Lock(_) => "locked",
            Action::Revoke(_) => "revoked consent or enrolment on",
            Action::Suspend(_) => "suspended keys on",
            Action::Refuse(_) => "refused a proposal for",
            Action::Authority(_) => "changed the authority of",
            Action::Release(_) => "released",
            Action::Start(_) => "started",
            Action::Grant(_) => "granted",
            Action::Enroll(_) => "enrolled",
        };
        let (done, scope) =
            (self.out.ink(Ink::Green, done), self.out.ink(Ink::Bold, answer.scope.to_string()));
        self.out.line(format!("{done} {scope} at entry {}", answer.index));
        say_awaited(self.out, answer);
    }

    /// Proves that what was sent is in the log.
    pub fn prove_done(&self, signed: &Signed, answer: CommandAnswer) -> Result<Done, Failure> {
        match self.prove(answer.index, &signed.envelope) {
            Ok(log) => {
                self.say_place(&log);
                Ok(Done { answer, log: Some(log) })
            }
            // The command was not refused: what takes away takes no identity, and only reading does.
            Err(failure) if failure.exit == Exit::Refused => {
                let warning = self.out.ink(Ink::Yellow, "warning:");
                self.out.line(format!("{warning} the {} stands; but {failure}", answer.action));
                Ok(Done { answer, log: None })
            }
            Err(failure) => Err(failure),
        }
    }

    pub fn say_place(&self, place: &Place) {
        let Place { index, log_size, log_root } = place;
        self.out
            .line(format!("in the log: index {index} of {log_size}, root {}, verified", log_root.short()));
    }

    /// Waits until the node's signed checkpoint covers entry `index`, and proves that `sent` is that entry.
    pub fn prove(&self, index: u64, sent: &Envelope) -> Result<Place, Failure> {
        let checkpoint = self.checkpoint(index + 1)?;
        let reader = LogReader::new(&self.client, checkpoint.size);
        let (bytes, _) = reader.proven_entry(index, checkpoint.root)?;
        let entry =
            Entry::decode(&bytes).map_err(|e| Failure::unverified("entry", format!("entry {index}: {e}")))?;
        if entry.envelope.document != sent.document || entry.index != index {
            let detail =
                format!("entry {index} of the log is not the command that was sent: do not trust this node");
            return Err(Failure::unverified("entry", detail));
        }
        Ok(Place { index, log_size: checkpoint.size, log_root: checkpoint.root })
    }

    /// The node's checkpoint of at least `size` entries: signed, and continuing the newest one that was seen here.
    pub fn checkpoint(&self, size: u64) -> Result<Checkpoint, Failure> {
        self.checkpoint_note(size).map(|(_, checkpoint)| checkpoint)
    }

    /// As [`Session::checkpoint`], with the signed note.
    pub fn checkpoint_note(&self, size: u64) -> Result<(String, Checkpoint), Failure> {
        let seen = Seen::load(&self.profile)?;
        // A log has its genesis at least; a node that has just begun is about to publish it.
        let size = size.max(seen.size()).max(1);
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let (note, checkpoint) = self.fetch_checkpoint(size, &seen)?;
            if checkpoint.size >= size || begun.elapsed() > CHECKPOINT_PATIENCE {
                if checkpoint.size < size && size > seen.size() {
                    let detail = format!(
                        "the node's published log has {} entries and does not cover entry {} yet: look again with \
                         `tagout log show {}`",
                        checkpoint.size,
                        size - 1,
                        size - 1
                    );
                    return Err(Failure::new(Exit::Unreachable, "not-published-yet", detail));
                }
                seen.check(&checkpoint, &self.client)?;
                self.remember(seen, &note, &checkpoint);
                return Ok((note, checkpoint));
            }
            // A node that answers at once although it is behind must not be asked in a tight circle.
            std::thread::sleep(Duration::from_millis(100).saturating_sub(asked.elapsed()));
        }
    }

    /// A node's signed checkpoint of `size` entries. Where none has it, they are asked for the one that they have: that tells
    /// a log that was cut off from a node that is only behind.
    pub fn fetch_checkpoint(&self, size: u64, seen: &Seen) -> Result<(String, Checkpoint), Failure> {
        let opened = |note: String| {
            let checkpoint = open_checkpoint(&note, self.trust())?;
            Ok::<_, Failure>((note, checkpoint))
        };
        let said = match self.client.checkpoint(size) {
            Err(said) if said.problem.code == "no-checkpoint" && size > 0 => said,
            answered => return opened(answered?),
        };
        let mut failed: Option<Failure> = None;
        for _ in 0..self.client.node_count() {
            let (note, checkpoint) = opened(self.client.checkpoint(0)?)?;
            match seen::behind(checkpoint.size, size, seen.size(), said.clone()) {
                Ok(()) => return Ok((note, checkpoint)),
                // One node that has all that was seen is enough to know that the log was not cut off.
                Err(failure) if failure.exit == Exit::Unreachable => failed = Some(failure),
                Err(failure) => failed = failed.or(Some(failure)),
            }
            self.client.pass_over();
        }
        Err(failed.unwrap_or(said))
    }

    /// A folder that cannot be written takes nothing from what was verified now.
    fn remember(&self, mut seen: Seen, note: &str, checkpoint: &Checkpoint) {
        if let Err(failure) = seen.remember(note, checkpoint) {
            self.out.note(format!("warning: this checkpoint will not be remembered: {failure}"));
        }
    }

    /// Waits, for as long as it takes, for a checkpoint of more than `size` entries.
    pub fn checkpoint_beyond(&self, size: u64) -> Result<Checkpoint, Failure> {
        loop {
            let asked = Instant::now();
            let seen = Seen::load(&self.profile)?;
            match self.fetch_checkpoint(size + 1, &seen) {
                Ok((note, checkpoint)) if checkpoint.size > size => {
                    seen.check(&checkpoint, &self.client)?;
                    self.remember(seen, &note, &checkpoint);
                    return Ok(checkpoint);
                }
                Ok(_) => {}
                // Nothing came in the time that the node waits.
                Err(quiet) if quiet.problem.code == "no-checkpoint" => {}
                Err(failure) => return Err(failure),
            }
            std::thread::sleep(Duration::from_secs(1).saturating_sub(asked.elapsed()));
        }
    }
}

fn say_awaited(out: &Out, answer: &CommandAnswer) {
    match answer.awaited {
        0 => {}
        1 => out.line("1 of them has not arrived yet; it is remembered"),
        n => out.line(format!("{n} of them have not arrived yet; it is remembered for each")),
    }
}
