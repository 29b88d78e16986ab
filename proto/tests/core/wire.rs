//! What nodes, guards and people exchange: every body reads back as it was written, and no signature serves two ends.

use serde_json::{Value, json};
use tagout_proto::command::Listed;
use tagout_proto::digest::Digest;
use tagout_proto::lease::{
    Clearing, Lease, LeaseRequest, LeaseResponse, LockAnswer, Unenrolled, leaf_hash_of,
};
use tagout_proto::ledger::{LockRecord, Refusal};
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::view::View;
use tagout_proto::wire::{InstanceReach, ReachState, StopPath};

use crate::support::*;

#[track_caller]
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Value {
    let text = serde_json::to_string(value).unwrap();
    let again: T = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn bodies_read_back_as_they_were_written() {
    let mut world = World::running();
    let stop = world.stop_document("a", "drain");
    let lock = world.send(stop.clone()).unwrap().digest;
    let release = world.release_document("a", &[lock]);
    world.send(release.clone()).unwrap();
    world.start("a/x", &[lock]).unwrap();
    let record: LockRecord = world.ledger.lock(&lock).unwrap();
    let json = round_trip(&record);
    assert_eq!(json["kind"], json!({"drain": {"drain_ms": 60_000}}));
    assert_eq!((&json["released"], &json["started"]), (&json!(true), &json!(["a/x"])));
    let view = world.ledger.view(&scope("a/y"), world.now_ms);
    assert_eq!((view.locks.len(), view.grants.len()), (1, 1));
    round_trip(&view);
    round_trip(&world.ledger.grants(world.now_ms)[0]);
    let listed = Some(Listed { index: 1, path: vec![Digest([2; 32])] });
    let clearing = Clearing { envelope: release, listed };
    let answers = vec![
        LockAnswer::Cleared {
            placed: stop,
            release: clearing.clone(),
            start: Some(Clearing { listed: None, ..clearing }),
        },
        LockAnswer::Held { why: "not released".into() },
        LockAnswer::SendDocument,
    ];
    let json = round_trip(&answers);
    assert_eq!(json[2], json!({"answer": "send_document"}));
    let path = vec![Digest([1; 32])];
    round_trip(&LeaseResponse {
        lease: "x".into(),
        leaf_index: 1,
        path,
        views: vec![None, Some(view)],
        answers,
        unenrolled: vec![Unenrolled { agent: scope("b"), why: "w".into() }],
        instances: vec![1, 2],
    });
    let request = json!({"nonce": "00".repeat(32), "instance": "i", "agents": [{"scope": "a"}]});
    round_trip(&serde_json::from_value::<LeaseRequest>(request.clone()).unwrap());
    for extra in ["more", "view"] {
        let mut request = request.clone();
        request[extra] = json!(1);
        assert!(serde_json::from_value::<LeaseRequest>(request).is_err(), "{extra}");
    }
    for state in [
        ReachState::Waiting { connected: true },
        ReachState::Bounded { connected: false },
        ReachState::Confirmed { after_ms: 1, closed_us: 2, cut_us: 3, calls_cut: 4, by: StopPath::Push },
    ] {
        round_trip(&InstanceReach { agent: scope("a"), instance: "i".into(), state });
    }
    for refusal in [
        world.release("a", &[lock]).unwrap_err(),
        world.start("b", &[lock]).unwrap_err(),
        Refusal::Used { index: 1, released_at: 2 },
    ] {
        round_trip(&refusal);
    }
}

fn view() -> View {
    let mut world = World::running();
    world.stop("a", "drain");
    let lock = world.stop("*", "halt");
    world.release("*", &[lock]).unwrap();
    world.ledger.view(&scope("a/x"), world.now_ms)
}

#[test]
fn a_views_digest_holds_every_part_of_it() {
    let view = view();
    assert_eq!((view.locks.len(), view.grants.len()), (2, 1));
    let mut digests = vec![view.digest()];
    let mut with = |change: &dyn Fn(&mut View)| {
        let mut changed = view.clone();
        change(&mut changed);
        assert_ne!(changed, view);
        digests.push(changed.digest());
    };
    with(&|v| v.agent = scope("a/y"));
    with(&|v| v.locks.reverse());
    with(&|v| drop(v.locks.pop()));
    with(&|v| v.locks[0].id = Digest([0; 32]));
    with(&|v| v.locks[0].scope = scope("a"));
    with(&|v| v.locks[0].kind = tagout_proto::lock::LockKind::Pause);
    with(&|v| v.locks[1].kind = tagout_proto::lock::LockKind::Drain { drain_ms: 1 });
    with(&|v| v.locks[0].index += 1);
    with(&|v| v.locks[0].time_ms += 1);
    with(&|v| v.locks[0].released = false);
    with(&|v| v.locks[0].tag.reason.push('x'));
    with(&|v| v.locks[0].tag.by.push("x".into()));
    with(&|v| v.locks[0].tag.by[0].push('x'));
    with(&|v| v.locks[0].tag.case = Some(String::new()));
    with(&|v| v.locks[0].tag.case = Some("x".into()));
    with(&|v| v.grants[0].document.push(' '));
    with(&|v| v.grants[0].signatures.reverse());
    with(&|v| drop(v.grants[0].signatures.pop()));
    with(&|v| v.grants.push(v.grants[0].clone()));
    with(&|v| v.grants.clear());
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn a_leaf_holds_the_nonce_the_agents_and_the_answers() {
    let view = view().digest();
    let (a, b) = (scope("a"), scope("b"));
    let held = |why: &str| LockAnswer::Held { why: why.into() };
    let stop = World::new().stop_document("a", "halt");
    let clearing = |listed| Clearing { envelope: genesis(), listed };
    let cleared = |start: bool| LockAnswer::Cleared {
        placed: stop.clone(),
        release: clearing(None),
        start: start.then(|| clearing(None)),
    };
    let listed = |index, path: &[Digest]| LockAnswer::Cleared {
        placed: stop.clone(),
        release: clearing(Some(Listed { index, path: path.into() })),
        start: None,
    };
    let (n, l) = (Digest([1; 32]), Digest([5; 32]));
    let mut leaves = vec![
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[]),
        leaf_hash_of(&Digest([2; 32]), [(&a, view)].into_iter(), &[]),
        leaf_hash_of(&n, [(&b, view)].into_iter(), &[]),
        leaf_hash_of(&n, [(&a, n)].into_iter(), &[]),
        leaf_hash_of(&n, [(&a, view), (&b, view)].into_iter(), &[]),
        leaf_hash_of(&n, [(&b, view), (&a, view)].into_iter(), &[]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, held("x"))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(n, held("x"))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, held("y"))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, LockAnswer::SendDocument)]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, cleared(true))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, cleared(false))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, listed(0, &[]))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, listed(1, &[]))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, listed(0, &[n]))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, listed(0, &[l]))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, cleared(false)), (l, held("x"))]),
        leaf_hash_of(&n, [(&a, view)].into_iter(), &[(l, held("x")), (l, cleared(false))]),
    ];
    let count = leaves.len();
    leaves.sort();
    leaves.dedup();
    assert_eq!(leaves.len(), count);
}

#[test]
fn s5_no_statement_of_a_node_is_another_and_no_command_is_an_authority() {
    let (signer, key) = (node_signer(), node_signer().verifier());
    let checkpoint = Checkpoint { origin: deployment(), size: 1, root: Digest([3; 32]) }.sign(&signer);
    assert!(Checkpoint::open(&checkpoint, &key, &deployment()).is_ok());
    assert!(Lease::open(&checkpoint, &key).is_err());
    // A deployment cannot be named so that its checkpoints begin as leases do.
    assert!("tagout-lease/v1:00".parse::<tagout_proto::command::Deployment>().is_err());
    let lease = signer.sign("tagout-lease/v1\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
    assert!(Checkpoint::open(&lease, &key, &deployment()).is_err() && Lease::open(&lease, &key).is_err());
    // Root signatures are of the same namespace as commands: the documents themselves must not be mistaken.
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    assert!(tagout_proto::authority::Authority::genesis(&stop, stop.digest()).is_err());
    let read = tagout_proto::command::Command::parse(genesis().document.as_bytes()).unwrap().action;
    assert_eq!(read.kind(), tagout_proto::command::ActionKind::Authority);
}
