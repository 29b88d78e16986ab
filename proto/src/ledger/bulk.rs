//! Many locks by one root: the list that a bulk release or start means follows from the log, so that nobody has to carry
//! it, and the root that people signed is compared with it.

use crate::command::{ActionKind, BulkLocks};
use crate::digest::Digest;
use crate::ledger::LockRecord;
use crate::log::tree::{self, leaf_hash};
use crate::scope::Scope;

/// The ids that a bulk `release` or `start` of `scope` names: those of `locks` that it can act on, which were placed before
/// entry `before` and bear the signature of `by` if there is one, in the log's order.
pub fn bulk_list<'a>(
    action: ActionKind,
    scope: &Scope,
    before: u64,
    by: Option<&str>,
    locks: impl IntoIterator<Item = &'a LockRecord>,
) -> Vec<Digest> {
    let acts = |record: &LockRecord| {
        let lock = &record.lock;
        match action {
            ActionKind::Release => !lock.released && scope.covers(&lock.scope),
            ActionKind::Start => {
                let here = scope.covers(&lock.scope) || lock.scope.covers(scope);
                let started = record.started.iter().any(|wave| wave.covers(scope));
                lock.released && lock.kind.needs_start() && here && !started
            }
            _ => false,
        }
    };
    let signed = |record: &LockRecord| by.is_none_or(|by| record.lock.tag.by.iter().any(|name| name == by));
    let mut listed: Vec<_> = (locks.into_iter())
        .filter(|record| record.lock.index < before && acts(record) && signed(record))
        .map(|record| (record.lock.index, record.lock.id))
        .collect();
    listed.sort_unstable();
    listed.into_iter().map(|(_, id)| id).collect()
}

/// What a document says of such a list.
pub fn bulk_locks(ids: &[Digest], before: u64, by: Option<String>) -> BulkLocks {
    BulkLocks { count: ids.len() as u64, root: bulk_root(ids), before, by }
}

/// The RFC 6962 root over the ids.
pub fn bulk_root(ids: &[Digest]) -> Digest {
    tree::root(&leaves(ids))
}

pub(super) fn leaves(ids: &[Digest]) -> Vec<Digest> {
    ids.iter().map(|id| leaf_hash(&id.0)).collect()
}
