//! The service: what its quorum has committed. Elections, followers and their crashes are inside "is answered or not":
//! a node that cannot read from the quorum gives no lease, and one that can is as good as any other.

use crate::documents::*;
use crate::guard::Answer;
use crate::mutation::Mutation;
use crate::world::{NEVER, State, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    pub epoch: u8,
    /// The log. Its order is left out: locks are a set, and what comes after what is checked before it is committed.
    pub log: Documents,
    pub backup: Documents,
    /// Acknowledged locks that the last restore did not have and that are not back yet.
    pub lost: Documents,
    /// The epoch and log that a node answers from although they are not the newest; `None` but for mutations.
    pub stale: Option<(u8, Documents)>,
}

impl Service {
    pub fn new(log: Documents) -> Self {
        Self { epoch: 0, log, backup: log, lost: Documents::default(), stale: None }
    }

    /// Whether a signed document would take effect now. It does so once; after a restore, once more if it was lost.
    pub fn takes(&self, world: &World, state: &State, id: Id) -> bool {
        let new = !self.log.has(id);
        new && match world.catalogue.get(id) {
            // A release that comes before its lock is remembered.
            Document::Lock { .. } | Document::Release { .. } => true,
            Document::Start { lock, .. } => {
                world.catalogue.released(lock, self.log) || world.makes(Mutation::StartBeforeRelease)
            }
            Document::Grant { on, .. } => world.grants_in_force(state, on, self.epoch).has(id),
            Document::Restore { epoch } => epoch == self.epoch + 1,
        }
    }

    pub fn commit(world: &World, state: &mut State, id: Id) {
        state.service.log = state.service.log.with(id);
        if world.catalogue.locks.has(id) {
            state.ages[id] = 0;
            state.service.lost = state.service.lost.without([id].into_iter().collect());
        }
        if world.makes(Mutation::GrantEndsLocks) && world.catalogue.grants.has(id) {
            state.service.log = state.service.log.without(world.catalogue.locks);
        }
    }

    pub fn restore(world: &World, state: &mut State, id: Id) {
        let service = &mut state.service;
        let acknowledged: Documents =
            world.catalogue.locks.iter().filter(|id| state.ages[*id] != NEVER).collect();
        service.lost = acknowledged.without(service.backup);
        if world.makes(Mutation::OldServiceAnswers) {
            service.stale = Some((service.epoch, service.log));
        }
        service.epoch += 1;
        service.log = service.backup.with(id);
        state.ages[id] = 0;
    }

    /// The locks that hold the agent, by this log.
    pub fn holding(world: &World, state: &State, log: Documents, agent: Place) -> Documents {
        let catalogue = &world.catalogue;
        let holds = |lock: &Id| {
            let gone = match world.mutation {
                Some(Mutation::RestoreHaltsNothing) => {
                    matches!(catalogue.get(*lock), Document::Restore { .. })
                }
                Some(Mutation::LockExpires) => state.ages[*lock] == world.horizon(),
                _ => false,
            };
            catalogue.place(*lock).covers(agent) && !world.ended(*lock, agent, log) && !gone
        };
        (log & catalogue.locks).iter().filter(holds).collect()
    }

    /// Ticks until a drain ends, by its entry.
    pub fn left(world: &World, state: &State, lock: Id) -> u8 {
        match world.catalogue.drain(lock) as u8 {
            0 => 0,
            drain => (drain + world.clock_ahead).saturating_sub(state.ages[lock]),
        }
    }

    /// The answer to a guard that knows these locks, read now.
    pub fn answer(&self, world: &World, state: &State, agent: Place, known: Documents) -> Answer {
        let catalogue = &world.catalogue;
        let (epoch, log) = self.stale.unwrap_or((self.epoch, self.log));
        let holding = Self::holding(world, state, log, agent);
        // Of each kind the strongest: the drain that ends first, else any.
        let kind = |lock: Id| std::mem::discriminant(&catalogue.kind(lock));
        let order = |lock: Id| (Self::left(world, state, lock), lock);
        let beaten =
            |lock: Id| holding.iter().any(|other| kind(other) == kind(lock) && order(other) < order(lock));
        let mut shown: Documents = holding.iter().filter(|lock| !beaten(*lock)).collect();
        if world.makes(Mutation::OneLockShown) {
            let first = |lock: &Id| KINDS.iter().position(|k| std::mem::discriminant(k) == kind(*lock));
            shown = shown.iter().min_by_key(first).into_iter().collect();
        }
        let proves = |id: &Id| match catalogue.get(*id) {
            Document::Lock { .. } => false,
            Document::Release { lock } => known.has(lock) && !holding.has(lock),
            Document::Start { lock, on } => known.has(lock) && !holding.has(lock) && on.covers(agent),
            Document::Grant { .. } => world.grants_in_force(state, agent, epoch).has(*id),
            Document::Restore { epoch: begun } => begun == epoch,
        };
        let documents = log.iter().filter(proves).collect();
        Answer { epoch, size: log.count(), shown, documents, truth: Some(holding) }
    }
}
