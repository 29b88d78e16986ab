//! What nodes, guards and the command line send each other as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tagout_fuzz::{Answer, Target, mutate};
use tagout_proto::command::{ActionKind, Listed};
use tagout_proto::digest::Digest;
use tagout_proto::lease::{Clearing, LeaseRequest, LeaseResponse, LockAnswer, Unenrolled, leaf_hash_of};
use tagout_proto::rule::Verdict;
use tagout_proto::sentence::sentence;
use tagout_proto::wire::*;

use crate::signatures::lease;
use crate::support::*;

/// Reads a body; what was read is written and read again without loss.
fn body<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> (Option<T>, Answer) {
    let parsed = serde_json::from_slice::<T>(bytes);
    if let Ok(value) = &parsed {
        let written = serde_json::to_string(value).unwrap();
        let again: T = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), written);
    }
    let answer = Answer::of(&parsed.as_ref().map_err(sentence));
    (parsed.ok(), answer)
}

#[test]
fn lease_request() {
    let mut world = World::running();
    let stop = world.stop_document("a", "halt");
    let seed = json!({
        "nonce": "ab".repeat(32), "instance": "host/1",
        "agents": [{"scope": "a/b"}, {"scope": "a/c", "view": "00".repeat(32)}],
        "known": [{"id": "cd".repeat(32), "agent": "a/b"}, {"id": stop.digest(), "agent": "a/c", "document": stop}],
    });
    let seed = seed.to_string();
    let target =
        Target::new("lease-request", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| body::<LeaseRequest>(bytes).1);
}

#[test]
fn lease_response() {
    let mut world = World::running();
    let stop = world.stop_document("a", "drain");
    let lock = world.send(stop.clone()).unwrap().digest;
    let release = world.release_document("a", &[lock]);
    let clearing = |listed| Clearing { envelope: release.clone(), listed };
    let listed = Some(Listed { index: 1, path: vec![Digest([3; 32])] });
    let response = LeaseResponse {
        lease: lease().sign(&node_signer()),
        leaf_index: 1,
        path: vec![Digest([1; 32]), Digest([2; 32])],
        views: vec![None, Some(world.ledger.view(&scope("a/x"), world.now_ms))],
        answers: vec![
            LockAnswer::Cleared { placed: stop, release: clearing(None), start: Some(clearing(listed)) },
            LockAnswer::Held { why: "not released".into() },
            LockAnswer::SendDocument,
        ],
        unenrolled: vec![Unenrolled { agent: scope("b"), why: "not enrolled".into() }],
        instances: vec![1, 3],
    };
    let seed = serde_json::to_string(&response).unwrap();
    let target =
        Target::new("lease-response", [seed.clone()]).make(|random| mutate::json(random, &seed).into_bytes());
    target.check(|bytes| {
        let (response, answer) = body::<LeaseResponse>(bytes);
        if let Some(response) = response {
            // What a guard does with it before it believes any of it.
            let views = response.views.iter().flatten().map(|view| (&view.agent, view.digest()));
            let views: Vec<_> = views.collect();
            let answers: Vec<_> =
                response.answers.into_iter().map(|answer| (Digest([5; 32]), answer)).collect();
            let leaf = leaf_hash_of(&Digest([6; 32]), views.into_iter(), &answers);
            assert!(lease().binds(leaf, response.leaf_index, &response.path).is_err());
        }
        answer
    });
}

/// The bodies that are no documents of their own.
#[test]
fn other_bodies() {
    let mut world = World::running();
    let stop = world.stop_document("a", "drain");
    let lock = world.send(stop.clone()).unwrap().digest;
    let record = world.ledger.lock(&lock).unwrap();
    let state =
        ReachState::Confirmed { after_ms: 1, closed_us: 2, cut_us: 3, calls_cut: 4, by: StopPath::Push };
    let reach = InstanceReach { agent: scope("a"), instance: "i".into(), state };
    let genesis_limits = world.ledger.authority().unwrap().limits;
    let text = |value: &dyn Fn() -> String| value();
    let seeds = [
        text(&|| {
            let (code, title, detail) = ("used".into(), "Conflict".into(), "sign a new one".into());
            serde_json::to_string(&Problem { code, status: 409, title, detail }).unwrap()
        }),
        text(&|| {
            let reach = Reach { agents: 1, instances: 2 };
            let (action, scope) = (ActionKind::Stop, scope("a"));
            let answer = CommandAnswer { action, scope, digest: lock, index: 2, time_ms: T0, repeated: false, awaited: 3, reach };
            serde_json::to_string(&answer).unwrap()
        }),
        text(&|| {
            let (action, scope, missing) = (ActionKind::Start, scope("a"), Some("1 more of bob".into()));
            let (command, signed_by) = (stop.clone(), vec!["alice".into()]);
            let proposal = ProposalRecord { id: lock, action, scope, command, signed_by, missing, entries: vec![2], expires_at_ms: T0 };
            serde_json::to_string(&Proposals { proposals: vec![proposal] }).unwrap()
        }),
        text(&|| {
            let (action, on) = (ActionKind::Grant, scope("a"));
            let (command, signed_by) = (stop.clone(), vec![]);
            let proposal = ProposalRecord { id: lock, action, scope: on, command, signed_by, missing: None, entries: vec![], expires_at_ms: T0 };
            let (verdict, verdict_then) = (Verdict::Denied, Verdict::Enabled);
            let first = vec![Enabled { scope: scope("a/x"), instances: 1, verdict, verdict_then }];
            let enables = Enables { agents: 2, instances: 3, more: 1, first, unheard: 1 };
            serde_json::to_string(&ProposalShown { proposal, enables }).unwrap()
        }),
        text(&|| {
            let status = Status {
                deployment: deployment(),
                node: "demo/node-1".into(),
                epoch: world.ledger.epoch(),
                log_size: 3,
                log_root: Digest([1; 32]),
                authority_version: 1,
                rule_version: 1,
                limits: genesis_limits,
                time_ms: T0,
                locks: 1,
                grants: world.ledger.grants(T0),
            };
            serde_json::to_string(&status).unwrap()
        }),
        text(&|| {
            let version = "0.1.0".into();
            let news = NodeNews { ms_ago: 1, ready: true, log_size: 3, clock_offset_ms: -2, version, rule_version: 1 };
            let (name, address) = ("demo/node-1".into(), Some("[::1]:7471".into()));
            let node = ClusterNode { id: 1, name, address, role: NodeRole::Voter, heard: Some(news) };
            let silent = ClusterNode { role: NodeRole::Removed, heard: None, ..node.clone() };
            let nodes = vec![node, silent];
            serde_json::to_string(&Cluster { node: 1, leader: Some(1), term: 2, voters: vec![1], nodes }).unwrap()
        }),
        text(&|| serde_json::to_string(&TrustChain { documents: vec![genesis()], entries: vec![0] }).unwrap()),
        text(&|| {
            let instances = vec![Instance { instance: "i".into(), seen_ms_ago: 5 }];
            let (scope, verdict, locks) = (scope("a"), Verdict::EssentialOnly, vec![lock]);
            let terms = world.ledger.terms(&scope, T0);
            let agent = Agent { scope, verdict, locks, terms, consent_until_ms: Some(T0), instances };
            serde_json::to_string(&Agents { agents: vec![agent] }).unwrap()
        }),
        text(&|| serde_json::to_string(&Locks { locks: vec![record.clone()] }).unwrap()),
        text(&|| {
            let (agent, instance, by) = (scope("a"), "i".into(), StopPath::Lease);
            let confirmation = Confirmation { lock, agent, instance, closed_us: 1, cut_us: 2, calls_cut: 3, by, waited_us: 4 };
            serde_json::to_string(&confirmation).unwrap()
        }),
        text(&|| serde_json::to_string(&StopEvent { stop: stop.clone(), index: Some(2), time_ms: T0, confirm_within_ms: 0 }).unwrap()),
        text(&|| serde_json::to_string(&StopEvent { stop: stop.clone(), index: None, time_ms: T0, confirm_within_ms: 0 }).unwrap()),
        text(&|| serde_json::to_string(&Renew { log_size: 3, deny: true, within_ms: 0 }).unwrap()),
        json!({"tagout": 1, "outcome": lock, "node": "demo/node-1", "bounded_after_ms": 1, "calls_bounded_after_ms": null,
               "confirmed": 1, "bounded": 0, "slowest_ms": 4, "calls_cut": 5, "instances": [reach]})
        .to_string(),
        json!({"lock": lock, "version": 1, "age_ms": 2, "bounded_after_ms": 3, "calls_bounded_after_ms": 4,
               "instances": [reach], "settled": false, "outcome_index": null})
        .to_string(),
    ];
    let target = Target::new("bodies", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::json(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        [
            body::<Problem>(bytes).1,
            body::<CommandAnswer>(bytes).1,
            body::<ProposalShown>(bytes).1,
            body::<Proposals>(bytes).1,
            body::<Status>(bytes).1,
            body::<Cluster>(bytes).1,
            body::<TrustChain>(bytes).1,
            body::<Agents>(bytes).1,
            body::<Locks>(bytes).1,
            body::<Confirmation>(bytes).1,
            body::<StopEvent>(bytes).1,
            body::<Renew>(bytes).1,
            body::<Outcome>(bytes).1,
            body::<StopReach>(bytes).1,
        ]
        .into_iter()
        .reduce(Answer::or)
        .unwrap_or(Answer::Refused)
    });
}
