//! Drills: evidence of what a stop reached, which says what the log does or is refused, and which changes nothing.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;
use tagout_proto::digest::Digest;
use tagout_proto::drill::{Drill, Drilled, Place};
use tagout_proto::envelope::Envelope;
use tagout_proto::ledger::{Receipt, Refusal};
use tagout_proto::limits::{DRILL_INSTANCES_MAX, DRILLED_SCOPES_MAX};
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::rule::Verdict::Enabled;
use tagout_proto::sshsig::{DRILL_NAMESPACE, NAMESPACE};

use crate::support::*;

fn outcome(world: &mut World, lock: &Digest, confirmed: u64, slowest_ms: u64) -> u64 {
    let document =
        json!({"tagout": 1, "outcome": lock, "confirmed": confirmed, "bounded": 1, "slowest_ms": slowest_ms});
    let envelope = Envelope { document: document.to_string(), signatures: vec![] };
    world.propose(EntryKind::Outcome, envelope).answer.unwrap().index
}

/// The place of the newest entry with a document that names `lock`, of one action.
fn place(world: &World, action: &str, lock: &Digest) -> Option<Place> {
    let mut entries = world.entries.iter().map(|bytes| Entry::decode(bytes).unwrap());
    let action = format!("\"action\":\"{action}\"");
    let names = |entry: &Entry| {
        let document = &entry.envelope.document;
        document.contains(&action) && document.contains(&lock.to_string())
    };
    let found = entries.rfind(names)?;
    Some(Place { digest: found.envelope.digest(), index: found.index })
}

/// What somebody would sign of `lock` who tells the truth.
fn drill_of(world: &World, lock: &Digest, on: &str, confirmed: u64, slowest_ms: u64) -> Drill {
    let instance =
        |agent: &str, after_ms| Drilled { agent: scope(agent), instance: "pod-7".into(), after_ms };
    let mut instances = vec![instance(on, None)];
    instances.extend((0..confirmed.min(3)).map(|n| instance(on, Some(slowest_ms - n.min(slowest_ms)))));
    Drill {
        deployment: deployment().parse().unwrap(),
        issued_at_ms: T0,
        scope: scope(on),
        stop: Place { digest: *lock, index: world.ledger.used_at(lock).unwrap() },
        outcome: world.ledger.outcome_index(lock).unwrap_or(0),
        release: place(world, "release", lock),
        start: place(world, "start", lock),
        confirmed,
        bounded: 1,
        slowest_ms: (confirmed > 0).then_some(slowest_ms),
        instances,
    }
}

fn signed(drill: &Drill, who: &[u8]) -> Envelope {
    let document = drill.to_document();
    let signatures = who.iter().map(|who| sign_in(DRILL_NAMESPACE, *who, &document)).collect();
    Envelope { document, signatures }
}

fn append(world: &mut World, envelope: Envelope) -> Result<Receipt, Refusal> {
    world.propose(EntryKind::Drill, envelope).answer
}

/// Of a stop to which one answered within 7 ms.
fn append_true(world: &mut World, lock: &Digest, on: &str, who: &[u8]) {
    let envelope = signed(&drill_of(world, lock, on, 1, 7), who);
    append(world, envelope).unwrap();
}

/// A stop of `a` with its outcome, brought back.
fn drilled() -> (World, Digest) {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    outcome(&mut world, &lock, 2, 340);
    world.release("a", &[lock]).unwrap();
    world.start("a", &[lock]).unwrap();
    (world, lock)
}

#[test]
fn s8_a_drill_says_what_the_log_does_once_and_is_signed_by_who_may_stop() {
    let (mut world, lock) = drilled();
    let drill = drill_of(&world, &lock, "a", 2, 340);
    assert_eq!(Drill::parse(drill.to_document().as_bytes()).as_ref(), Ok(&drill));
    let before = shown(&world);

    // S7: an automation may not bring back, and may say what was.
    let envelope = signed(&drill, &[BOT]);
    let applied = world.propose(EntryKind::Drill, envelope.clone());
    let receipt = applied.answer.unwrap();
    assert_eq!((receipt.digest, receipt.repeated, applied.effect), (envelope.digest(), false, None));
    let entry = Entry::decode(&applied.entry.unwrap()).unwrap();
    assert_eq!((entry.kind, entry.envelope), (EntryKind::Drill, envelope.clone()));
    assert_eq!(shown(&world), before, "evidence changes nothing for any agent");
    world.restart();
    let latest = world.ledger.drills(&scope("a/x"));
    let [latest] = &latest[..] else { panic!("{latest:?}") };
    assert_eq!(
        (latest.index, &latest.by[..], latest.slowest_ms),
        (receipt.index, &["bot".into()][..], Some(340))
    );
    assert!(
        latest.resumed
            && latest.lock == lock
            && world.ledger.stop_record(&lock).unwrap().drill == Some(receipt.index)
    );
    assert!(world.ledger.drills(&scope("b")).is_empty());

    // The same bytes get their first answer; others are a second drill of one stop.
    let again = append(&mut world, envelope).unwrap();
    assert_eq!((again.index, again.repeated), (receipt.index, true));
    let other = Drill { issued_at_ms: T0 + 1, ..drill };
    let known = append(&mut world, signed(&other, &[ALICE]));
    assert_eq!(known, Err(Refusal::DrillKnown { lock, index: receipt.index }));
    let replayed = postcard::to_stdvec(&world.replayed()).unwrap();
    assert_eq!(replayed, postcard::to_stdvec(&world.ledger).unwrap());
}

#[test]
fn s8_what_the_log_does_not_say_is_refused_by_its_name() {
    let (mut world, lock) = drilled();
    let (other, no_stop) = (world.stop("b", "halt"), Digest([9; 32]));
    let good = drill_of(&world, &lock, "a", 2, 340);
    let size = world.ledger.size();
    let place = |digest: Digest, index: u64| Some(Place { digest, index });
    let with = |change: &dyn Fn(&mut Drill)| {
        let mut drill = good.clone();
        change(&mut drill);
        drill
    };
    let faster = |d: &mut Drill, ms: u64| {
        d.slowest_ms = Some(ms);
        d.instances.iter_mut().filter_map(|i| i.after_ms.as_mut()).for_each(|after| *after = ms);
    };
    let (release, start) = (good.release.unwrap(), good.start.unwrap());
    for (forged, says) in [
        (
            with(&|d| faster(d, 12)),
            "gives the slowest: 12 ms, and by the log it is 340 ms: sign what the log says",
        ),
        (with(&|d| d.bounded = 2), "gives bounded instances: 2, and by the log it is 1"),
        (with(&|d| d.confirmed = 3), "gives confirmed instances: 3, and by the log it is 2"),
        (with(&|d| d.stop.index += 1), "gives the stop as entry 3, and by the log it is entry 2"),
        (with(&|d| d.outcome += 1), "gives the outcome as entry 4, and by the log it is entry 3"),
        (
            with(&|d| d.release = place(release.digest, 5)),
            "gives the release as entry 5, and by the log it is entry 4",
        ),
        (with(&|d| d.release = place(start.digest, 4)), "and by the log it is another document"),
        (with(&|d| d.start = None), "gives the start as not in the log, and by the log it is entry 5"),
        (with(&|d| d.stop.digest = no_stop), "no stop 0909090909"),
        (with(&|d| d.stop.digest = release.digest), "no stop "),
        (with(&|d| d.stop.digest = other), "was of b, not of a: a drill names its stop's scope"),
        (drill_of(&world, &other, "b", 2, 340), "is not in the log yet: a drill says what it says"),
        (with(&|d| d.deployment = format!("demo:{no_stop}").parse().unwrap()), "is for deployment demo:0909"),
        (with(&|d| d.instances[1].after_ms = Some(341)), "do not fit the instances that it lists"),
        (with(&|d| d.instances[1].after_ms = None), "do not fit the instances that it lists"),
        (with(&|d| d.slowest_ms = None), "do not fit the instances that it lists"),
        (with(&|d| d.instances[0].agent = scope("b")), "the drill of a lists an instance of b"),
        (with(&|d| d.release = None), "names a start and no release"),
        (with(&|d| d.instances.clear()), "a list of 1 to 64 objects"),
        (
            with(&|d| d.instances = vec![d.instances[0].clone(); DRILL_INSTANCES_MAX + 1]),
            "a list of 1 to 64 objects",
        ),
    ] {
        let refusal = append(&mut world, signed(&forged, &[ALICE])).unwrap_err();
        assert!(refusal.to_string().contains(says), "{refusal} instead of {says}");
    }
    for (who, says) in [
        (CAROL, "carol may not stop a: that takes 1 of alice, bob, bot"),
        (DORA, "dora may not stop a"),
        (STRANGER, "no signature on it is valid"),
    ] {
        let refusal = append(&mut world, signed(&good, &[who])).unwrap_err();
        assert!(refusal.to_string().starts_with(says), "{refusal}");
    }
    let unsigned = append(&mut world, signed(&good, &[])).unwrap_err();
    assert!(unsigned.to_string().contains("ssh-keygen -Y sign -n tagout-drill"), "{unsigned}");
    // S5: neither namespace stands for the other.
    let as_command = append(&mut world, envelope(good.to_document(), &[ALICE])).unwrap_err();
    let says =
        "signature is for namespace \"tagout-command\"; sign again with: ssh-keygen -Y sign -n tagout-drill";
    assert!(as_command.to_string().contains(says), "{as_command}");
    let stop = world.stop_document("a", "halt").document;
    let signatures = vec![sign_in(DRILL_NAMESPACE, ALICE, &stop)];
    let as_drill = world.send(Envelope { document: stop, signatures }).unwrap_err();
    assert!(as_drill.to_string().contains(&format!("sign again with: ssh-keygen -Y sign -n {NAMESPACE}")));
    assert!(matches!(world.send(signed(&good, &[ALICE])), Err(Refusal::Malformed(_))));
    assert_eq!(world.ledger.size(), size);
    append(&mut world, signed(&good, &[ALICE])).unwrap();
}

#[test]
fn a_drill_that_was_not_brought_back_yet_says_so_for_good() {
    let mut world = World::running();
    let lock = world.stop("a", "halt");
    outcome(&mut world, &lock, 1, 7);
    append_true(&mut world, &lock, "a", &[ALICE]);
    assert!(!world.ledger.drills(&scope("a"))[0].resumed);
    // Released and not started is not brought back either.
    let lock = world.stop("b", "halt");
    outcome(&mut world, &lock, 1, 7);
    let too_early = drill_of(&world, &lock, "b", 1, 7);
    world.release("b", &[lock]).unwrap();
    assert!(matches!(append(&mut world, signed(&too_early, &[ALICE])), Err(Refusal::DrillDiffers { .. })));
    append_true(&mut world, &lock, "b", &[ALICE]);
    assert!(!world.ledger.drills(&scope("b"))[0].resumed);
    world.start("b", &[lock]).unwrap();
    assert_eq!(world.verdict("b"), Enabled);
    // A pause has no start.
    let lock = world.stop("b", "pause");
    outcome(&mut world, &lock, 1, 7);
    world.release("b", &[lock]).unwrap();
    append_true(&mut world, &lock, "b", &[ALICE]);
    assert!(world.ledger.drills(&scope("b"))[0].resumed);
}

#[test]
fn an_outcome_without_figures_is_one_and_has_no_drill() {
    let mut world = World::running();
    for strange in [json!(null), json!("2"), json!(-1), json!(1.0), json!([])] {
        let lock = world.stop("a", "halt");
        let document =
            json!({"outcome": lock, "confirmed": strange, "bounded": 1, "slowest_ms": 7}).to_string();
        world.propose(EntryKind::Outcome, Envelope { document, signatures: vec![] }).answer.unwrap();
        let drill = drill_of(&world, &lock, "a", 2, 7);
        assert!(matches!(append(&mut world, signed(&drill, &[ALICE])), Err(Refusal::DrillDiffers { .. })));
    }
}

#[test]
fn the_newest_drill_of_a_bounded_number_of_scopes_is_known() {
    let mut world = World::running();
    for n in 0..=DRILLED_SCOPES_MAX {
        let on = format!("canary/{n}");
        let lock = world.stop(&on, "halt");
        outcome(&mut world, &lock, 1, 7);
        append_true(&mut world, &lock, &on, &[BOT]);
    }
    let known = world.ledger.drills(&scope("*"));
    assert_eq!(known.len(), DRILLED_SCOPES_MAX);
    assert!(known[0].scope == scope("canary/64") && world.ledger.drills(&scope("canary/0")).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Stop(Index, &'static str),
    Outcome(Index, u64),
    Release(Index),
    Start(Index),
    Drill(Index, u64, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<Index>;
    prop_oneof![
        (at(), prop::sample::select(vec!["halt", "drain", "pause"]))
            .prop_map(|(on, mode)| Step::Stop(on, mode)),
        (at(), 0..3u64).prop_map(|(of, ms)| Step::Outcome(of, ms)),
        at().prop_map(Step::Release),
        at().prop_map(Step::Start),
        (at(), 0..3u64, prop::sample::select(vec![ALICE, BOT, CAROL, STRANGER]))
            .prop_map(|(of, ms, who)| Step::Drill(of, ms, who)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(24)))]

    /// Whatever came before, true evidence and false change nothing of what any agent may do.
    #[test]
    fn s2_s7_no_drill_changes_a_view(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::running();
        let mut stops: Vec<(Digest, &str)> = Vec::new();
        for step in steps {
            if let Step::Stop(on, mode) = &step {
                let on = ["a", "a/x", "b", "*"][on.index(4)];
                stops.push((world.stop(on, mode), on));
            } else if stops.is_empty() {
                continue;
            }
            let of = |at: &Index| stops[at.index(stops.len())];
            // Each of them may be refused: it comes too early, too late or again.
            match &step {
                Step::Stop(..) => {}
                Step::Outcome(at, ms) => {
                    if world.ledger.outcome_index(&of(at).0).is_none() {
                        outcome(&mut world, &of(at).0, 1, *ms);
                    }
                }
                Step::Release(at) => drop(world.release(of(at).1, &[of(at).0])),
                Step::Start(at) => drop(world.start(of(at).1, &[of(at).0])),
                Step::Drill(at, ms, who) => {
                    let (lock, on) = of(at);
                    let drill = drill_of(&world, &lock, on, 1, *ms);
                    let before = shown(&world);
                    let applied = world.propose(EntryKind::Drill, signed(&drill, &[*who]));
                    prop_assert_eq!(applied.effect, None);
                    prop_assert_eq!(shown(&world), before);
                    let may = [ALICE, BOT].contains(who);
                    prop_assert!(may || applied.answer.is_err());
                }
            }
        }
    }
}
