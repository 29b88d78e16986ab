//! What ends by itself and soon: consent, which one ceremony renews, enrolments and API tokens. The nodes warn of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::ledger::GrantSummary;
use tagout_proto::scope::Scope;
use tagout_proto::strict::format_instant_ms;
use tagout_proto::wire::TokenRecord;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::clock;
use crate::replica::Replica;

pub const HOUR_MS: u64 = 3600 * 1000;
/// How long before its end something is warned of, in hours, longest first.
pub const WARNED_BEFORE_H: [u64; 3] = [72, 24, 1];
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Those that end by `until_ms`, unless another one of the same scope and terms holds beyond it; of several that end, the last.
pub fn due(grants: &[GrantSummary], until_ms: u64) -> Vec<&GrantSummary> {
    let by_scope = by_scope(grants);
    let followed = |grant: &GrantSummary| {
        by_scope[&grant.scope].iter().any(|other| {
            other.terms == grant.terms
                && (other.expires_at_ms, other.index) > (grant.expires_at_ms, grant.index)
        })
    };
    grants.iter().filter(|grant| grant.expires_at_ms <= until_ms && !followed(grant)).collect()
}

/// Few stand on each scope, and a scope has few above it: so nothing is compared with everything.
fn by_scope(grants: &[GrantSummary]) -> BTreeMap<&Scope, Vec<&GrantSummary>> {
    let mut by_scope: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for grant in grants {
        by_scope.entry(&grant.scope).or_default().push(grant);
    }
    by_scope
}

/// Those that are due and that no parent with the same terms outlives, so that somebody loses something.
fn lost(grants: &[GrantSummary], until_ms: u64) -> Vec<&GrantSummary> {
    let by_scope = by_scope(grants);
    let carried = |grant: &GrantSummary| {
        grant.scope.upward().any(|scope| {
            by_scope
                .get(&scope)
                .into_iter()
                .flatten()
                .any(|other| other.terms == grant.terms && other.expires_at_ms > grant.expires_at_ms)
        })
    };
    due(grants, until_ms).into_iter().filter(|grant| !carried(grant)).collect()
}

/// Something that ends by itself, with nothing to follow it.
pub struct Ending {
    pub what: What,
    /// The document's SHA-256, or one of a token's name and end, which is no secret.
    pub id: Digest,
    pub scope: Scope,
    pub ends_at_ms: u64,
    /// Its entry, where it is in the log.
    pub index: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Grant,
    Enrolment,
    /// An API token of this name.
    ApiToken(String),
}

impl Ending {
    /// What ends within the longest of [`WARNED_BEFORE_H`].
    pub fn all(replica: &Replica, tokens: &[TokenRecord], now_ms: u64) -> Vec<Self> {
        let until_ms = now_ms + WARNED_BEFORE_H[0] * HOUR_MS;
        // Copied, so that nothing is compared while a stop waits for the ledger (S10).
        let (grants, enrolments) = {
            let ledger = replica.ledger();
            let enrolments = ledger.enrolments_ending(now_ms, until_ms).into_iter();
            let enrolments = enrolments.map(|(id, enrolment)| (id, enrolment.clone()));
            (ledger.grants(now_ms), enrolments.collect::<Vec<_>>())
        };
        let grants = lost(&grants, until_ms).into_iter().map(|grant| Self {
            what: What::Grant,
            id: grant.id,
            scope: grant.scope.clone(),
            ends_at_ms: grant.expires_at_ms,
            index: Some(grant.index),
        });
        let enrolments = enrolments.into_iter().map(|(id, enrolment)| Self {
            what: What::Enrolment,
            id,
            scope: enrolment.scope,
            ends_at_ms: enrolment.expires_at_ms.unwrap_or(until_ms),
            index: Some(enrolment.index),
        });
        let live =
            tokens.iter().filter(|token| now_ms < token.expires_at_ms && token.expires_at_ms <= until_ms);
        let tokens = live.map(|token| Self {
            what: What::ApiToken(token.name.clone()),
            id: Digest::of(format!("API token {} until {}", token.name, token.expires_at_ms).as_bytes()),
            scope: if let [scope] = &token.scopes[..] { scope.clone() } else { Scope::fleet() },
            ends_at_ms: token.expires_at_ms,
            index: None,
        });
        grants.chain(enrolments).chain(tokens).collect()
    }

    /// The time before its end, in hours, by which it is to be warned of now. Found late, that is the shortest that fits.
    pub fn within_h(&self, now_ms: u64) -> Option<u64> {
        WARNED_BEFORE_H.into_iter().filter(|hours| self.ends_at_ms <= now_ms + hours * HOUR_MS).min()
    }

    pub fn title(&self) -> String {
        let scope = &self.scope;
        match &self.what {
            What::Grant => format!("consent of {scope}"),
            What::Enrolment => format!("the enrolment of {scope}"),
            What::ApiToken(name) => format!("API token {name}"),
        }
    }

    /// What to run, so that something follows it.
    pub fn next(&self, hours: u64) -> String {
        match &self.what {
            What::Grant => format!("tagout grant --renew-due --within {hours}h --for 72h --reason WHY"),
            What::Enrolment => format!("tagout agent enroll {} --reason WHY", self.scope),
            What::ApiToken(name) => {
                format!(
                    "tagout token new {name}-2 --role ROLE --access FILE, then tagout token revoke {name} --access FILE"
                )
            }
        }
    }
}

/// Says in the node's log what ends soon: once for each of the times before.
pub async fn warn(replica: Arc<Replica>, access: Arc<Access>, shutdown: CancellationToken) {
    let mut said: BTreeSet<(Digest, u64)> = BTreeSet::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let now_ms = clock::wall_ms();
        let endings = Ending::all(&replica, &access.tokens(), now_ms);
        said.retain(|(id, _)| endings.iter().any(|ending| ending.id == *id));
        for ending in &endings {
            let Some(hours) = ending.within_h(now_ms) else { continue };
            if said.insert((ending.id, hours)) {
                tracing::warn!(
                    scope = %ending.scope, id = %ending.id, until = format_instant_ms(ending.ends_at_ms),
                    "{} ends within {hours} h, and nothing follows it: {}", ending.title(), ending.next(hours)
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tagout_proto::rule::Terms;

    use super::*;

    fn grant(scope: &str, index: u64, expires_at_ms: u64, essential: &[&str]) -> GrantSummary {
        let terms =
            Terms { essential: essential.iter().map(ToString::to_string).collect(), ..Terms::default() };
        GrantSummary {
            scope: Scope::parse(scope).unwrap(),
            id: Digest([index as u8; 32]),
            index,
            expires_at_ms,
            terms,
        }
    }

    #[test]
    fn what_ends_soon_and_is_not_followed_is_due() {
        let grants = [
            grant("demo", 1, 10, &[]),
            grant("demo", 2, 10, &["handover"]), // of other terms: without it, the class would go
            grant("demo", 3, 99, &["handover"]),
            grant("demo/a", 4, 10, &[]), // what its parent has is no reason to lose its own
            grant("demo/b", 5, 10, &[]),
            grant("demo/b", 6, 10, &[]), // the same once more: one of them is enough
            grant("demo/c", 7, 11, &[]),
        ];
        let indices: Vec<_> = due(&grants, 10).iter().map(|grant| grant.index).collect();
        assert_eq!(indices, [1, 4, 6]);
    }

    #[test]
    fn what_a_parent_with_the_same_terms_outlives_is_due_and_no_loss() {
        let grants = [
            grant("demo", 1, 99, &[]),
            grant("demo/a/b", 2, 10, &[]),
            grant("demo/c", 3, 10, &["handover"]), // the parent has no such class
            grant("other", 4, 10, &[]),
        ];
        let indices = |grants: Vec<&GrantSummary>| grants.iter().map(|grant| grant.index).collect::<Vec<_>>();
        assert_eq!(indices(due(&grants, 10)), [2, 3, 4]);
        assert_eq!(indices(lost(&grants, 10)), [3, 4]);
    }

    #[test]
    fn what_is_found_late_is_warned_of_once_by_the_shortest_time_that_fits() {
        let ends_at = |ends_at_ms| Ending {
            what: What::ApiToken("grafana".into()),
            id: Digest::default(),
            scope: Scope::fleet(),
            ends_at_ms,
            index: None,
        };
        let within = |hours: u64| ends_at(hours * HOUR_MS).within_h(0);
        assert_eq!(
            [73, 72, 25, 24, 2, 1, 0].map(within),
            [None, Some(72), Some(72), Some(24), Some(24), Some(1), Some(1)]
        );
    }
}
