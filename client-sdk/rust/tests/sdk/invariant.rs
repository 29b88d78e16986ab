//! One property over arbitrary histories: while a halt lock is latched, nothing that can be accepted allows a call.

use proptest::prelude::*;
use tagout::proto::lease::LockAnswer;
use tagout::proto::lock::LockKind;
use tagout::proto::wire::StopEvent;

use crate::world::*;

#[derive(Clone, Debug)]
enum Step {
    Pass {
        ms: u64,
    },
    WallClock {
        ms: u64,
    },
    /// A lease of a service that never had the lock.
    Ignorant,
    /// A lease of the true service.
    Honest,
    /// A lease that claims the lock to be gone, with some of what that takes.
    Claim {
        release: u8,
        start: u8,
    },
    /// The view shows it as what it is not.
    Soften {
        released: bool,
        pause: bool,
    },
    PushAgain,
    /// Another stop comes and goes by the book.
    OtherStop {
        pause: bool,
    },
    Grant,
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..40_000u64).prop_map(|ms| Step::Pass { ms }),
        (0..2 * DAY_MS).prop_map(|ms| Step::WallClock { ms }),
        Just(Step::Ignorant),
        Just(Step::Honest),
        (0..5u8, 0..5u8).prop_map(|(release, start)| Step::Claim { release, start }),
        any::<(bool, bool)>().prop_map(|(released, pause)| Step::Soften { released, pause }),
        Just(Step::PushAgain),
        any::<bool>().prop_map(|pause| Step::OtherStop { pause }),
        Just(Step::Grant),
        Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s1_s2_s5_nothing_that_is_accepted_lifts_a_halt_but_its_own_release_and_start(
        by_push: bool,
        steps in proptest::collection::vec(step(), 1..20),
    ) {
        let mut world = World::running();
        let mut ignorant = world.clone();
        let mut guard = Believer::new(&world);
        let event = world.stop("demo", LockKind::Halt);
        let lock = event.stop.digest();
        if by_push {
            guard.push(&event);
        } else {
            guard.renew(&world);
        }
        for step in steps {
            take(&step, &mut world, &mut ignorant, &mut guard, &event);
            prop_assert!(!guard.allowed(), "after {step:?}");
            prop_assert!(guard.judge().locks.iter().any(|l| l.id == lock), "after {step:?}");
        }
        // Its own release and start do lift it: the property does not hold for want of trying.
        while world.ledger.size() <= guard.trusted.log_size() {
            world.stop("elsewhere", LockKind::Halt);
        }
        world.release("demo", lock);
        world.start("demo", lock);
        while guard.renew(&world).ask_again {}
        prop_assert!(!guard.judge().locks.iter().any(|l| l.id == lock));
    }
}

/// Takes one step. Leases may be refused: only what is accepted counts.
fn take(step: &Step, world: &mut World, ignorant: &mut World, guard: &mut Believer, event: &StopEvent) {
    let lock = event.stop.digest();
    match *step {
        Step::Pass { ms } => guard.pass(ms),
        Step::WallClock { ms } => guard.now.wall_ms = T0_MS - DAY_MS + ms,
        Step::Ignorant => {
            // Larger than the floor, so that the log's size gives nothing away.
            while ignorant.ledger.size() <= guard.trusted.log_size() {
                ignorant.stop("elsewhere", LockKind::Halt);
            }
            let _ = guard.renew_with(ignorant, |_| {});
        }
        Step::Honest => drop(guard.renew_with(world, |_| {})),
        Step::Claim { release, start } => {
            let release = proof(world, "release", release, event).expect("every release is some document");
            let start = proof(world, "start", start, event);
            let stop = event.stop.clone();
            let claim = |reply: &mut Reply| {
                reply.views[0].locks.clear();
                for answer in &mut reply.answers {
                    let (stop, release, start) = (stop.clone(), release.clone(), start.clone());
                    let (release, start) = (clearing(&release), start.as_ref().map(clearing));
                    *answer = LockAnswer::Cleared { placed: stop, release, start };
                }
            };
            let _ = guard.renew_with(world, claim);
        }
        Step::Soften { released, pause } => {
            let soften = |reply: &mut Reply| {
                for shown in &mut reply.views[0].locks {
                    shown.released = released;
                    shown.kind = if pause { LockKind::Pause } else { shown.kind };
                }
            };
            let _ = guard.renew_with(world, soften);
        }
        Step::PushAgain => drop(guard.push(event)),
        Step::OtherStop { pause } => {
            let mode = if pause { LockKind::Pause } else { LockKind::Halt };
            let other = world.stop(AGENT, mode);
            guard.push(&other);
            let id = other.stop.digest();
            world.release(AGENT, id);
            if !pause {
                world.start(AGENT, id);
            }
        }
        Step::Grant => {
            if world.ledger.grants(0).len() < 8 {
                world.grant(AGENT, DAY_MS);
            }
        }
        Step::Forget => {
            guard.trusted.forget(&scope(AGENT));
            guard.trusted.add(scope(AGENT));
        }
    }
    assert!(guard.trusted.judge(&scope(AGENT), guard.now).locks.iter().any(|l| l.id == lock));
}

/// A document that falls short in the `n`th way; the first one is good, but only together with a good other half.
fn proof(
    world: &mut World,
    action: &str,
    n: u8,
    event: &StopEvent,
) -> Option<tagout::proto::envelope::Envelope> {
    let lock = event.stop.digest();
    Some(match (n, action) {
        // A good release never meets a good start here.
        (0, "release") => world.lifting(action, "demo", lock, &PEOPLE),
        (0, _) => return None,
        (1, _) => world.lifting(action, "demo", lock, &[Who::Alice]),
        (2, _) => world.lifting(action, "demo/agent_9", lock, &PEOPLE),
        (3, _) => world.lifting(action, "demo", tagout::proto::digest::Digest([3; 32]), &PEOPLE),
        (_, _) => world.lifting(if action == "start" { "release" } else { "start" }, "demo", lock, &PEOPLE),
    })
}
