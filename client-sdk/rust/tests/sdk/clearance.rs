//! How a lock ends: by a release and, after a halt or drain, a start, both verified by the guard itself (S2, S5).

use tagout::proto::command::ActionKind;
use tagout::proto::envelope::Envelope;
use tagout::proto::lease::LockAnswer;
use tagout::proto::lock::LockKind;
use tagout::proto::wire::StopEvent;
use tagout::trusted::ClearanceRefused;

use crate::world::*;

/// A stopped agent, and a service that claims its lock to be gone.
struct Claim {
    world: World,
    guard: Believer,
    event: StopEvent,
}

impl Claim {
    fn new(mode: LockKind) -> Self {
        let mut world = World::running();
        let mut guard = Believer::new(&world);
        let event = world.stop(AGENT, mode);
        guard.push(&event);
        guard.renew(&world);
        assert!(!guard.allowed());
        Self { world, guard, event }
    }

    fn lift(&mut self, action: &str, on: &str, who: &[Who]) -> Envelope {
        self.world.lifting(action, on, self.event.stop.digest(), who)
    }

    /// What the guard thinks of `Cleared` with these; it must come to nothing.
    fn refused(&mut self, release: &Envelope, start: Option<&Envelope>) -> ClearanceRefused {
        let stop = self.event.stop.clone();
        self.refused_with(stop, release, start)
    }

    fn refused_with(
        &mut self,
        stop: Envelope,
        release: &Envelope,
        start: Option<&Envelope>,
    ) -> ClearanceRefused {
        let accepted = self.claim(stop, release, start);
        assert!(!self.guard.allowed(), "S2");
        assert!(accepted.cleared.is_empty());
        let [(_, _, why)] = &accepted.uncleared[..] else { panic!("{accepted:?}") };
        let told = self.guard.judge().refusal.unwrap().to_string();
        assert!(told.contains(&why.to_string()), "people are told: {told}");
        why.clone()
    }

    fn claim(
        &mut self,
        stop: Envelope,
        release: &Envelope,
        start: Option<&Envelope>,
    ) -> tagout::trusted::Accepted {
        let (release, start) = (release.clone(), start.cloned());
        let lie = |reply: &mut Reply| {
            reply.views[0].locks.clear();
            let start = start.as_ref().map(clearing);
            reply.answers = vec![LockAnswer::Cleared { placed: stop, release: clearing(&release), start }];
        };
        self.guard.renew_with(&self.world, lie).unwrap()
    }
}

const RELEASE: ActionKind = ActionKind::Release;
const START: ActionKind = ActionKind::Start;

#[test]
fn s2_release_then_start_and_only_then_it_runs() {
    let mut claim = Claim::new(LockKind::Halt);
    let lock = claim.event.stop.digest();
    claim.world.release(AGENT, lock);
    claim.guard.renew(&claim.world);
    assert!(!claim.guard.allowed(), "a release restarts nothing");
    claim.world.grant(AGENT, DAY_MS);
    claim.guard.renew(&claim.world);
    assert!(!claim.guard.allowed(), "nor does new consent");
    claim.world.start(AGENT, lock);
    let accepted = claim.guard.renew(&claim.world);
    assert_eq!(accepted.cleared, [(lock, scope(AGENT))]);
    assert!(claim.guard.allowed(), "one renewal is enough");

    // The push that comes late is no new stop, and a new stop is one.
    claim.guard.push(&claim.event.clone());
    assert!(claim.guard.allowed());
    let again = claim.world.stop(AGENT, LockKind::Halt);
    claim.guard.push(&again);
    assert!(!claim.guard.allowed());
}

#[test]
fn a_pause_ends_with_its_release() {
    let mut claim = Claim::new(LockKind::Pause);
    claim.world.release(AGENT, claim.event.stop.digest());
    claim.guard.renew(&claim.world);
    assert!(claim.guard.allowed());
}

#[test]
fn a_start_for_part_of_the_scope_starts_that_part() {
    let mut world = World::running();
    let (ours, theirs) = ("demo/team/a", "demo/team/b");
    let mut guard = Believer::of(&world, &[ours, theirs]);
    let event = world.stop("demo", LockKind::Halt);
    guard.push(&event);
    let lock = event.stop.digest();
    world.release("demo", lock);
    let start = world.lifting("start", ours, lock, &[Who::Dora]);
    world.send(&start);
    guard.renew(&world);
    assert!(guard.trusted.judge(&scope(ours), guard.now).refusal.is_none());
    assert!(guard.trusted.judge(&scope(theirs), guard.now).refusal.is_some());
    // The start that was given for the one proves nothing for the other.
    let (stop, release) = (event.stop.clone(), world.lifting("release", "demo", lock, &PEOPLE));
    let lie = |reply: &mut Reply| {
        reply.views[1].locks.clear();
        reply.answers[0] =
            LockAnswer::Cleared { placed: stop, release: clearing(&release), start: Some(clearing(&start)) };
    };
    let accepted = guard.renew_with(&world, lie).unwrap();
    let expected = ClearanceRefused::OtherScope { what: START, found: scope(ours), needed: scope(theirs) };
    assert_eq!(accepted.uncleared, [(lock, scope(theirs), expected)]);
    assert!(guard.trusted.judge(&scope(theirs), guard.now).refusal.is_some());
}

#[test]
fn s2_s5_each_false_proof_is_refused_by_its_name() {
    use ClearanceRefused as No;
    let mut claim = Claim::new(LockKind::Halt);
    let release = claim.lift("release", AGENT, &PEOPLE);
    let start = claim.lift("start", AGENT, &PEOPLE);

    assert_eq!(claim.refused(&release, None), No::StartMissing(LockKind::Halt));
    assert_eq!(
        claim.refused(&release, Some(&release)),
        No::WrongAction { what: START, found: RELEASE },
        "a release is no start"
    );
    assert_eq!(claim.refused(&start, Some(&start)), No::WrongAction { what: RELEASE, found: START });

    // Documents for another lock, such as those of the last incident.
    let other = claim.world.stop(AGENT, LockKind::Halt).stop;
    let other_release = claim.world.lifting("release", AGENT, other.digest(), &PEOPLE);
    let other_start = claim.world.lifting("start", AGENT, other.digest(), &PEOPLE);
    claim.guard = {
        // Begin again, with the first lock only.
        let mut guard = Believer::new(&claim.world);
        guard.push(&claim.event);
        guard
    };
    assert_eq!(claim.refused(&other_release, Some(&start)), No::OtherLock { what: RELEASE });
    assert_eq!(claim.refused(&release, Some(&other_start)), No::OtherLock { what: START });
    let found = other.digest();
    assert_eq!(claim.refused_with(other, &other_release, Some(&other_start)), No::OtherDocument(found));

    // Scopes that do not reach.
    let (child, sibling) = ("demo/agent_2/child", "demo/agent_3");
    for narrow in [child, sibling] {
        let narrow_release = claim.lift("release", narrow, &PEOPLE);
        let expected = No::OtherScope { what: RELEASE, found: scope(narrow), needed: scope(AGENT) };
        assert_eq!(claim.refused(&narrow_release, Some(&start)), expected);
        let narrow_start = claim.lift("start", narrow, &PEOPLE);
        let expected = No::OtherScope { what: START, found: scope(narrow), needed: scope(AGENT) };
        assert_eq!(claim.refused(&release, Some(&narrow_start)), expected);
    }

    // Too few, or the wrong ones.
    for who in [&[Who::Alice][..], &[Who::Alice, Who::Alice], &[Who::Bot], &[Who::Dora], &[Who::Stranger; 2]]
    {
        let weak = claim.lift("release", AGENT, who);
        let why = claim.refused(&weak, Some(&start));
        assert!(matches!(why, No::Unauthorised { what: RELEASE, .. }), "{who:?}: {why:?}");
        let weak = claim.lift("start", AGENT, who);
        let why = claim.refused(&release, Some(&weak));
        assert!(matches!(why, No::Unauthorised { what: START, .. }), "{who:?}: {why:?}");
    }
    let mut altered = claim.lift("start", "demo/agent_3", &PEOPLE);
    altered.document = altered.document.replace("agent_3", "agent_2");
    assert!(matches!(claim.refused(&release, Some(&altered)), No::Unauthorised { what: START, .. }));
    let unsigned = Envelope { signatures: vec![], ..release.clone() };
    assert!(matches!(claim.refused(&unsigned, Some(&start)), No::Envelope { what: RELEASE, .. }));

    // Another deployment's.
    let mut foreign = claim.world.clone();
    foreign.deployment.genesis.0[0] ^= 1;
    let foreign = foreign.lifting("release", AGENT, claim.event.stop.digest(), &PEOPLE);
    assert!(matches!(claim.refused(&foreign, Some(&start)), No::OtherDeployment { what: RELEASE, .. }));
    let garbage = Envelope { document: "{}".into(), ..release.clone() };
    assert!(matches!(claim.refused(&garbage, Some(&start)), No::Document { what: RELEASE, .. }));

    // And the true ones are true.
    let stop = claim.event.stop.clone();
    let accepted = claim.claim(stop, &release, Some(&start));
    assert_eq!(accepted.cleared.len(), 1);
}

#[test]
fn a_lock_that_the_view_still_shows_is_not_cleared_beside_it() {
    let mut claim = Claim::new(LockKind::Halt);
    let (release, start) = (claim.lift("release", AGENT, &PEOPLE), claim.lift("start", AGENT, &PEOPLE));
    let stop = claim.event.stop.clone();
    let contradiction = |reply: &mut Reply| {
        reply.answers = vec![LockAnswer::Cleared {
            placed: stop,
            release: clearing(&release),
            start: Some(clearing(&start)),
        }];
    };
    let accepted = claim.guard.renew_with(&claim.world, contradiction).unwrap();
    assert!(accepted.cleared.is_empty() && !claim.guard.allowed());
}

#[test]
fn a_lock_that_no_document_has_never_ends() {
    let mut world = World::running();
    let mut guard = Believer::new(&world);
    let made_up = tagout::proto::digest::Digest([0xab; 32]);
    let lie = |reply: &mut Reply| reply.views[0].locks = vec![lock_view(made_up, AGENT, LockKind::Pause)];
    guard.renew_with(&world, lie).unwrap();
    let stop = world.stop("elsewhere", LockKind::Pause).stop;
    let release = world.lifting("release", "*", made_up, &PEOPLE);
    let found = stop.digest();
    let lie = |reply: &mut Reply| {
        reply.answers = vec![LockAnswer::Cleared { placed: stop, release: clearing(&release), start: None }];
    };
    let accepted = guard.renew_with(&world, lie).unwrap();
    assert_eq!(accepted.uncleared[0].2, ClearanceRefused::OtherDocument(found));
    assert!(!guard.allowed(), "S5: a node can stop an agent; it cannot pretend that people let it run again");
}
