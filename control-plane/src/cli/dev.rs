//! What `tagout dev` asks of its nodes, as anybody would: over HTTP, with signatures and proofs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::rule::Terms;
use tagout_proto::scope::Scope;

use super::Globals;
use super::agent::{enroll_token, new_token};
use super::failure::{Exit, Failure};
use super::files::write_new;
use super::out::{Out, now_ms};
use super::session::Session;
use crate::sign::Signer;

/// How long the demonstration's consent lasts; a start near its end renews it.
const CONSENT_MS: u64 = 30 * 24 * 3600 * 1000;
const RENEW_WITHIN_MS: u64 = 24 * 3600 * 1000;
/// How long the nodes may take to serve.
const START_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Has `scope` granted where no grant is good for another day, and the agents enrolled that have no token in their file yet;
/// waits until all nodes vote that shall. Nodes that have just been started are waited for.
pub fn agree(
    profile: &Path,
    scope: &Scope,
    agents: &[(Scope, PathBuf)],
    signers: &[Signer],
) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match ask(profile, scope, agents, signers) {
            Ok(true) => return Ok(()),
            Ok(false) if begun.elapsed() > START_PATIENCE => {
                let detail = "not all nodes vote yet; `tagout node list` shows which";
                return Err(Failure::new(Exit::Unreachable, "members", detail));
            }
            Err(failure) if failure.exit != Exit::Unreachable || begun.elapsed() > START_PATIENCE => {
                return Err(failure);
            }
            Ok(false) | Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Whether all is as it shall be.
fn ask(
    profile: &Path,
    scope: &Scope,
    agents: &[(Scope, PathBuf)],
    signers: &[Signer],
) -> Result<bool, Failure> {
    // With documents for programs wanted, and none given, it says nothing.
    let out = Out::new(true);
    let session = Session::open(&out, &Globals { profile: Some(profile.into()), ..Globals::default() })?;
    let (now, grants) = (now_ms(), session.client.status()?.grants);
    if !grants.iter().any(|g| g.scope == *scope && g.expires_at_ms > now + RENEW_WITHIN_MS) {
        let (seen, epoch) = (session.checkpoint_to_sign_on()?, session.trust().epoch());
        let grant = Grant {
            scope: scope.clone(),
            expires_at_ms: now + CONSENT_MS,
            seen: Seen { epoch: epoch.id, size: seen.size, authority: session.authority().version },
            terms: Terms::default(),
            reason: "demonstration".into(),
        };
        let signed = session.sign_loosening(Action::Grant(grant), signers)?;
        session.send(&signed.envelope)?;
    }
    // A deployment of an older version has nobody who may, and asks for none.
    for (agent, file) in agents.iter().filter(|(_, file)| session.authority().enrolment && !file.exists()) {
        let (token, reason) = (new_token(), "demonstration".into());
        enroll_token(&session, &token, agent.clone(), None, reason, signers)?;
        write_new(file, token.reveal().as_bytes(), 0o600)?;
    }
    let voters = session.client.cluster()?.voters;
    Ok(session.authority().nodes.iter().all(|node| node.learner || voters.contains(&node.id)))
}
