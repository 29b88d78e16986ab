//! What a guard is sent, by anybody and by a node that lies. See `tests/fuzz/lib.rs` for how.

#[path = "../sdk/world.rs"]
#[allow(dead_code, reason = "shared with the SDK's tests, which use all of it")]
mod world;

use tagout::proto::envelope::Envelope;
use tagout::proto::lease::{LeaseResponse, LockAnswer};
use tagout::proto::lock::LockKind;
use tagout::proto::view::View;
use tagout::proto::wire::{StopEvent, StopPath};
use tagout::trusted::Asked;
use tagout_fuzz::{Answer, Target, check_sentence, mutate};

use crate::world::*;

/// A service and a guard of it, for as long as nothing changes them.
struct Scene {
    world: World,
    guard: Believer,
    asked: Asked,
}

impl Scene {
    /// The agent has consent and runs.
    fn running() -> Self {
        let world = World::running();
        let mut guard = Believer::new(&world);
        guard.renew(&world);
        assert!(guard.allowed());
        let asked = guard.ask();
        Self { world, guard, asked }
    }

    /// The agent is halted, by a lock that is still in force.
    fn halted() -> Self {
        let mut scene = Self::running();
        let stop = scene.world.stop(AGENT, LockKind::Halt);
        scene.guard.push(&stop);
        scene.asked = scene.guard.ask();
        scene
    }

    /// Whether a guard in this place takes the answer, which must leave it closed.
    fn takes(&self, response: LeaseResponse) -> Answer {
        let mut trusted = self.guard.trusted.clone();
        let accepted = trusted.accept_lease(&self.asked, response, self.guard.now);
        let after = trusted.judge(&scope(AGENT), self.guard.now);
        if accepted.is_err() {
            assert_eq!(after, self.guard.judge(), "an answer is taken over whole, or not at all");
        }
        let why = after.refusal.expect("S2, S5: two people released and started nothing");
        check_sentence(&why.to_string());
        Answer::of(&accepted)
    }
}

/// A node without its key, or somebody in its place: the honest answer with any change to it.
#[test]
fn lease_answers() {
    let scene = Scene::halted();
    let honest = scene.world.reply(&scene.asked.request).sign(&scene.asked.request);
    let seed = serde_json::to_string(&honest).unwrap();
    let target =
        Target::new("guard-lease", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| {
        let Ok(response) = serde_json::from_slice::<LeaseResponse>(bytes) else { return Answer::Refused };
        let answer = scene.takes(response.clone());
        // S3: what is bound to the nonce is the answer that was signed, and no other.
        let same = response.views == honest.views && response.answers == honest.answers;
        assert!(same || answer == Answer::Refused, "the node signed another answer");
        answer
    });
}

/// A node that has its key and lies: whatever it shows and claims, and signs.
#[test]
fn lying_nodes() {
    let mut scene = Scene::halted();
    let id = scene.asked.request.known[0].id;
    let placed = scene.guard.ask().request.known[0].document.clone();
    let placed = placed.unwrap_or_else(|| scene.world.reply(&scene.asked.request).views[0].grants[0].clone());
    let view = scene.world.reply(&scene.asked.request).views.remove(0);
    let free = View { locks: vec![], ..view.clone() };
    // What one person signed, and what people signed for another lock.
    let world = &mut scene.world;
    let one = world.lifting("release", AGENT, id, &[Who::Alice]);
    let start = world.lifting("start", AGENT, id, &PEOPLE);
    let other = world.stop(AGENT, LockKind::Pause).stop.digest();
    let elsewhere = world.lifting("release", AGENT, other, &PEOPLE);
    let cleared = |release: &Envelope, start: Option<&Envelope>| LockAnswer::Cleared {
        placed: placed.clone(),
        release: clearing(release),
        start: start.map(clearing),
    };
    let seeds: Vec<String> = [
        (view, LockAnswer::Held { why: "it is in force".into() }),
        (free.clone(), cleared(&one, Some(&start))),
        (free.clone(), cleared(&elsewhere, Some(&start))),
        (free, LockAnswer::SendDocument),
    ]
    .iter()
    .map(|lie| serde_json::to_string(lie).unwrap())
    .collect();
    let scene = Scene::halted();
    let target = Target::new("guard-lying-node", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let Ok((view, answer)) = serde_json::from_slice::<(View, LockAnswer)>(bytes) else {
            return Answer::Refused;
        };
        let mut reply = scene.world.reply(&scene.asked.request);
        (reply.views, reply.answers) = (vec![view], vec![answer]);
        scene.takes(reply.sign(&scene.asked.request))
    });
}

/// S5, S6: a pushed stop is one if a principal signed it, by whatever path it came.
#[test]
fn pushed_stops() {
    let mut world = World::running();
    let stops = [world.stop(AGENT, LockKind::Halt), world.stop("demo", LockKind::Drain { drain_ms: 60_000 })];
    let seeds = stops.clone().map(|stop| serde_json::to_string(&stop).unwrap());
    let scene = Scene::running();
    let (before, now) = (scene.guard.judge(), scene.guard.now);
    let target = Target::new("guard-stop", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let Ok(event) = serde_json::from_slice::<StopEvent>(bytes) else { return Answer::Refused };
        let mut trusted = scene.guard.trusted.clone();
        let accepted = trusted.accept_push(&event, now);
        let after = trusted.judge(&scope(AGENT), now);
        assert!(after.allow_until_ns <= before.allow_until_ns, "S7: a stop never gives");
        match &accepted {
            Ok(_) => {
                assert!(stops.iter().any(|stop| stop.stop.document == event.stop.document), "forged");
                after.refusal.iter().for_each(|why| check_sentence(&why.to_string()));
            }
            Err(_) => assert_eq!(before, after),
        }
        Answer::of(&accepted)
    });
}

/// S5, S6: the same of what a program or a file brings.
#[test]
fn delivered_stops() {
    let mut world = World::running();
    let stops = [LockKind::Halt, LockKind::Restrict].map(|kind| world.stop(AGENT, kind).stop);
    let seeds = stops.clone().map(|stop| serde_json::to_string(&stop).unwrap());
    let scene = Scene::running();
    let (before, now) = (scene.guard.judge(), scene.guard.now);
    let target = Target::new("guard-delivery", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let Ok(stop) = serde_json::from_slice::<Envelope>(bytes) else { return Answer::Refused };
        let mut trusted = scene.guard.trusted.clone();
        let accepted = trusted.accept_delivered(&stop, StopPath::File, now);
        let after = trusted.judge(&scope(AGENT), now);
        match &accepted {
            Ok(_) => assert!(stops.iter().any(|signed| signed.document == stop.document), "forged"),
            Err(why) => {
                check_sentence(&why.to_string());
                assert_eq!(before, after);
            }
        }
        Answer::of(&accepted)
    });
}

/// S4: whatever stands in a guard's state folder, it denies or says that it is of no use.
#[test]
fn kept_states() {
    let scene = Scene::halted();
    let (fresh, now) = (Believer::new(&scene.world), scene.guard.now);
    let kept = String::from_utf8(scene.guard.trusted.keep()).unwrap();
    let body = kept.split_once('\n').unwrap().1.to_owned();
    // Under a true digest, so that what comes after it is read.
    let sealed = |body: &[u8]| {
        let first = format!("tagout guard state 1 {}\n", tagout::proto::digest::Digest::of(body));
        [first.into_bytes(), body.to_vec()].concat()
    };
    let target = Target::new("guard-state", [kept.clone()])
        .make(|random| sealed(&mutate::json(random, &body).into_bytes()));
    target.check(|bytes| {
        let mut trusted = fresh.trusted.clone();
        let recalled = trusted.recall(bytes, now);
        let after = trusted.judge(&scope(AGENT), now);
        assert!(after.refusal.is_some() && after.allow_until_ns == 0, "S4: the disk never allows");
        recalled.iter().for_each(|()| drop(trusted.keep()));
        recalled.as_ref().err().iter().for_each(|why| check_sentence(&why.to_string()));
        Answer::of(&recalled)
    });
}
