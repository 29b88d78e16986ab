//! `tagout proposals`: what was signed by too few. It is looked at, signed or refused; silence is never consent.
//!
//! A node's word is taken for what a proposal would let run, and for nothing else: its id is the SHA-256 of the bytes that
//! are shown and signed here, and who signed them is verified here.

use clap::{Args, Subcommand};
use tagout_proto::authority::Unauthorised;
use tagout_proto::command::{Action, Command, Grant, LockSet, Refuse};
use tagout_proto::digest::Digest;
use tagout_proto::rule::Verdict;
use tagout_proto::scope::Scope;
use tagout_proto::wire::{Enables, ProposalRecord};

use super::failure::{Exit, Failure};
use super::out::{Ink, Out, count, instant, now_ms, span};
use super::restart::send_each;
use super::session::Session;
use super::signing::{self, Signed};
use super::status;
use super::{Globals, KeyArgs};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ProposalsArgs {
    #[command(subcommand)]
    verb: Option<ProposalVerb>,
    /// Only this scope, and what lies above and below it
    scope: Option<Scope>,
}

#[derive(Subcommand)]
enum ProposalVerb {
    /// Show one in full: its parameters, who signed it, and what it would let run
    Show(ShowArgs),
    /// Show them in full and sign their exact bytes; with enough signatures they take effect
    Sign(SignArgs),
    /// End them, for ever: their commands can never take effect any more. One signature is enough
    Refuse(RefuseArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// Its id, or the first 12 digits
    #[arg(value_name = "PROPOSAL")]
    id: String,
}

#[derive(Args)]
struct SignArgs {
    /// Their ids, or the first 12 digits; releases are signed before starts
    #[arg(required = true, value_name = "PROPOSAL")]
    ids: Vec<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Args)]
struct RefuseArgs {
    /// Their ids, or the first 12 digits
    #[arg(required = true, value_name = "PROPOSAL")]
    ids: Vec<String>,
    /// Why
    #[arg(long)]
    reason: String,
    /// The incident that it belongs to, such as INC-4711
    #[arg(long)]
    case: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

pub fn run(out: &Out, globals: &Globals, args: ProposalsArgs) -> Result<Exit, Failure> {
    let session = Session::open(out, globals)?;
    match args.verb {
        None => list(&session, &args.scope.unwrap_or_else(Scope::fleet)),
        Some(ProposalVerb::Show(args)) => show(&session, &args.id),
        Some(ProposalVerb::Sign(args)) => sign(&session, &args),
        Some(ProposalVerb::Refuse(args)) => refuse(&session, args),
    }
}

/// A proposal whose bytes and signatures were verified here.
pub struct Checked {
    record: ProposalRecord,
    action: Action,
    signed_by: Vec<String>,
    missing: Option<Unauthorised>,
}

impl Checked {
    pub fn new(session: &Session<'_>, record: ProposalRecord) -> Result<Self, Failure> {
        let wrong = |what: &str| {
            let (node, id) = (session.client.node(), record.id);
            let detail = format!(
                "{node} shows as proposal {id} {what}: do not trust it, and sign nothing that it shows"
            );
            Failure::unverified("proposal", detail)
        };
        if record.command.digest() != record.id {
            return Err(wrong("a document with another digest"));
        }
        let command = Command::parse(record.command.document.as_bytes())
            .map_err(|error| wrong(&format!("what is no command ({error})")))?;
        if command.deployment != *session.deployment() {
            return Err(wrong("a command of another deployment"));
        }
        let action = command.action;
        if (action.kind(), action.scope()) != (record.action, record.scope.clone()) {
            return Err(wrong("a command that is something else than it says"));
        }
        let signed = Signed { action, envelope: record.command.clone() };
        let trust = session.trust();
        let signed_by = signed.counting(trust).into_iter().map(str::to_owned).collect();
        let missing = trust.authorise(signed.action.kind(), &signed.action.scope(), &signed.envelope).err();
        Ok(Self { record, action: signed.action, signed_by, missing })
    }

    fn expired(&self) -> bool {
        self.record.expires_at_ms <= now_ms()
    }

    pub fn what(&self) -> String {
        format!("{} {}", self.record.action, self.record.scope)
    }

    fn names(&self) -> String {
        match self.signed_by.as_slice() {
            [] => "nobody who counts any more".into(),
            names => names.join(", "),
        }
    }

    /// The newest entry that brought a signature, by the node's word: `Session::prove` proves it.
    pub fn entry(&self) -> u64 {
        self.record.entries.last().copied().unwrap_or_default()
    }

    pub fn who(&self) -> String {
        format!("signed by {}", self.names())
    }

    fn missing(&self) -> String {
        match &self.missing {
            Some(Unauthorised::BelowThreshold { missing_count, missing, .. }) => {
                format!("missing: {missing_count} more of {missing}")
            }
            Some(other) => other.to_string(),
            None => "enough have signed: whoever signs it again sends it".into(),
        }
    }

    fn until(&self, out: &Out) -> String {
        let at = instant(self.record.expires_at_ms);
        match self.record.expires_at_ms.saturating_sub(now_ms()) {
            0 => format!("{} at {at}: propose it again", out.ink(Ink::Yellow, "expired")),
            left => format!("until {at} ({} left)", span(left)),
        }
    }

    /// All that is signed, and what it would let run.
    fn say_in_full(&self, session: &Session<'_>, enables: &Enables) -> Result<(), Failure> {
        let out = session.out;
        out.line(format!("{} {}", out.ink(Ink::Bold, format!("proposal {}", self.record.id)), self.what()));
        let entries: Vec<_> = self.record.entries.iter().map(ToString::to_string).collect();
        let mut rows = vec![
            ("signed by", format!("{}; {}", self.names(), self.missing())),
            ("open", self.until(out)),
            ("in the log", format!("entry {}", entries.join(", "))),
        ];
        rows.extend(parameters(&self.action));
        for (name, value) in rows {
            out.line(format!("  {name:<11}{value}"));
        }
        self.say_locks(session)?;
        say_enables(out, &self.action, enables);
        Ok(())
    }

    fn say_locks(&self, session: &Session<'_>) -> Result<(), Failure> {
        let locks = match &self.action {
            Action::Release(release) => &release.locks,
            Action::Start(start) => &start.locks,
            _ => return Ok(()),
        };
        let LockSet::Ids(ids) = locks else { return Ok(()) };
        let known = session.client.locks(&self.record.scope)?.locks;
        let named: Vec<_> = known.into_iter().filter(|record| ids.contains(&record.lock.id)).collect();
        status::say_some(session.out, &named);
        let others = ids.len() - named.len();
        if others > 0 {
            session.out.line(match named.is_empty() {
                true => "  none of its locks is in force any more: there is nothing left to lift".into(),
                false => format!(
                    "  {} of its {} are not in force any more",
                    others,
                    count(ids.len() as u64, "lock")
                ),
            });
        }
        Ok(())
    }
}

/// The parameters of a command in words, scope and reason included.
fn parameters(action: &Action) -> Vec<(&'static str, String)> {
    let mut rows = vec![("scope", action.scope().to_string())];
    let locks = |locks: &LockSet| match locks {
        LockSet::Ids(ids) => {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            ids.join(", ")
        }
        LockSet::Bulk(bulk) => {
            let by = bulk.by.as_ref().map(|by| format!(" that {by} placed")).unwrap_or_default();
            let locks = count(bulk.count, "lock");
            format!("{locks}{by} from before entry {}, with root {}", bulk.before, bulk.root)
        }
    };
    let reason = match action {
        Action::Release(release) => {
            rows.push(("locks", locks(&release.locks)));
            let lost = release.lost_from.map(|at| {
                format!(
                    "signs that locks from entry {at} on may be lost, by the restore whose halt it releases"
                )
            });
            rows.extend(lost.map(|lost| ("lost_from", lost)));
            &release.reason
        }
        Action::Start(start) => {
            rows.push(("locks", locks(&start.locks)));
            &start.reason
        }
        Action::Grant(grant) => {
            let left = span(grant.expires_at_ms.saturating_sub(now_ms()));
            rows.push(("until", format!("{} ({left} left)", instant(grant.expires_at_ms))));
            rows.push(("terms", status::terms(&grant.terms)));
            let (seen, epoch) = (&grant.seen, grant.seen.epoch.short());
            let seen = format!("{} log entries, authority {}, epoch {epoch}", seen.size, seen.authority);
            rows.push(("seen", seen));
            &grant.reason
        }
        Action::Enroll(enroll) => {
            rows.push(("token", format!("with SHA-256 {}", enroll.token)));
            let until = enroll.expires_at_ms.map_or("it is revoked".into(), instant);
            rows.push(("until", until));
            &enroll.reason
        }
        Action::Lock(_)
        | Action::Revoke(_)
        | Action::Suspend(_)
        | Action::Refuse(_)
        | Action::Authority(_) => {
            return rows;
        }
    };
    rows.push(("reason", format!("{reason:?}")));
    rows
}

/// What a node says that it would let run; for agents that come later, the parameters say it.
fn say_enables(out: &Out, action: &Action, enables: &Enables) {
    let (agents, instances) = (count(enables.agents, "agent"), count(enables.instances, "instance"));
    let more = match enables.more {
        0 => format!("nothing more than now for {agents} with {instances}"),
        more => out.ink(Ink::Yellow, format!("more than now for {more} of {agents} with {instances}:")),
    };
    out.line(format!("  {:<11}{more}", "enables"));
    if enables.unheard > 0 {
        let silent = count(enables.unheard, "node");
        let note = out.ink(Ink::Yellow, format!("{silent} did not answer, and may know of more agents"));
        out.line(format!("  {:<11}{note}", ""));
    }
    let besides = match action {
        Action::Release(_) if enables.more == 0 => "what was halted or drained needs its start, too".into(),
        Action::Grant(grant) => {
            format!("it holds for whatever comes on {} or below until then, too", grant.scope)
        }
        Action::Enroll(_) => "whoever has its token gets leases there; it consents to nothing".into(),
        _ => String::new(),
    };
    if !besides.is_empty() {
        out.line(format!("  {:<11}{besides}", ""));
    }
    let rows: Vec<_> = (enables.first.iter())
        .map(|agent| {
            let change = format!("{} → {}", named(agent.verdict), named(agent.verdict_then));
            vec![agent.scope.to_string(), change, count(agent.instances, "instance")]
        })
        .collect();
    out.table(&rows);
    let rest = enables.more - enables.first.len() as u64;
    if rest > 0 {
        out.line(format!("  … and {rest} more"));
    }
}

fn named(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Enabled => "ENABLED",
        Verdict::EssentialOnly => "ESSENTIAL ONLY",
        Verdict::Denied => "DENIED",
    }
}

fn list(session: &Session<'_>, scope: &Scope) -> Result<Exit, Failure> {
    let found = session.client.proposals(scope)?;
    let checked: Vec<Checked> = (found.proposals.iter().cloned())
        .map(|record| Checked::new(session, record))
        .collect::<Result<_, _>>()?;
    let out = session.out;
    out.document(&found);
    out.line(count(checked.len() as u64, "proposal"));
    let rows: Vec<_> = (checked.iter())
        .map(|proposal| {
            let (id, until) = (proposal.record.id.short(), proposal.until(out));
            vec![id, proposal.what(), proposal.who(), proposal.missing(), until]
        })
        .collect();
    out.table(&rows);
    Ok(Exit::Ok)
}

/// Finds proposals by their ids or by the beginnings that are listed.
fn find(session: &Session<'_>, ids: &[String]) -> Result<Vec<Digest>, Failure> {
    let open = session.client.proposals(&Scope::fleet())?.proposals;
    let mut found = Vec::new();
    for text in ids {
        if text.len() < Digest::default().short().len() {
            return Err(Failure::usage(format!(
                "{text:?} is too short for the id of a proposal: give its first 12 digits or all 64"
            )));
        }
        let mut matching = open.iter().map(|record| record.id).filter(|id| id.to_string().starts_with(text));
        let id = match (matching.next(), matching.next(), text.parse()) {
            (Some(_), Some(_), _) => {
                return Err(Failure::usage(format!(
                    "several proposals begin with {text}: give all 64 digits"
                )));
            }
            (Some(id), None, _) | (None, _, Ok(id)) => id,
            (None, _, Err(_)) => {
                let detail = format!(
                    "no proposal {text} is open: it took effect, expired or was refused, or there never was one; \
                     `tagout proposals` lists those that are, and the log has all of them"
                );
                return Err(Failure::new(Exit::Failed, "no-such-proposal", detail));
            }
        };
        if !found.contains(&id) {
            found.push(id);
        }
    }
    Ok(found)
}

fn show(session: &Session<'_>, id: &str) -> Result<Exit, Failure> {
    for id in find(session, &[id.to_owned()])? {
        let shown = session.client.proposal(&id)?;
        let checked = Checked::new(session, shown.proposal.clone())?;
        checked.say_in_full(session, &shown.enables)?;
        session
            .out
            .line(format!("  document   {}", session.out.ink(Ink::Dim, &checked.record.command.document)));
        session.out.document(&shown);
    }
    Ok(Exit::Ok)
}

fn sign(session: &Session<'_>, args: &SignArgs) -> Result<Exit, Failure> {
    let signers = session.signers(&args.keys)?;
    let mut proposals = Vec::new();
    for id in find(session, &args.ids)? {
        let shown = session.client.proposal(&id)?;
        let checked = Checked::new(session, shown.proposal)?;
        if checked.expired() {
            let (what, at) = (checked.what(), instant(checked.record.expires_at_ms));
            let detail =
                format!("proposal {id} ({what}) expired at {at}: propose it again; nothing was signed");
            return Err(Failure::new(Exit::Refused, "expired", detail));
        }
        proposals.push((checked, shown.enables));
    }
    // S2: what is released comes before what is started.
    proposals.sort_by_key(|(checked, _)| checked.record.action);
    session.checkpoint_to_sign_on()?;
    let mut signed = Vec::new();
    for (checked, enables) in proposals {
        checked.say_in_full(session, &enables)?;
        let envelope = signing::sign(checked.record.command.document.clone(), &signers)?;
        let mine = Signed { action: checked.action, envelope };
        mine.show(session.out, session.trust());
        mine.lacking(session.trust())?;
        signed.push((mine, checked.signed_by));
    }
    let (gift, exit) = send_each(session, signed)?;
    session.out.document(&gift);
    Ok(exit)
}

fn refuse(session: &Session<'_>, args: RefuseArgs) -> Result<Exit, Failure> {
    let signers = session.signers_to_tighten(&args.keys)?;
    let mut done = Vec::new();
    for id in find(session, &args.ids)? {
        let checked = Checked::new(session, session.client.proposal(&id)?.proposal)?;
        session.out.line(format!("proposal {} ({}), {}", id.short(), checked.what(), checked.who()));
        let (scope, reason, case) = (checked.record.scope, args.reason.clone(), args.case.clone());
        let refuse = Action::Refuse(Refuse { scope, proposal: id, reason, case });
        let signed = session.sign_tightening(refuse, &signers)?;
        let answer = session.send_said(&signed)?;
        done.push(session.prove_done(&signed, answer)?);
    }
    session.out.document(&serde_json::json!({ "commands": done }));
    Ok(Exit::Ok)
}

/// The lines that the next person runs.
pub fn say_next(out: &Out, open: &[Checked]) {
    let Some(first) = open.first() else { return };
    for checked in open {
        let (id, missing) = (checked.record.id.short(), checked.missing.as_ref());
        out.line(format!("  {id}: {}", missing.map_or_else(|| checked.missing(), ToString::to_string)));
    }
    let left = span(first.record.expires_at_ms.saturating_sub(now_ms()));
    let ids: Vec<_> = open.iter().map(|checked| checked.record.id.short()).collect();
    out.line(format!(
        "nothing is in force yet. Who signs next has {left}, and looks at it before (`tagout proposals show`):"
    ));
    out.line(format!("  tagout proposals sign {}", ids.join(" ")));
}

/// Where the same is proposed already, it is that proposal that people sign: a second one would halve its signatures.
pub fn check_not_proposed(session: &Session<'_>, commands: &[Signed]) -> Result<(), Failure> {
    let mut same = Vec::new();
    for signed in commands {
        if signed.lacking(session.trust())?.is_none() {
            continue;
        }
        for record in session.client.proposals(&signed.action.scope())?.proposals {
            let checked = Checked::new(session, record)?;
            if alike(&checked.action, &signed.action) {
                same.push(checked);
            }
        }
    }
    let Some(first) = same.first() else { return Ok(()) };
    let ids: Vec<_> = same.iter().map(|checked| checked.record.id.short()).collect();
    let detail = format!(
        "the same is proposed already, {}, {}: `tagout proposals sign {}` adds a signature to that; nothing was sent",
        first.who(),
        first.missing(),
        ids.join(" ")
    );
    Err(Failure::new(Exit::MissingSignatures, "proposed-already", detail))
}

/// The open proposals of grants that others can still sign.
pub fn of_grants(session: &Session<'_>, below: &Scope) -> Result<Vec<(Digest, Grant)>, Failure> {
    let mut open = Vec::new();
    for record in session.client.proposals(below)?.proposals {
        let checked = Checked::new(session, record)?;
        let waits = matches!(checked.missing, None | Some(Unauthorised::BelowThreshold { .. }));
        if let Action::Grant(grant) = checked.action
            && waits
        {
            open.push((checked.record.id, grant));
        }
    }
    Ok(open)
}

/// Whether two commands do the same, whatever their reasons.
fn alike(one: &Action, other: &Action) -> bool {
    match (one, other) {
        (Action::Release(one), Action::Release(other)) => {
            (&one.scope, &one.locks, one.lost_from) == (&other.scope, &other.locks, other.lost_from)
        }
        (Action::Start(one), Action::Start(other)) => {
            (&one.scope, &one.locks) == (&other.scope, &other.locks)
        }
        _ => false,
    }
}

/// Open proposals, for `tagout status`: one line each.
pub fn say_open(session: &Session<'_>, records: &[ProposalRecord]) -> Result<(), Failure> {
    let checked = records.iter().map(|record| Checked::new(session, record.clone()));
    let rows = checked.map(|checked| {
        let checked = checked?;
        let left = format!("{} left", span(checked.record.expires_at_ms.saturating_sub(now_ms())));
        Ok(vec![checked.record.id.short(), checked.what(), checked.who(), left])
    });
    session.out.table(&rows.collect::<Result<Vec<_>, Failure>>()?);
    Ok(())
}
