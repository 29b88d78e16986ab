//! A guard: what it believes, and why.

use std::cmp::Ordering;

use tagout_proto::rule::{self, LockFact, Verdict};

use crate::documents::*;
use crate::mutation::Mutation;
use crate::service::Service;
use crate::world::{NEVER, State, World};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// Requests under way, the oldest first.
    pub asks: Vec<Ask>,
    pub lease: Option<Lease>,
    /// The floors: the newest epoch, and the largest log of it, that a verified lease spoke of.
    pub epoch: u8,
    pub size: u8,
    /// Locks that hold until documents end them.
    pub latched: Documents,
    /// Ticks until each latched drain ends.
    pub left: [u8; DOCUMENTS_MAX],
    /// Locks that documents ended here.
    pub cleared: Documents,
    /// A call is under way: one begins whenever it may, and none ends by itself, so that the worst one is here.
    pub in_flight: bool,
    // What follows is known to the properties, not to the guard.
    pub ghost: Ghost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// Locks that came here since the guard started.
    pub seen: Documents,
    /// The newest epoch, and the largest log of it, that was accepted.
    pub highest: (u8, u8),
    /// True time since the newest accepted answer's nonce was made.
    pub nonce_age: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Since the nonce was made.
    pub age: u8,
    /// The locks that it asks about.
    pub known: Documents,
    pub answer: Option<Answer>,
}

/// What remains of the newest accepted answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Since its nonce was made.
    pub age: u8,
    pub grants: Documents,
    /// As in the answer; known to the properties only.
    pub truth: Option<Documents>,
}

/// A lease with the state that it binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub epoch: u8,
    /// Entries in the log that was read.
    pub size: u8,
    pub shown: Documents,
    /// Grants, proofs that known locks ended, and the restore that began the epoch.
    pub documents: Documents,
    /// All locks that held the agent when an honest node read. The guard does not get this.
    pub truth: Option<Documents>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            asks: Vec::new(),
            lease: None,
            epoch: 0,
            size: 0,
            latched: Documents::default(),
            left: [0; DOCUMENTS_MAX],
            cleared: Documents::default(),
            in_flight: false,
            ghost: Ghost { seen: Documents::default(), highest: (0, 0), nonce_age: NEVER },
        }
    }
}

impl Guard {
    pub fn ask(&mut self, world: &World) {
        let ask = Ask { age: 0, known: self.latched, answer: None };
        if self.asks.iter().any(|other| other.age == 0 && other.known == ask.known) {
            return;
        }
        if self.asks.len() == world.asks {
            self.asks.remove(0);
        }
        self.asks.push(ask);
    }

    /// A signed lock came, by whatever path (S6).
    pub fn deliver(&mut self, world: &World, lock: Id) {
        if !self.cleared.has(lock) {
            self.latch(world, lock, world.catalogue.drain(lock) as u8);
        }
    }

    fn latch(&mut self, world: &World, lock: Id, left: u8) {
        self.ghost.seen = self.ghost.seen.with(lock);
        if self.latched.has(lock) {
            self.left[lock] = self.left[lock].min(left);
        } else {
            self.latched = self.latched.with(lock);
            // The earlier of the entry's time and the first receipt, each plus the drain's length.
            let drain = world.catalogue.drain(lock) as u8;
            self.left[lock] = if world.makes(Mutation::DrainFromReceipt) { drain } else { left.min(drain) };
        }
    }

    /// Takes an answer over whole, or not at all.
    pub fn accept(
        &mut self,
        world: &World,
        state: &State,
        agent: Place,
        age: u8,
        known: Documents,
        answer: Answer,
    ) {
        let verified = answer.documents & state.signed;
        let begun = |epoch| world.catalogue.restore_of(epoch).filter(|id| verified.has(*id));
        let raised = answer.epoch > self.epoch;
        let fits = match answer.epoch.cmp(&self.epoch) {
            Ordering::Less => false,
            Ordering::Equal => answer.size >= self.size || world.makes(Mutation::FloorsIgnored),
            Ordering::Greater => begun(answer.epoch).is_some() || world.makes(Mutation::EpochUnproven),
        };
        let newer = self.lease.is_none_or(|newest| age <= newest.age);
        if !fits || !newer {
            if world.makes(Mutation::RefusedMovesFloors) {
                (self.epoch, self.size) = (answer.epoch, answer.size);
            }
            return;
        }

        (self.epoch, self.size) = (answer.epoch, answer.size);
        self.ghost.highest = self.ghost.highest.max((answer.epoch, answer.size));
        self.ghost.nonce_age = self.ghost.nonce_age.min(age);
        let documents = if world.makes(Mutation::GrantUnverified) { answer.documents } else { verified };
        let counted = if world.makes(Mutation::PermissionFromArrival) { 0 } else { age };
        let grants = documents & world.catalogue.grants;
        self.lease = Some(Lease { age: counted, grants, truth: answer.truth });

        if let Some(restore) = begun(answer.epoch).filter(|_| raised) {
            self.ghost.seen = self.ghost.seen.with(restore);
            // A restore is the lock of its epoch, whatever the node shows beside it.
            if !world.makes(Mutation::RestoreNotLatched) && !world.makes(Mutation::RestoreHaltsNothing) {
                self.latch(world, restore, 0);
            }
        }
        if world.makes(Mutation::ViewReplacesLocks) {
            self.latched = answer.shown;
        }
        for lock in answer.shown.iter() {
            self.latch(world, lock, Service::left(world, state, lock));
        }
        for lock in (self.latched & known).without(answer.shown).iter() {
            if world.ended(lock, agent, verified) || world.makes(Mutation::ClearedUnproven) {
                self.latched = self.latched.without([lock].into_iter().collect());
                self.left[lock] = 0;
                self.cleared = self.cleared.with(lock);
            }
        }
        // What was asked before can no longer be accepted.
        self.asks.retain(|ask| ask.age <= age);
    }

    pub fn tick(&mut self, world: &World, unseen: bool) {
        self.ghost.nonce_age = match self.ghost.nonce_age {
            NEVER => NEVER,
            age => (age + 1).min(world.ttl + world.grace),
        };
        if unseen {
            return;
        }
        for ask in &mut self.asks {
            ask.age += 1;
        }
        self.asks.retain(|ask| ask.age <= world.patience);
        if let Some(lease) = &mut self.lease {
            lease.age = (lease.age + 1).min(world.ttl + world.grace);
        }
        for left in &mut self.left {
            *left = left.saturating_sub(1);
        }
    }

    /// What calls may begin now.
    pub fn verdict(&self, world: &World, state: &State, agent: Place) -> Verdict {
        self.verdict_with(world, state, agent, Documents::default())
    }

    /// What calls could begin now if these locks had come too.
    pub fn verdict_with(&self, world: &World, state: &State, agent: Place, more: Documents) -> Verdict {
        let allows_until =
            if world.makes(Mutation::AllowsInGrace) { world.ttl + world.grace } else { world.ttl };
        match &self.lease {
            Some(lease) if lease.age < allows_until => {
                let grants = lease.grants & world.grants_in_force(state, agent, self.epoch);
                let locks = self.latched | more;
                verdict(world, grants, self.facts(world, locks))
            }
            // S4.
            Some(_) | None => Verdict::Denied,
        }
    }

    /// The service's word that a lock is released never counts here: what is latched ends by documents.
    fn facts(&self, world: &World, locks: Documents) -> impl Iterator<Item = LockFact> {
        locks.iter().map(|lock| {
            let fresh = !self.latched.has(lock);
            let left = if fresh { world.catalogue.drain(lock) as u8 } else { self.left[lock] };
            world.catalogue.fact(lock, false, left)
        })
    }

    /// Calls begin and are cut as the guard's state says.
    pub fn settle(&mut self, world: &World, verdict: Verdict) {
        let locked = self.facts(world, self.latched).any(|fact| fact.cuts(NOW_MS));
        let lapsed = self.lease.is_none_or(|lease| lease.age >= world.ttl + world.grace);
        let cut = locked || lapsed && !world.makes(Mutation::LapseNeverCuts);
        self.in_flight = (self.in_flight || verdict > Verdict::Denied) && !cut;
    }
}

/// The rule itself, of these grants, none of which has expired.
pub fn verdict(world: &World, grants: Documents, locks: impl Iterator<Item = LockFact>) -> Verdict {
    let expiries = grants.iter().map(|_| NOW_MS + 1);
    if world.makes(Mutation::NewestLockDecides) {
        return rule::verdict(expiries, locks.last(), NOW_MS);
    }
    rule::verdict(expiries, locks, NOW_MS)
}
