//! Consent that ends soon with nothing to follow it: what the nodes warn of, and what one ceremony renews.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tagout_proto::digest::Digest;
use tagout_proto::ledger::GrantSummary;
use tagout_proto::strict::format_instant_ms;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::replica::Replica;

pub const HOUR_MS: u64 = 3600 * 1000;
/// How long before its end a grant is warned of, in hours, longest first.
pub const WARNED_BEFORE_H: [u64; 3] = [72, 24, 1];
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Those that end by `until_ms`, unless another one of the same scope and terms holds beyond it; of several that end, the last.
pub fn due(grants: &[GrantSummary], until_ms: u64) -> Vec<&GrantSummary> {
    let alike = |a: &GrantSummary, b: &GrantSummary| a.scope == b.scope && a.terms == b.terms;
    let followed = |grant: &GrantSummary| {
        let later =
            |other: &GrantSummary| (other.expires_at_ms, other.index) > (grant.expires_at_ms, grant.index);
        grants.iter().any(|other| alike(other, grant) && later(other))
    };
    grants.iter().filter(|grant| grant.expires_at_ms <= until_ms && !followed(grant)).collect()
}

/// Says in the node's log what ends soon: once for each grant and each of the times before.
pub async fn warn(replica: Arc<Replica>, shutdown: CancellationToken) {
    let mut said: BTreeSet<(Digest, u64)> = BTreeSet::new();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let now_ms = clock::wall_ms();
        let grants = replica.ledger().grants(now_ms);
        said.retain(|(id, _)| grants.iter().any(|grant| grant.id == *id));
        for hours in WARNED_BEFORE_H {
            for grant in due(&grants, now_ms + hours * HOUR_MS) {
                // Found late, it is said once, by the shortest time that fits.
                let nearer =
                    WARNED_BEFORE_H.iter().any(|h| *h < hours && grant.expires_at_ms <= now_ms + h * HOUR_MS);
                if said.insert((grant.id, hours)) && !nearer {
                    tracing::warn!(
                        scope = %grant.scope, grant = %grant.id, until = format_instant_ms(grant.expires_at_ms),
                        "consent ends within {hours} h, and nothing follows it: tagout grant --renew-due --within {hours}h \
                         --for 72h --reason WHY"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tagout_proto::rule::Terms;
    use tagout_proto::scope::Scope;

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
}
