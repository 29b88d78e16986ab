//! What is explored, and what breaks.

use std::io::Write;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use tagout_proto::rule::Verdict;

use crate::documents::Place::{Child, Fleet, Parent};
use crate::documents::*;
use crate::mutation::Mutation;
use crate::properties::*;
use crate::world::{Action, World};

/// Explores all of it: every property holds everywhere, every sight is seen, and there was this much to explore.
fn explore(name: &str, world: World, at_least: usize) {
    let began = Instant::now();
    let checker = world.clone().checker().spawn_bfs().join();
    let found = checker.discoveries();
    for property in world.properties() {
        let path = found.get(property.name);
        if property.expectation.discovery_is_failure() {
            let path = path.map(|path| tell(&world, path.clone().into_actions()));
            assert_eq!(path, None, "{name}: {}", property.name);
        } else {
            assert!(path.is_some(), "{name}: never is it so that {}", property.name);
        }
    }
    let states = checker.unique_state_count();
    say(&format!(
        "model: {name:<32} {states:>9} states {:>10} transitions {:>3} deep {:>6.1} s",
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64(),
    ));
    assert!(checker.is_done() && states >= at_least, "{name}: only {states} states");
}

/// The world with this mistake breaks this property.
fn breaks(mutation: Mutation, property: &'static str, world: World) {
    let world = World { mutation: Some(mutation), sights: Vec::new(), ..world };
    let when = HasDiscoveries::AnyOf([property].into());
    let checker = world.clone().checker().finish_when(when).spawn_bfs().join();
    let path =
        checker.discovery(property).unwrap_or_else(|| panic!("{mutation:?} does not break {property}"));
    let counterexample = shortened(&world, property, path.into_actions());
    say(&format!("model: {mutation:?} breaks \"{property}\": {}", tell(&world, counterexample)));
}

/// Without the steps that it does not need.
fn shortened(world: &World, property: &'static str, mut actions: Vec<Action>) -> Vec<Action> {
    let holds = world.property(property).condition;
    let breaks = |actions: &[Action]| {
        let mut state = world.init_states().remove(0);
        for action in actions {
            let mut possible = Vec::new();
            world.actions(&state, &mut possible);
            let next = possible.contains(action).then(|| world.next_state(&state, action.clone()));
            match next.flatten() {
                Some(next) => state = next,
                None => return false,
            }
        }
        !holds(world, &state)
    };
    assert!(breaks(&actions), "a counterexample must be one");
    let mut at = 0;
    while at < actions.len() {
        let shorter = [&actions[..at], &actions[at + 1..]].concat();
        if breaks(&shorter) {
            (actions, at) = (shorter, 0);
        } else {
            at += 1;
        }
    }
    actions
}

fn tell(world: &World, actions: Vec<Action>) -> String {
    actions.iter().map(|action| world.tell(action)).collect::<Vec<_>>().join("; ")
}

/// Past the test harness, which keeps to itself what passing tests print.
fn say(line: &str) {
    // Nobody may be listening.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The second of two sizes with `TAGOUT_LONG=1`, as `tests/run --long` sets it.
fn sized<T>(short: T, long: T) -> T {
    if std::env::var_os("TAGOUT_LONG").is_some() { long } else { short }
}

/// The number of the grant that each world here is given first.
const GRANT: Id = 0;

fn granted() -> Catalogue {
    Catalogue::default().grant(Fleet, 0, None)
}

fn one_halt() -> World {
    let catalogue = granted().lock_and_end(Kind::Halt, Parent, &[Parent]);
    World {
        asks: 2,
        restarts: true,
        replays: true,
        sights: vec![ALLOWS, BOUND_IS_TIGHT, CUT_IS_TIGHT, PUSHED_FIRST, LAPSED, RUNS_AGAIN, OUTLIVES],
        ..World::new(catalogue, &[GRANT], &[Parent])
    }
}

#[test]
fn one_halt_and_its_end() {
    let world = one_halt();
    explore("one halt", World { ttl: 3, grace: 2, patience: 4, asks: sized(2, 3), ..world }, 170_000);
}

fn two_halts() -> World {
    let catalogue = granted().lock_and_end(Kind::Halt, Parent, &[Parent]);
    let catalogue = match sized(false, true) {
        false => catalogue.lock(Kind::Halt, Parent),
        true => catalogue.lock_and_end(Kind::Halt, Parent, &[Parent]),
    };
    World { sights: vec![RUNS_AGAIN], ..World::new(catalogue, &[GRANT], &[Parent]) }
}

#[test]
fn two_halts_of_which_one_is_ended() {
    explore("two halts", two_halts(), 110_000);
}

fn one_of(kind: Kind) -> World {
    let catalogue = Catalogue::default().grant(Fleet, 0, Some(4)).grant(Parent, 0, None);
    let catalogue = catalogue.lock_and_end(kind, Parent, &[Parent]);
    let mut sights = vec![ALLOWS, EXPIRED, if kind.needs_start() { RUNS_AGAIN } else { RESUMED }];
    let lock = catalogue.locks.iter().next().expect("it was added");
    if catalogue.first_and_last(lock).0 == Verdict::EssentialOnly {
        sights.push(ESSENTIAL_ONLY);
    }
    World { sights, restarts: true, ..World::new(catalogue, &[GRANT], &[Child]) }
}

#[test]
fn one_lock_of_each_kind_and_its_end() {
    for kind in KINDS {
        let name = format!("{} and consent that ends", kind.name());
        explore(&name, World { asks: sized(1, 2), ..one_of(*kind) }, 30_000);
    }
}

#[test]
fn a_drain_that_is_dated_ahead() {
    explore("a drain dated ahead", World { clock_ahead: 3, ..one_of(DRAIN) }, 200_000);
}

fn two_of(kinds: [Kind; 2]) -> World {
    let catalogue = kinds.iter().fold(granted(), |catalogue, kind| catalogue.lock(*kind, Parent));
    World { sights: vec![ALLOWS, LAPSED, BOUND_IS_TIGHT], ..World::new(catalogue, &[GRANT], &[Child]) }
}

#[test]
fn two_locks_of_each_pair_of_kinds() {
    for (at, one) in KINDS.iter().enumerate() {
        for other in &KINDS[..at] {
            let name = format!("{} and {}", one.name(), other.name());
            explore(&name, World { asks: sized(1, 2), ..two_of([*one, *other]) }, 8_000);
        }
    }
}

fn waves() -> World {
    let starts = sized(&[Child][..], &[Child, Fleet]);
    let catalogue = granted().lock_and_end(Kind::Halt, Fleet, starts);
    World { patience: 1, sights: vec![WAVE, RUNS_AGAIN], ..World::new(catalogue, &[GRANT], &[Parent, Child]) }
}

#[test]
fn a_halt_of_two_agents_that_is_started_for_one() {
    explore("two guards, a wave", waves(), 500_000);
}

fn restored() -> World {
    let catalogue = match sized(false, true) {
        false => granted().lock(Kind::Halt, Parent),
        true => granted().lock_and_end(Kind::Halt, Parent, &[Parent]),
    };
    let catalogue = catalogue.restore_and_end(1, &[Fleet]).grant(Fleet, 1, None);
    World {
        restarts: true,
        sights: vec![ALLOWS, RESTORED, HELD_BY_GUARD, COMES_BACK],
        ..World::new(catalogue, &[GRANT], &[Parent])
    }
}

#[test]
fn a_restore() {
    explore("a restore", restored(), 450_000);
}

fn restored_twice() -> World {
    let catalogue = match sized(false, true) {
        false => granted().restore(1),
        true => granted().restore_and_end(1, &[Fleet]),
    };
    let catalogue = catalogue.restore_and_end(2, &[Fleet]).grant(Fleet, 2, None);
    World { patience: 1, sights: vec![ALLOWS, RESTORED_TWICE], ..World::new(catalogue, &[GRANT], &[Parent]) }
}

#[test]
fn a_restore_after_a_restore() {
    explore("two restores", restored_twice(), 70_000);
}

fn lied_to() -> World {
    let catalogue = granted()
        .lock_and_end(Kind::Halt, Parent, &[Parent])
        .restore_and_end(1, &[Fleet])
        .grant(Fleet, 1, None);
    World {
        liars: true,
        patience: 1,
        sights: vec![RUNS_AGAIN, RESTORED],
        ..World::new(catalogue, &[], &[Parent])
    }
}

#[test]
fn a_service_that_lies() {
    explore("a lying service", World { patience: sized(1, 2), ..lied_to() }, 500_000);
}

#[test]
fn s1_breaks() {
    let catalogue = granted().lock(Kind::Halt, Parent).grant(Parent, 0, None);
    breaks(Mutation::GrantEndsLocks, S1, World::new(catalogue, &[GRANT], &[Parent]));
    breaks(Mutation::LockExpires, S1, one_halt());
    breaks(Mutation::RestoreHaltsNothing, S1, restored());
}

#[test]
fn s2_breaks() {
    breaks(Mutation::ReleaseAloneRestarts, S2, one_halt());
    breaks(Mutation::StartBeforeRelease, S2, one_halt());
    breaks(Mutation::NamesNoHash, S2, two_halts());
    breaks(Mutation::ViewReplacesLocks, S2, one_halt());
    breaks(Mutation::ClearedUnproven, S2, lied_to());
    breaks(Mutation::RestoreNotLatched, S2, lied_to());
}

#[test]
fn s3_breaks() {
    breaks(Mutation::PermissionFromArrival, S3_NEW, one_halt());
    breaks(Mutation::ReadBeforeNonce, S3_NEW, one_halt());
    breaks(Mutation::ClockSleeps, S3_NEW, one_halt());
    breaks(Mutation::NonceNotBound, S3_NEW, one_halt());
    breaks(Mutation::OldServiceAnswers, S3_NEW, restored());
    breaks(Mutation::DrainFromReceipt, S3_NEW, one_of(DRAIN));
    breaks(Mutation::LapseNeverCuts, S3_CUT, one_halt());
}

#[test]
fn s4_breaks() {
    breaks(Mutation::AllowsInGrace, S4, one_halt());
}

#[test]
fn s5_breaks() {
    breaks(Mutation::GrantOfAnyEpoch, S5_CONSENT, restored());
    breaks(Mutation::GrantUnverified, S5_CONSENT, lied_to());
    breaks(Mutation::FloorsIgnored, S5_FLOORS, lied_to());
    breaks(Mutation::RefusedMovesFloors, S5_FLOORS, lied_to());
    breaks(Mutation::EpochUnproven, S5_FLOORS, lied_to());
}

#[test]
fn s7_breaks() {
    breaks(Mutation::NewestLockDecides, S7, two_of([Kind::Pause, DRAIN]));
}

#[test]
fn the_lease_bound_breaks() {
    breaks(Mutation::OneLockShown, WITHIN_LEASE, two_of([DRAIN, Kind::Pause]));
}
