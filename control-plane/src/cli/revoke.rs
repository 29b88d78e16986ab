//! `tagout revoke`: consent is taken back, for ever. One signature does it, and new consent takes people again.

use clap::Args;
use tagout_proto::command::{Action, Revoke};
use tagout_proto::digest::Digest;
use tagout_proto::ledger::GrantSummary;
use tagout_proto::limits::GRANT_IDS_MAX;
use tagout_proto::scope::Scope;

use super::failure::{Exit, Failure};
use super::out::{Ink, Out, count};
use super::session::Session;
use super::status;
use super::{Globals, KeyArgs, signing};

#[derive(Args)]
pub struct RevokeArgs {
    /// Grant ids, or the first 12 digits of those in force; all 64 also for one that has not arrived yet
    #[arg(required_unless_present = "scope", conflicts_with = "scope", value_name = "GRANT")]
    grants: Vec<String>,
    #[command(flatten)]
    withdrawal: Withdrawal,
    /// Sign and send nothing; show what it would take away
    #[arg(long)]
    dry_run: bool,
}

/// What a revoke takes back, beside those that it names, and why: the same for grants and for enrolments.
#[derive(Args)]
pub struct Withdrawal {
    /// All on this scope and below it
    #[arg(long)]
    pub scope: Option<Scope>,
    /// Where those lie that have not arrived yet
    #[arg(long, value_name = "SCOPE", default_value = "*", conflicts_with = "scope")]
    on: Scope,
    /// Why
    #[arg(long)]
    reason: String,
    /// The incident that it belongs to, such as INC-4711
    #[arg(long)]
    case: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

impl Withdrawal {
    /// Those on its scope, or those with these ids.
    pub fn choose(&self, known: &Known<'_>, ids: &[String]) -> Result<ByScope, Failure> {
        match &self.scope {
            Some(scope) => known.below(scope),
            None => known.named(ids, &self.on),
        }
    }

    pub fn commands(&self, chosen: ByScope) -> Vec<Action> {
        let Self { reason, case, .. } = self;
        let revoke = |(scope, grants)| Revoke { scope, grants, reason: reason.clone(), case: case.clone() };
        chosen.into_iter().map(revoke).map(Action::Revoke).collect()
    }

    /// Signs and sends each of them, and proves that it is in the log.
    pub fn carry_out(&self, session: &Session<'_>, commands: Vec<Action>) -> Result<Exit, Failure> {
        let signers = session.signers_to_tighten(&self.keys)?;
        let mut done = Vec::new();
        for command in commands {
            let signed = session.sign_tightening(command, &signers)?;
            let answer = session.send_said(&signed)?;
            done.push(session.prove_done(&signed, answer)?);
        }
        session.out.document(&serde_json::json!({ "commands": done }));
        Ok(Exit::Ok)
    }
}

pub fn run(out: &Out, globals: &Globals, args: RevokeArgs) -> Result<Exit, Failure> {
    let (mut session, withdrawal) = (Session::open_to_tighten(out, globals)?, &args.withdrawal);
    let grants = match session.client.status() {
        Ok(status) => {
            session.learn_if_shown();
            status.grants
        }
        // Whole ids need no looking up.
        Err(failure) if withdrawal.scope.is_none() => {
            out.note(format!("warning: which grants are in force cannot be said: {failure}"));
            Vec::new()
        }
        Err(failure) => return Err(failure),
    };
    let chosen = withdrawal.choose(&known(&grants), &args.grants)?;
    let taken: Vec<_> = grants.iter().filter(|g| chosen.iter().any(|(_, ids)| ids.contains(&g.id))).collect();
    out.line(format!("{} in force:", count(taken.len() as u64, "grant")));
    status::say_grants(out, taken.iter().copied());
    if let Some(scope) = &withdrawal.scope {
        let above: Vec<_> = grants.iter().filter(|g| g.scope != *scope && g.scope.covers(scope)).collect();
        if !above.is_empty() {
            out.line(format!(
                "{} these lie above {scope}, cover it too and stay:",
                out.ink(Ink::Yellow, "note:")
            ));
            status::say_grants(out, above.into_iter());
        }
    }
    let commands = withdrawal.commands(chosen);
    say_disabled(&session, &commands)?;
    if args.dry_run {
        out.document(&serde_json::json!({ "dry_run": true, "grants": taken }));
        out.line("nothing was signed");
        return Ok(Exit::Ok);
    }
    out.line(
        "new calls are denied where no other grant holds; calls under way go on. Only new consent undoes it",
    );
    withdrawal.carry_out(&session, commands)
}

/// Which agents no grant would cover any more. That a node cannot say it keeps nobody from revoking.
fn say_disabled(session: &Session<'_>, commands: &[Action]) -> Result<(), Failure> {
    for command in commands {
        let document = signing::draft(session.deployment(), command)?;
        match session.client.impact(&document) {
            Ok(impact) => status::say_disabled(session.out, &impact.disables),
            Err(failure) => session.out.note(format!("warning: what it disables cannot be said: {failure}")),
        }
    }
    Ok(())
}

/// Per scope, as many as one document names.
pub type ByScope = Vec<(Scope, Vec<Digest>)>;

/// What is in force and can be revoked.
pub struct Known<'a> {
    /// What one of them is called.
    pub noun: &'static str,
    /// The command that lists them.
    pub listed_by: &'static str,
    pub all: Vec<(&'a Scope, Digest)>,
}

fn known(grants: &[GrantSummary]) -> Known<'_> {
    let all = grants.iter().map(|grant| (&grant.scope, grant.id)).collect();
    Known { noun: "grant", listed_by: "tagout status", all }
}

impl Known<'_> {
    /// All on `scope` and below it.
    fn below(&self, scope: &Scope) -> Result<ByScope, Failure> {
        let ids: Vec<_> = self.all.iter().filter(|(on, _)| scope.covers(on)).map(|(_, id)| *id).collect();
        if ids.is_empty() {
            let Self { noun, listed_by, .. } = self;
            let detail = format!(
                "no {noun} lies on {scope} or below it; `{listed_by} {scope}` shows those that cover it"
            );
            return Err(Failure::new(Exit::Failed, &format!("no-{noun}s"), detail));
        }
        Ok(ids.chunks(GRANT_IDS_MAX).map(|ids| (scope.clone(), ids.to_vec())).collect())
    }

    /// By their ids or by the beginnings that are listed; a whole id may be of one that has not come yet.
    fn named(&self, ids: &[String], on: &Scope) -> Result<ByScope, Failure> {
        let Self { noun, listed_by, .. } = self;
        let mut named: ByScope = Vec::new();
        for text in ids {
            let mut matching = self.all.iter().filter(|(_, id)| id.to_string().starts_with(text.as_str()));
            let short = text.len() < Digest::default().short().len();
            let (scope, id) = match (matching.next(), matching.next(), text.parse()) {
                _ if short => {
                    return Err(Failure::usage(format!(
                        "{text:?} is too short for the id of a {noun}: give its first 12 digits or all 64"
                    )));
                }
                (Some(_), Some(_), _) => {
                    return Err(Failure::usage(format!(
                        "several {noun}s begin with {text}: give all 64 digits"
                    )));
                }
                (Some((scope, id)), None, _) => (*scope, *id),
                (None, _, Ok(id)) => (on, id),
                (None, _, Err(_)) => {
                    let detail = format!(
                        "no {noun} {text} is in force; `{listed_by}` lists those that are, and one that has not arrived \
                         yet is named with all 64 digits"
                    );
                    return Err(Failure::new(Exit::Failed, &format!("no-such-{noun}"), detail));
                }
            };
            match named.iter_mut().find(|(s, ids)| s == scope && ids.len() < GRANT_IDS_MAX) {
                Some((_, ids)) if ids.contains(&id) => {}
                Some((_, ids)) => ids.push(id),
                None => named.push((scope.clone(), vec![id])),
            }
        }
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagout_proto::rule::Terms;

    fn grant(id: u8, on: &str) -> GrantSummary {
        let scope = Scope::parse(on).unwrap();
        GrantSummary {
            scope,
            id: Digest([id; 32]),
            index: id.into(),
            expires_at_ms: 9,
            terms: Terms::default(),
        }
    }

    #[test]
    fn grants_are_named_on_their_own_scopes_and_those_to_come_where_they_are_said_to_lie() {
        let grants = [grant(1, "a"), grant(2, "b"), grant(3, "a")];
        let on = Scope::parse("c").unwrap();
        let find = |ids: &[&str]| {
            known(&grants).named(&ids.iter().map(ToString::to_string).collect::<Vec<_>>(), &on)
        };
        let coming = Digest([9; 32]);
        let found = find(&["010101010101", "030303030303", "010101010101", &coming.to_string()]).unwrap();
        let a = Scope::parse("a").unwrap();
        assert_eq!(found, [(a, vec![Digest([1; 32]), Digest([3; 32])]), (on.clone(), vec![coming])]);
        assert_eq!(find(&["0101"]).unwrap_err().exit, Exit::Usage);
        assert!(find(&["ffffffffffff"]).unwrap_err().to_string().contains("all 64 digits"));
    }

    #[test]
    fn a_scope_means_what_lies_on_it_and_below_it() {
        let grants = [grant(1, "*"), grant(2, "a"), grant(3, "a/b"), grant(4, "c")];
        let found = known(&grants).below(&Scope::parse("a").unwrap()).unwrap();
        assert_eq!(found[0].1, [Digest([2; 32]), Digest([3; 32])]);
        assert!(known(&grants).below(&Scope::parse("d").unwrap()).is_err());
    }
}
