//! Documents that came before what they name: they wait for it, so that the order of arrival decides nothing (S2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{REMEMBERED_MAX, REMEMBERED_PER_ID_MAX};
use crate::scope::Scope;

/// By the digest that they name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Awaited(BTreeMap<Digest, Names>);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    pub(super) releases: Vec<Name>,
    pub(super) starts: Vec<Name>,
    pub(super) revokes: Vec<Name>,
}

/// One document that names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) scope: Scope,
    /// Of a release: what it says may be lost.
    pub(super) lost_from: Option<u64>,
    pub(super) index: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Role {
    Release,
    Start,
    Revoke,
}

impl Names {
    fn of(&mut self, role: Role) -> &mut Vec<Name> {
        match role {
            Role::Release => &mut self.releases,
            Role::Start => &mut self.starts,
            Role::Revoke => &mut self.revokes,
        }
    }
}

impl Awaited {
    /// Whether there is room to remember one more document for each of `ids`.
    pub(super) fn has_room(&self, ids: &[Digest]) -> bool {
        let new = ids.iter().filter(|id| !self.0.contains_key(id)).count();
        let full = |names: &Names| {
            names.releases.len() + names.starts.len() + names.revokes.len() >= REMEMBERED_PER_ID_MAX
        };
        self.0.len() + new <= REMEMBERED_MAX && !ids.iter().filter_map(|id| self.0.get(id)).any(full)
    }

    pub(super) fn remember(&mut self, id: Digest, role: Role, name: Name) {
        self.0.entry(id).or_default().of(role).push(name);
    }

    /// Whether a release of `id` waits.
    pub(super) fn released(&self, id: &Digest) -> bool {
        self.0.get(id).is_some_and(|names| !names.releases.is_empty())
    }

    /// The entry of a revoke that waits for a grant `id` on `scope`.
    pub(super) fn revoked(&self, id: &Digest, scope: &Scope) -> Option<u64> {
        self.0.get(id)?.revokes.iter().find(|name| name.scope.covers(scope)).map(|name| name.index)
    }

    /// What waited for `id`, which is here now.
    pub(super) fn take(&mut self, id: &Digest) -> Names {
        self.0.remove(id).unwrap_or_default()
    }
}
