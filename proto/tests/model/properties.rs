//! The safety properties of the design as predicates over one state, and the sights that show that the model is not
//! vacuous. No predicate trusts what a guard or the service concluded: they look at the documents that people signed.

use stateright::Property;
use tagout_proto::rule::Verdict;

use crate::documents::*;
use crate::guard::{Guard, verdict};
use crate::service::Service;
use crate::world::{NEVER, State, World};

pub const S1: &str = "S1 an acknowledged lock holds until documents end it";
pub const S2: &str = "S2 nothing runs again without a release and a start of that lock";
pub const S3_NEW: &str = "S3 no new call after T + ttl";
pub const S3_CUT: &str = "S3 no call in flight after T + ttl + grace";
pub const S4: &str = "S4 no valid lease, no call";
pub const S5_CONSENT: &str = "S5 no consent but by a signed grant of this epoch";
pub const S5_FLOORS: &str = "S5 no step back in epoch or log, no epoch without a restore";
pub const S7: &str = "S7 a lock more never raises a verdict";
pub const WITHIN_LEASE: &str = "a guard never allows more than the ledger did as of its lease";

/// A service that lies with live keys promises no bound; its guards still keep the rest.
pub fn always(world: &World) -> Vec<Property<World>> {
    let mut properties = vec![
        Property::always(S1, s1_latch),
        Property::always(S2, s2_no_restart_by_reset),
        Property::always(S4, s4_fail_closed),
        Property::always(S5_CONSENT, s5_consent),
        Property::always(S5_FLOORS, s5_floors),
        Property::always(S7, s7_only_tightens),
        Property::always(WITHIN_LEASE, within_lease),
    ];
    if !world.liars {
        properties.push(Property::always(S3_NEW, s3_new_calls));
        properties.push(Property::always(S3_CUT, s3_calls_in_flight));
    }
    properties
}

fn s1_latch(world: &World, state: &State) -> bool {
    let Service { log, lost, .. } = state.service;
    let holds = |lock, agent| {
        Service::holding(world, state, log, agent).has(lock) || world.catalogue.ended(lock, agent, log)
    };
    acknowledged(world, state).all(|lock| {
        let mut covered = world.agents.iter().filter(|agent| world.catalogue.place(lock).covers(**agent));
        match newest_restore(world, state).filter(|_| lost.has(lock)) {
            // What the backup did not have is held by the restore's own lock.
            Some(restore) => log.has(restore) && covered.all(|agent| holds(restore, *agent)),
            None => log.has(lock) && covered.all(|agent| holds(lock, *agent)),
        }
    })
}

fn s2_no_restart_by_reset(world: &World, state: &State) -> bool {
    let ended = |lock, agent| world.catalogue.ended(lock, agent, state.signed);
    let most = |lock| world.catalogue.first_and_last(lock).0;
    let in_order = |id| match world.catalogue.get(id) {
        Document::Start { lock, .. } => world.catalogue.released(lock, state.service.log),
        _ => true,
    };
    state.service.log.iter().all(in_order)
        && each_guard(world, state).all(|(agent, guard)| {
            let of_guard = guard.verdict(world, state, agent);
            let of_ledger = ledger_verdict(world, state, agent);
            guard.ghost.seen.iter().all(|lock| of_guard <= most(lock) || ended(lock, agent))
                && (state.service.log & world.catalogue.locks).iter().all(|lock| {
                    !world.catalogue.place(lock).covers(agent)
                        || of_ledger <= most(lock)
                        || ended(lock, agent)
                })
        })
}

fn s3_new_calls(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        let allowed = guard.verdict(world, state, agent);
        allowed == Verdict::Denied
            || binding(world, state, agent).all(|lock| {
                let (first, last) = world.catalogue.first_and_last(lock);
                let age = state.ages[lock];
                (age < world.ttl || allowed <= first) && (age < full_effect(world, lock) || allowed <= last)
            })
    })
}

fn s3_calls_in_flight(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        !guard.in_flight
            || binding(world, state, agent).all(|lock| {
                let cuts = world.catalogue.fact(lock, false, 0).cuts(NOW_MS);
                !cuts || state.ages[lock] < full_effect(world, lock) + world.grace
            })
    })
}

fn s4_fail_closed(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        guard.verdict(world, state, agent) == Verdict::Denied || guard.ghost.nonce_age < world.ttl
    })
}

fn s5_consent(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        let consents = |id: Id| {
            let (on, epoch, life) = world.catalogue.grant_of(id);
            let unexpired = life.is_none_or(|life| state.ages[id] < life);
            on.covers(agent) && epoch == guard.ghost.highest.0 && unexpired
        };
        guard.verdict(world, state, agent) == Verdict::Denied
            || (state.signed & world.catalogue.grants).iter().any(consents)
    })
}

fn s5_floors(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(_, guard)| {
        let restore = world.catalogue.restore_of(guard.epoch);
        let begun = guard.epoch == 0 || restore.is_some_and(|id| state.signed.has(id));
        (guard.epoch, guard.size) >= guard.ghost.highest && begun
    })
}

fn s7_only_tightens(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        let now = guard.verdict(world, state, agent);
        world.catalogue.locks_on(agent).all(|lock| {
            let more = [lock].into_iter().collect();
            guard.verdict_with(world, state, agent, more) <= now
        })
    })
}

fn within_lease(world: &World, state: &State) -> bool {
    each_guard(world, state).all(|(agent, guard)| {
        let Some((lease, truth)) = guard.lease.and_then(|lease| Some((lease, lease.truth?))) else {
            return true;
        };
        let locks =
            truth.iter().map(|lock| world.catalogue.fact(lock, false, Service::left(world, state, lock)));
        guard.verdict(world, state, agent) <= verdict(world, lease.grants, locks)
    })
}

fn each_guard<'a>(world: &'a World, state: &'a State) -> impl Iterator<Item = (Place, &'a Guard)> {
    world.agents.iter().copied().zip(&state.guards)
}

fn acknowledged(world: &World, state: &State) -> impl Iterator<Item = Id> {
    world.catalogue.locks.iter().filter(|lock| state.ages[*lock] != NEVER)
}

fn newest_restore(world: &World, state: &State) -> Option<Id> {
    world.catalogue.restore_of(state.service.epoch)
}

/// Acknowledged locks that hold the agent still: documents end none of them, nor the restore that lost it.
fn binding(world: &World, state: &State, agent: Place) -> impl Iterator<Item = Id> {
    acknowledged(world, state).filter(move |lock| {
        let ended = |lock| world.catalogue.ended(lock, agent, state.signed);
        let forgone = state.service.lost.has(*lock) && newest_restore(world, state).is_some_and(ended);
        world.catalogue.place(*lock).covers(agent) && !ended(*lock) && !forgone
    })
}

/// Ticks after its acknowledgement by which the lock denies all that it ever will. A drain ends at its entry's date plus
/// its length: a guard that first hears of it late counts from then, but never beyond that.
fn full_effect(world: &World, lock: Id) -> u8 {
    world.ttl.max(drain_end(world, lock))
}

fn drain_end(world: &World, lock: Id) -> u8 {
    match world.catalogue.drain(lock) as u8 {
        0 => 0,
        drain => drain + world.clock_ahead,
    }
}

fn ledger_verdict(world: &World, state: &State, agent: Place) -> Verdict {
    let log = state.service.log;
    let grants = log & world.grants_in_force(state, agent, state.service.epoch);
    let locks = Service::holding(world, state, log, agent);
    let fact = |lock| {
        world.catalogue.fact(lock, world.catalogue.released(lock, log), Service::left(world, state, lock))
    };
    verdict(world, grants, locks.iter().map(fact))
}

/// What must be reachable, lest the properties hold for want of anything that happens.
#[derive(Clone, Copy, Debug)]
pub struct Sight(pub &'static str, pub fn(&World, &State) -> bool);

fn any_guard(world: &World, state: &State, sees: impl Fn(Place, &Guard, Verdict) -> bool) -> bool {
    each_guard(world, state).any(|(agent, guard)| sees(agent, guard, guard.verdict(world, state, agent)))
}

/// The guard would allow but for its locks.
fn only_locks_deny(world: &World, state: &State, agent: Place, guard: &Guard) -> bool {
    let valid = guard.lease.filter(|lease| lease.age < world.ttl);
    valid.is_some_and(|lease| (lease.grants & world.grants_in_force(state, agent, guard.epoch)).any())
}

pub const ALLOWS: Sight = Sight("a guard allows", |world, state| {
    any_guard(world, state, |_, _, verdict| verdict == Verdict::Enabled)
});
pub const BOUND_IS_TIGHT: Sight = Sight("a guard allows in the last tick before T + ttl", |world, state| {
    any_guard(world, state, |agent, _, verdict| {
        let last = |lock: Id| state.ages[lock] == world.ttl - 1;
        verdict == Verdict::Enabled && binding(world, state, agent).any(last)
    })
});
pub const CUT_IS_TIGHT: Sight =
    Sight("a call is in flight in the last tick before T + ttl + grace", |world, state| {
        any_guard(world, state, |agent, guard, _| {
            let last = |lock: Id| state.ages[lock] + 1 == full_effect(world, lock) + world.grace;
            guard.in_flight && binding(world, state, agent).any(last)
        })
    });
pub const PUSHED_FIRST: Sight = Sight("a pushed lock denies before it is committed", |world, state| {
    any_guard(world, state, |agent, guard, verdict| {
        let pushed = guard.latched.without(state.service.log);
        verdict == Verdict::Denied && pushed.any() && only_locks_deny(world, state, agent, guard)
    })
});
pub const LAPSED: Sight = Sight("a lapse denies where no lock does", |world, state| {
    any_guard(world, state, |_, guard, verdict| {
        let lapsed = guard.lease.is_some_and(|lease| lease.age >= world.ttl && lease.grants.any());
        verdict == Verdict::Denied && lapsed && !guard.latched.any()
    })
});
pub const EXPIRED: Sight = Sight("consent expires under a valid lease", |world, state| {
    any_guard(world, state, |agent, guard, verdict| {
        let valid = guard.lease.is_some_and(|lease| lease.age < world.ttl && lease.grants.any());
        let denied = verdict == Verdict::Denied && !guard.latched.any();
        valid && denied && !only_locks_deny(world, state, agent, guard)
    })
});
pub const RUNS_AGAIN: Sight = Sight("an agent runs again after a release and a start", |world, state| {
    any_guard(world, state, |_, guard, verdict| {
        let needs_start = |lock: Id| world.catalogue.kind(lock).needs_start();
        verdict == Verdict::Enabled && guard.cleared.iter().any(needs_start)
    })
});
pub const RESUMED: Sight = Sight("an agent runs again after a release that suffices", |world, state| {
    any_guard(world, state, |_, guard, verdict| {
        let needs_start = |lock: Id| world.catalogue.kind(lock).needs_start();
        verdict == Verdict::Enabled && guard.cleared.iter().any(|lock| !needs_start(lock))
    })
});
pub const ESSENTIAL_ONLY: Sight = Sight("a guard allows essential calls only", |world, state| {
    any_guard(world, state, |_, _, verdict| verdict == Verdict::EssentialOnly)
});
pub const OUTLIVES: Sight = Sight("a call in flight goes on where no call may begin", |world, state| {
    any_guard(world, state, |_, guard, verdict| verdict == Verdict::Denied && guard.in_flight)
});
pub const WAVE: Sight = Sight("a lock is started for the child and holds the parent", |_, state| {
    let [parent, child] = &state.guards[..] else { return false };
    (parent.latched & child.cleared).any()
});
pub const RESTORED: Sight = Sight("the service was restored and an agent runs again", |world, state| {
    any_guard(world, state, |_, guard, verdict| verdict == Verdict::Enabled && guard.epoch > 0)
});
pub const RESTORED_TWICE: Sight = Sight("it was restored again and an agent runs again", |world, state| {
    any_guard(world, state, |_, guard, verdict| verdict == Verdict::Enabled && guard.epoch > 1)
});
pub const HELD_BY_GUARD: Sight = Sight("a guard holds what the restored service lost", |world, state| {
    any_guard(world, state, |agent, guard, verdict| {
        let lost = (guard.latched & state.service.lost).any() && guard.cleared.any();
        lost && verdict == Verdict::Denied && only_locks_deny(world, state, agent, guard)
    })
});
pub const COMES_BACK: Sight = Sight("a lock that a restore lost is in the log again", |world, state| {
    let Service { log, backup, epoch, .. } = state.service;
    epoch > 0 && any_guard(world, state, |_, guard, _| (guard.latched & log).without(backup).count() > 1)
});
