//! Enrolments: who may ask for an agent's leases, so that a stopped agent does not come back under another name (S4).
//!
//! A token is 256 random bits in a process's hands; the log and this state hold its SHA-256 alone. It consents to nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Ledger, Receipt};
use crate::command::Enroll;
use crate::digest::Digest;
use crate::scope::Scope;
use crate::strict::format_instant_ms;

/// One enrolment, for people too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    pub scope: Scope,
    pub expires_at_ms: Option<u64>,
    pub reason: String,
    /// Who signed it.
    pub by: Vec<String>,
    /// Its entry in the log.
    pub index: u64,
    /// The entry's time, Unix milliseconds.
    pub time_ms: u64,
}

/// By the token's SHA-256, then by the document's: one token may be enrolled for several scopes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Enrolments(BTreeMap<Digest, BTreeMap<Digest, Enrolment>>);

/// Why a process gets no lease of an agent. The texts tell what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotEnrolled {
    #[error(
        "this deployment gives leases to enrolled agents only, and no token was sent: make one with \
         `tagout agent enroll {agent}` and give it to the client"
    )]
    NoToken { agent: Scope },
    #[error(
        "the token is unknown in this deployment: enroll the agent with `tagout agent enroll {agent}` and give the client its \
         token"
    )]
    Unknown { agent: Scope },
    #[error(
        "the token's enrolment was revoked at entry {index}: enroll the agent anew with `tagout agent enroll {agent}`"
    )]
    Revoked { agent: Scope, index: u64 },
    #[error(
        "the token's enrolment ended at {}: enroll the agent anew with `tagout agent enroll {agent}`", format_instant_ms(*.at_ms)
    )]
    Ended { agent: Scope, at_ms: u64 },
    #[error(
        "the token is enrolled for {}, not for {agent}: a process guards only what it was enrolled for", names(.scopes)
    )]
    Elsewhere { agent: Scope, scopes: Vec<Scope> },
}

fn names(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(", ")
}

impl Enrolments {
    pub(super) fn add(&mut self, enroll: Enroll, by: Vec<String>, receipt: &Receipt) {
        let Enroll { scope, token, expires_at_ms, reason } = enroll;
        let (index, time_ms) = (receipt.index, receipt.time_ms);
        let enrolment = Enrolment { scope, expires_at_ms, reason, by, index, time_ms };
        self.0.entry(token).or_default().insert(receipt.digest, enrolment);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Digest, &Enrolment)> {
        self.0.values().flatten().map(|(id, enrolment)| (*id, enrolment))
    }
}

impl Ledger {
    /// Whether the holder of the token with this SHA-256 may guard `agent` at `now_ms`. Without a token it may where the
    /// authority does not ask for one.
    pub fn admits(&self, token: Option<&Digest>, agent: &Scope, now_ms: u64) -> Result<(), NotEnrolled> {
        match token {
            Some(token) => self.enrolled(token, agent, now_ms),
            None if self.authority().is_some_and(|authority| authority.enrolment) => {
                Err(NotEnrolled::NoToken { agent: agent.clone() })
            }
            None => Ok(()),
        }
    }

    /// Whether the token with this SHA-256 is enrolled for `agent` at `now_ms`, asked for or not.
    pub fn enrolled(&self, token: &Digest, agent: &Scope, now_ms: u64) -> Result<(), NotEnrolled> {
        let mut why = NotEnrolled::Unknown { agent: agent.clone() };
        let mut scopes = Vec::new();
        for (id, enrolment) in self.enrolments.0.get(token).into_iter().flatten() {
            let agent = agent.clone();
            match (self.void_since(id), enrolment.expires_at_ms) {
                (Some(index), _) => why = NotEnrolled::Revoked { agent, index },
                (None, Some(at_ms)) if at_ms <= now_ms => why = NotEnrolled::Ended { agent, at_ms },
                (None, _) if enrolment.scope.covers(&agent) => return Ok(()),
                (None, _) => scopes.push(enrolment.scope.clone()),
            }
        }
        Err(if scopes.is_empty() { why } else { NotEnrolled::Elsewhere { agent: agent.clone(), scopes } })
    }

    /// For what the token with this SHA-256 is enrolled at `now_ms`.
    pub fn enrolled_for(&self, token: &Digest, now_ms: u64) -> Vec<Scope> {
        let of_token = self.enrolments.0.get(token).into_iter().flatten();
        let holds = of_token.filter(|(id, enrolment)| self.holds(id, enrolment, now_ms));
        holds.map(|(_, enrolment)| enrolment.scope.clone()).collect()
    }

    /// Enrolments that hold at `now_ms`, with the SHA-256 of their documents, the oldest first.
    pub fn enrolments(&self, now_ms: u64) -> Vec<(Digest, &Enrolment)> {
        let holds = |(id, enrolment): &(Digest, &Enrolment)| self.holds(id, enrolment, now_ms);
        let mut enrolments: Vec<_> = self.enrolments.iter().filter(holds).collect();
        enrolments.sort_by_key(|(_, enrolment)| enrolment.index);
        enrolments
    }

    /// Those that hold at `now_ms` and end by `until_ms`, unless another one of the same token covers the scope for longer.
    pub fn enrolments_ending(&self, now_ms: u64, until_ms: u64) -> Vec<(Digest, &Enrolment)> {
        let ends = |enrolment: &Enrolment| enrolment.expires_at_ms.is_some_and(|at_ms| at_ms <= until_ms);
        let mut ending = Vec::new();
        for of_token in self.enrolments.0.values().filter(|of_token| of_token.values().any(ends)) {
            let holding = || of_token.iter().filter(|(id, enrolment)| self.holds(id, enrolment, now_ms));
            // When the last one on each scope ends.
            let mut last: BTreeMap<&Scope, u64> = BTreeMap::new();
            for (_, enrolment) in holding() {
                let ends_at_ms = last.entry(&enrolment.scope).or_default();
                *ends_at_ms = (*ends_at_ms).max(enrolment.expires_at_ms.unwrap_or(u64::MAX));
            }
            for (id, enrolment) in holding().filter(|(_, enrolment)| ends(enrolment)) {
                let covered_until =
                    enrolment.scope.upward().filter_map(|scope| last.get(&scope).copied()).max();
                if covered_until == enrolment.expires_at_ms {
                    ending.push((*id, enrolment));
                }
            }
        }
        ending
    }

    fn holds(&self, id: &Digest, enrolment: &Enrolment, now_ms: u64) -> bool {
        self.void_since(id).is_none() && enrolment.expires_at_ms.is_none_or(|at_ms| now_ms < at_ms)
    }
}
