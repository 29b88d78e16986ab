//! The document against a real node: every operation is asked for what it gives and for what it refuses, and each answer
//! must be one that the document foretells, down to the last property. What is documented must be met in turn.

use std::collections::BTreeSet;

use reqwest::header::HeaderMap;
use reqwest::multipart::{Form, Part};
use reqwest::{Client, Method, Request, RequestBuilder, Response};
use serde_json::{Value, json};
use tagout_control_plane::access::{ApiToken, token_lines};
use tagout_control_plane::{pki, tls};
use tagout_proto::command::{
    Action, BulkLocks, Command, Enroll, Grant, LockCommand, LockSet, Refuse, Release, Revoke, Seen, Suspend,
};
use tagout_proto::digest::Digest;
use tagout_proto::drill::{Drill, Drilled, Place};
use tagout_proto::envelope::Envelope;
use tagout_proto::lease::LeaseResponse;
use tagout_proto::ledger::bulk_locks;
use tagout_proto::limits::{
    COMMAND_MAX_BYTES, GRANTS_PER_SCOPE_MAX, PROPOSALS_MAX, REMEMBERED_PER_ID_MAX, STOP_MAX_BYTES,
};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::{CallLimits, Terms};
use tagout_proto::sshsig::{DRILL_NAMESPACE, PublicKey};
use tagout_proto::token::Token;
use tagout_proto::wire::AccessRole;
use tagout_tests::deployment::{Choice, Deployment, PEOPLE, parse, runtime, stop};
use tagout_tests::producer;
use tagout_tests::receiver::{self, Answer, Receiver};
use tagout_tests::webhook::{self, BY_SEVERITY, Hook, configure};

use super::document::{
    METHOD_NOT_ALLOWED, NO_SUCH_PATH, Operation, codes, committed, document, operations, parameters,
    responses,
};
use super::schema::{Met, Schemas, escaped, resolve};

/// Refusals that this test cannot bring about, and what they would take.
const NOT_PROVOKED: &[(&str, &str)] = &[
    // A connection that ends in the middle of a body.
    ("submitCommand", "bad-request"),
    ("shutdownAgent", "bad-request"),
    ("tripAgent", "bad-request"),
    ("takeWebhook", "bad-request"),
    ("takeOpenc2", "bad-request"),
    ("signProposal", "bad-request"),
    // An automation whose role is for other scopes.
    ("takeWebhook", "no-role"),
    ("takeOpenc2", "no-role"),
    // A node without producers, of which openc2.rs is a test.
    ("takeOpenc2", "no-openc2"),
    // 1,024 waves, 16,384 suspended keys or refusals, 20,000 connections.
    ("submitCommand", "too-many-waves"),
    ("submitCommand", "too-many-suspended"),
    ("submitCommand", "too-many-refused"),
    ("signProposal", "too-many-waves"),
    // A role that asks for a touch.
    ("signProposal", "below-threshold"),
    ("listenForStops", "too-many-listeners"),
    // A restore.
    ("submitCommand", "lost-from"),
    ("signProposal", "lost-from"),
    // A quorum that is lost, or a genesis that is not there yet.
    ("submitCommand", "not-committed"),
    ("submitCommand", "not-ready"),
    ("signProposal", "not-committed"),
    ("signProposal", "not-ready"),
    ("shutdownAgent", "not-committed"),
    ("shutdownAgent", "not-ready"),
    ("askForLease", "no-lease"),
    ("readStatus", "not-ready"),
    ("listEnrolments", "not-ready"),
    ("tryAuthority", "not-ready"),
    ("isReady", "not-ready"),
    ("tripAgent", "not-committed"),
    ("tripAgent", "not-ready"),
    ("takeWebhook", "not-committed"),
    ("takeWebhook", "not-ready"),
    ("takeWebhook", "pending"),
    ("takeWebhook", "not-kept"),
    ("takeOpenc2", "not-committed"),
    ("takeOpenc2", "not-ready"),
    ("takeOpenc2", "pending"),
    ("takeOpenc2", "not-kept"),
    ("submitCommand", "pending"),
    ("shutdownAgent", "pending"),
    ("submitCommand", "not-kept"),
    ("shutdownAgent", "not-kept"),
    // A flood, of which flood.rs is a test.
    ("submitCommand", "busy"),
    ("signProposal", "busy"),
    ("shutdownAgent", "busy"),
    ("askForLease", "busy"),
    ("confirmStop", "busy"),
    ("tripAgent", "busy"),
    ("takeWebhook", "busy"),
    ("takeOpenc2", "busy"),
    ("listProposals", "busy"),
    ("readProposal", "busy"),
    ("listAgents", "busy"),
    ("listEnrolments", "busy"),
    ("listLocks", "busy"),
    ("readLock", "busy"),
    ("followStop", "busy"),
    ("readStatus", "busy"),
    ("readCluster", "busy"),
    ("readTrustChain", "busy"),
    ("listenForStops", "busy"),
    ("readCheckpoint", "busy"),
    ("readTile", "busy"),
    ("readMetrics", "busy"),
    ("listTokens", "busy"),
    ("listDrills", "busy"),
    ("listNotifications", "busy"),
    ("tryAuthority", "busy"),
    // A full disk, of which full_disk.rs is a test.
    ("submitCommand", "disk-low"),
    ("signProposal", "disk-low"),
    ("submitCommand", "disk-full"),
    ("shutdownAgent", "disk-full"),
    ("tripAgent", "disk-low"),
    ("takeWebhook", "disk-full"),
    ("takeOpenc2", "disk-full"),
    // A cluster that nobody leads.
    ("replayNotifications", "no-leader"),
    ("resumeNotifications", "no-leader"),
    ("replayNotifications", "busy"),
    ("resumeNotifications", "busy"),
    ("testNotification", "busy"),
    // A disk that fails.
    ("submitCommand", "internal"),
    ("signProposal", "internal"),
    ("shutdownAgent", "internal"),
    ("tripAgent", "internal"),
    ("takeWebhook", "internal"),
    ("takeOpenc2", "internal"),
    ("readTrustChain", "internal"),
    ("readTile", "internal"),
    // The same of drills; a role that asks for a touch, and a principal who may not stop.
    ("appendDrill", "bad-request"),
    ("appendDrill", "below-threshold"),
    ("appendDrill", "no-role"),
    ("appendDrill", "not-committed"),
    ("appendDrill", "not-ready"),
    ("appendDrill", "busy"),
    ("appendDrill", "disk-low"),
    ("appendDrill", "internal"),
];

/// Schemas that no message of this test may have met, and what they would take.
const NOT_MET: &[&str] = &[
    // A restore.
    // Several nodes, some of which are silent or do not know who leads.
    "/components/schemas/NodeKey/properties/address",
    "/components/schemas/NodeKey/properties/learner",
    "/components/schemas/Cluster/properties/leader/anyOf/1",
    "/components/schemas/ClusterNode/properties/heard/anyOf/1",
    "/components/schemas/ClusterNode/properties/address/anyOf/0",
    "/components/schemas/LockRecord/properties/lost_from",
    // Two lease requests that are served in one batch.
    "/components/schemas/LeaseResponse/properties/path/items",
    // A dead letter of what no log has, of which notifications.rs is a test.
    "/components/schemas/DeadLetter/properties/index/anyOf/1",
    // A stop that is pending.
    "/components/schemas/StopEvent/properties/index/anyOf/1",
];

#[test]
fn the_node_serves_the_committed_document() {
    let deployment = Deployment::start(Choice::default());
    let http = deployment.http();
    runtime().block_on(async {
        let answer = http.get(deployment.url("/openapi.json")).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert!(answer.text().await.unwrap() == committed(), "it serves another one");

        // Every documented path is there, with the methods that are documented and no others.
        let document = document();
        let mut traffic = Traffic::new(&deployment, &http, &document);
        let zeros = Digest::default().to_string();
        for operation in operations(&document) {
            let path = operation
                .path
                .replace("{name}", "soc")
                .replace("{id}", &zeros)
                .replace("{path}", "entries/000");
            let url = deployment.url(&path);
            let answer = http.request(operation.method.parse().unwrap(), &url).send().await.unwrap();
            assert_ne!(answer.status(), 405, "{operation:?}");
            if answer.status() == 404 {
                let problem: Value = answer.json().await.unwrap();
                assert_ne!(problem["code"], "no-such-path", "{operation:?}");
            }
            let answer = http.delete(&url).send().await.unwrap();
            let allowed = answer.headers()["allow"].clone();
            let all = operations(&document);
            let methods = ["POST", "GET"].into_iter().filter(|method| {
                all.iter().any(|other| other.path == operation.path && other.method == *method)
            });
            let methods: Vec<_> = methods.map(|m| if m == "GET" { "GET,HEAD" } else { m }).collect();
            assert_eq!(allowed, methods.join(","), "{operation:?}");
            traffic.judge(METHOD_NOT_ALLOWED, answer).await;
        }
        let answer = http.get(deployment.url("/v1/agent")).send().await.unwrap();
        traffic.judge(NO_SUCH_PATH, answer).await;
    });
}

#[test]
fn every_answer_is_documented_and_every_documented_answer_is_given() {
    let mut deployment = Deployment::make(Choice::default());
    let hook = format!("scopes = ['doc']\nagents_per_hour = 1\n{BY_SEVERITY}");
    configure(&deployment, &[Hook("soc", "soar", &hook), Hook("person", "alice", &hook)]);
    producer::configure(
        &deployment,
        &[("producer", "soar", 0), ("openc2-person", "alice", 1)],
        "scopes = ['doc']\nagents_per_hour = 1",
    );
    let elsewhere = ApiToken::random().unwrap();
    let lines = token_lines(
        "elsewhere",
        &elsewhere.digest(),
        AccessRole::Operator,
        &[parse("elsewhere/x")],
        4_000_000_000_000,
    );
    // Nobody answers for this issuer, and the certificates of this CA are of nobody in particular.
    let issuer =
        "[oidc]\nissuer = 'http://127.0.0.1:1'\naudience = 'a'\nroles_claim = 'groups'\nviewer = ['v']\n";
    let ca = deployment.dir().join("ca.pem");
    let clients = format!("[mtls]\nca = '{}'\nviewer = ['v']\n", ca.display());
    deployment.add_access("", &[&lines, issuer, &clients].concat());
    let refuses = Receiver::answering(|_| Answer::Refuse(422));
    let gone = Receiver::answering(|_| Answer::Refuse(410));
    let down = Receiver::down();
    let receivers = [&refuses, &gone, &down].into_iter().zip(["refuses", "gone", "down"]);
    let entries =
        receivers.map(|(receiver, name)| receiver::entry(name, &receiver.url(), "from = 'beginning'"));
    receiver::configure(&deployment, 1, &entries.collect::<String>());
    deployment.start_node();
    let http = deployment.http();
    let document = document();
    let mut traffic = Traffic::new(&deployment, &http, &document);
    runtime().block_on(async {
        // Answered only after its 10 s.
        let far = http.get(deployment.url("/log/checkpoint?size=10000"));
        let far = tokio::spawn(far.send());
        traffic.operation().await;
        traffic.notifications().await;
        traffic.log().await;
        traffic.guards_and_locks().await;
        traffic.grants().await;
        traffic.webhooks().await;
        traffic.openc2().await;
        traffic.enrolments().await;
        traffic.refused_forms().await;
        traffic.drills().await;
        traffic.proposals().await;
        traffic.authorities().await;
        traffic.identities(elsewhere.reveal()).await;
        let answer = far.await.unwrap().unwrap();
        traffic.answered("readCheckpoint", answer).await;
    });
    traffic.all_was_met();
}

struct Traffic<'a> {
    deployment: &'a Deployment,
    http: &'a Client,
    document: &'a Value,
    schemas: Schemas<'a>,
    operations: Vec<Operation>,
    met: Met,
    /// Operation, status and problem code of every answer.
    given: BTreeSet<(String, u16, Option<String>)>,
}

impl<'a> Traffic<'a> {
    fn new(deployment: &'a Deployment, http: &'a Client, document: &'a Value) -> Self {
        let (schemas, operations) = (Schemas::new(document), operations(document));
        Self { deployment, http, document, schemas, operations, met: Met::new(), given: BTreeSet::new() }
    }

    // What the node is asked.

    async fn operation(&mut self) {
        for (id, path) in [
            ("isAlive", "/healthz"),
            ("isReady", "/readyz"),
            ("readMetrics", "/metrics"),
            ("readDescription", "/openapi.json"),
            ("readStatus", "/v1/status"),
            ("readCluster", "/v1/cluster"),
            ("readTrustChain", "/v1/authority"),
        ] {
            self.get(id, path, 200).await;
        }
    }

    async fn notifications(&mut self) {
        let list = self.deployment.url("/v1/notifications");
        // The first entry is refused, not wanted by a receiver that is gone, and not delivered to one that is down.
        loop {
            let listed: Value = self.http.get(&list).send().await.unwrap().json().await.unwrap();
            let receivers = &listed["receivers"];
            if !receivers[0]["dead_letters"][0].is_null()
                && !receivers[1]["disabled"].is_null()
                && !receivers[2]["failing"].is_null()
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        self.get("listNotifications", "/v1/notifications", 200).await;
        let post = |path: &str| self.http.post(self.deployment.url(&format!("/v1/notifications/{path}")));
        let taken =
            [("replayNotifications", post("refuses/replay")), ("resumeNotifications", post("gone/resume"))];
        let tested = ("testNotification", post("refuses/test"));
        let refused = [
            ("replayNotifications", post("refuses/replay?id=none"), "no-such-notification"),
            ("replayNotifications", post("none/replay"), "no-such-receiver"),
            ("replayNotifications", post("refuses/replay?id=a&id=b"), "bad-request"),
            ("resumeNotifications", post("none/resume"), "no-such-receiver"),
            ("testNotification", post("none/test"), "no-such-receiver"),
        ];
        for (operation, request) in taken.into_iter().chain([tested]) {
            self.asked(operation, request, 200).await;
        }
        for (operation, request, code) in refused {
            self.refused(operation, request, code).await;
        }
    }

    async fn log(&mut self) {
        self.get("readCheckpoint", "/log/checkpoint?size=1", 200).await;
        self.refused("readCheckpoint", self.read("/log/checkpoint?size=all"), "bad-request").await;
        let request = self.read(&format!("/log/checkpoint?size={}", u64::MAX)); // at once
        self.refused("readCheckpoint", request, "no-checkpoint").await;
        for tile in ["0/000.p/1", "entries/000.p/1"] {
            self.get("readTile", &format!("/log/tile/{tile}"), 200).await;
        }
        self.refused("readTile", self.read("/log/tile/0/1"), "bad-tile").await;
        self.refused("readTile", self.read("/log/tile/entries/x001/000"), "no-such-tile").await;
    }

    async fn guards_and_locks(&mut self) {
        let mut events = self.listen("doc").await;
        let terms = Terms {
            essential: ["shutdown".to_owned()].into(),
            limits: CallLimits { calls_per_minute: Some(600), tokens_per_minute: Some(100_000) },
        };
        let seen = self.seen().await;
        let grant = self.grant("doc", terms, seen);
        self.taken(&grant, 201).await;

        // One agent for every kind of lock, one without any, and one that nobody consents to.
        let throttle = CallLimits { calls_per_minute: Some(10), tokens_per_minute: Some(1000) };
        let kinds = [
            ("doc/halt", LockKind::Halt),
            ("doc/drain", LockKind::Drain { drain_ms: 60_000 }),
            ("doc/pause", LockKind::Pause),
            ("doc/isolate", LockKind::Isolate),
            ("doc/restrict", LockKind::Restrict),
            ("doc/throttle", LockKind::Throttle(throttle)),
        ];
        let agents: Vec<&str> =
            kinds.iter().map(|(agent, _)| *agent).chain(["doc/free", "elsewhere"]).collect();
        let lease = self
            .lease(json!({"agents": agents.iter().map(|a| json!({"scope": a})).collect::<Vec<_>>()}))
            .await;
        let view = lease.views[0].as_ref().expect("the first view").digest();
        let known = self.lease(json!({"agents": [{"scope": agents[0], "view": view}]})).await;
        assert_eq!(known.views, [None]);
        self.silent("doc/halt").await;

        let mut locks = Vec::new();
        for (agent, kind) in kinds {
            let (scope, reason, case) = (parse(agent), "test".into(), Some("INC-4711".into()));
            let action = Action::Lock(LockCommand { scope, kind, reason, case });
            let envelope = self.deployment.envelope(&["alice"], &action);
            self.taken(&envelope, 201).await;
            locks.push(envelope);
        }
        let halt = &locks[0];
        self.taken(halt, 200).await;
        let (halted, paused) = (halt.digest(), locks[2].digest());

        let reach = self.get("followStop", &format!("/v1/locks/{halted}/reach?after=0"), 200).await;
        assert_eq!(reach["instances"][0]["state"], json!({"state": "waiting", "connected": false}));
        let confirmation = |lock: Digest| {
            json!({"lock": lock, "agent": "doc/halt", "instance": "i", "closed_us": 125, "cut_us": 325,
                "calls_cut": 1, "by": "push", "waited_us": 250})
        };
        self.says("confirmStop", "/v1/confirmations", &confirmation(halted), 204).await;
        let reach = self.get("followStop", &format!("/v1/locks/{halted}/reach"), 200).await;
        assert_eq!(reach["instances"][0]["state"]["state"], "confirmed");
        let request = self.post("/v1/confirmations").json(&confirmation(Digest([7; 32])));
        self.refused("confirmStop", request, "no-such-stop").await;
        self.refused("confirmStop", self.post("/v1/confirmations").json(&json!({})), "bad-request").await;
        let request = self.post("/v1/confirmations").json(&json!("x".repeat(5000)));
        self.refused("confirmStop", request, "too-large").await;
        self.refused("confirmStop", self.post("/v1/confirmations").body("{}"), "not-json").await;

        let sharing = loop {
            self.silent("doc/throttle").await;
            let scopes: Vec<_> = agents.iter().map(|a| json!({"scope": a})).collect();
            let lease = self.lease(json!({"agents": scopes})).await;
            // On a slow machine the other instance's lease has ended meanwhile.
            if !lease.instances.is_empty() {
                break lease.instances;
            }
        };
        assert_eq!((sharing.len(), sharing[5]), (agents.len(), 2));
        self.refused("askForLease", self.post("/v1/leases").json(&json!({"agents": []})), "bad-request")
            .await;
        self.refused("askForLease", self.post("/v1/leases").body("{}"), "not-json").await;
        let request = self.post("/v1/leases").json(&json!("x".repeat(3 << 20)));
        self.refused("askForLease", request, "too-large").await;

        let listed = self.get("listAgents", "/v1/agents", 200).await;
        let verdicts: BTreeSet<&str> =
            listed["agents"].as_array().unwrap().iter().map(|a| a["verdict"].as_str().unwrap()).collect();
        assert_eq!(verdicts, BTreeSet::from(["denied", "enabled", "essential_only"]));
        self.get("listLocks", "/v1/locks?scope=doc", 200).await;
        self.get("readLock", &format!("/v1/locks/{halted}"), 200).await;
        let listed = [("listAgents", "/v1/agents"), ("listLocks", "/v1/locks")];
        for (id, path) in listed.into_iter().chain([("listEnrolments", "/v1/enrolments")]) {
            self.refused(id, self.read(&format!("{path}?scope=a//b")), "bad-scope").await;
            self.refused(id, self.read(&format!("{path}?scope=a&scope=b")), "bad-request").await;
        }
        let zeros = Digest::default();
        self.refused("readLock", self.read("/v1/locks/12ab"), "bad-lock-id").await;
        self.refused("readLock", self.read(&format!("/v1/locks/{zeros}")), "no-such-lock").await;
        self.refused("followStop", self.read("/v1/locks/12ab/reach"), "bad-lock-id").await;
        let path = format!("/v1/locks/{zeros}/reach");
        self.refused("followStop", self.read(&path), "no-such-stop").await;
        self.refused("followStop", self.read(&format!("{path}?after=now")), "bad-request").await;
        self.refused("listenForStops", self.read("/v1/events"), "bad-request").await;
        self.refused("listenForStops", self.read("/v1/events?scope=a,,b"), "bad-scope").await;

        // A pause cuts no calls, so that it is settled after the ttl, confirmed or not.
        let mut version = 0;
        let settled = loop {
            let reach =
                self.get("followStop", &format!("/v1/locks/{paused}/reach?after={version}"), 200).await;
            if !reach["outcome_index"].is_null() {
                break reach;
            }
            version = reach["version"].as_u64().unwrap();
        };
        assert_eq!(settled["instances"][0]["state"], json!({"state": "bounded", "connected": false}));

        self.releases_and_starts(halt, &paused).await;
        self.hears(&mut events, ["hello", "renew", "stop"]).await;
    }

    async fn releases_and_starts(&mut self, halt: &Envelope, paused: &Digest) {
        let halted = halt.digest();
        let (release, start) = (
            |scope, lock: Digest| self.deployment.release(scope, &[lock]),
            |scope, lock: Digest| self.deployment.start_of(scope, &[lock]),
        );
        let unknown = Digest([7; 32]);
        let refused = [
            (start("doc/halt", halted), "not-released"),
            (start("doc/pause", *paused), "takes-no-start"),
            (start("elsewhere", halted), "start-elsewhere"),
            (release("elsewhere", halted), "lock-outside-scope"),
            (
                self.loosen(Action::Release(Release {
                    lost_from: Some(3),
                    ..release_of("doc/halt", halted)
                })),
                "nothing-lost",
            ),
            (self.deployment.signed(&["alice"], release("doc/halt", halted).document), "below-threshold"),
            (self.deployment.signed(&["soar"], release("doc/halt", halted).document), "no-role"),
        ];
        let (released, wave, started) =
            (release("doc/halt", halted), start("doc/halt/wave", halted), start("doc/halt", halted));
        let (unpaused, again) = (release("doc/pause", *paused), release("doc/pause", *paused));
        let second = release("doc/halt", halted);
        let many: Vec<_> = (0..=REMEMBERED_PER_ID_MAX).map(|_| release("doc", unknown)).collect();
        for (envelope, code) in &refused {
            self.refuses(envelope, code).await;
        }
        self.taken(&released, 201).await;
        self.refuses(&second, "already-released").await;
        self.refuses(halt, "used").await;
        let request = self.form("/agent/shutdown", halt);
        self.refused("shutdownAgent", request, "used").await;
        self.taken(&wave, 201).await;
        let lock = self.get("readLock", &format!("/v1/locks/{halted}"), 200).await;
        assert_eq!((&lock["released"], &lock["started"]), (&json!(true), &json!(["doc/halt/wave"])));
        self.taken(&started, 201).await;
        self.taken(&unpaused, 201).await;
        self.refuses(&again, "no-such-lock").await;
        let (last, remembered) = many.split_last().unwrap();
        for envelope in remembered {
            let answer = self.taken(envelope, 201).await;
            assert_eq!(answer["awaited"], 1);
        }
        self.refuses(last, "too-many-remembered").await;

        // Many locks by one root.
        let bulk: Vec<_> = ["doc/bulk/a", "doc/bulk/b"]
            .map(|agent| self.deployment.envelope(&["alice"], &stop(agent, LockKind::Pause)))
            .into();
        let mut before = 0;
        for envelope in &bulk {
            before = self.taken(envelope, 201).await["index"].as_u64().unwrap() + 1;
        }
        let ids: Vec<_> = bulk.iter().map(Envelope::digest).collect();
        let by = Some("alice".to_owned());
        let listed = bulk_locks(&ids, before, by);
        let other = BulkLocks { root: Digest([7; 32]), ..listed.clone() };
        let release = |locks| {
            Action::Release(Release {
                locks: LockSet::Bulk(locks),
                ..release_of("doc/bulk", Digest::default())
            })
        };
        let (other, listed) = (self.loosen(release(other)), self.loosen(release(listed)));
        self.refuses(&other, "other-locks").await;
        self.taken(&listed, 201).await;

        // What a guard is told of the locks that it holds.
        let stranger = self.deployment.stop("doc/known");
        let of = |id: &Digest, agent: &str| json!({"id": id, "agent": agent});
        let lease = self
            .lease(json!({"agents": [{"scope": "doc/halt"}], "known": [
                of(&halted, "doc/halt"), of(paused, "doc/pause"), of(&ids[0], "doc/bulk/a"),
                of(&stranger.digest(), "doc/known"),
            ]}))
            .await;
        let told: Vec<_> =
            lease.answers.iter().map(|a| json!(a)["answer"].as_str().unwrap().to_owned()).collect();
        assert_eq!(told, ["cleared", "cleared", "cleared", "send_document"]);
        let known = json!({"id": stranger.digest(), "agent": "doc/known", "document": stranger});
        self.lease(json!({"agents": [{"scope": "doc/known"}], "known": [known]})).await;
    }

    async fn grants(&mut self) {
        let seen = self.seen().await;
        let grant = |scope: &str, seen: Seen| self.grant(scope, Terms::default(), seen);
        let expired = Action::Grant(Grant {
            scope: parse("doc"),
            expires_at_ms: 1000,
            seen,
            terms: Terms::default(),
            reason: "test".into(),
        });
        let (kept, voided) = (grant("grants/kept", seen), grant("grants/void", seen));
        let refused = [
            (self.loosen(expired), "expired"),
            (grant("doc", Seen { epoch: Digest([7; 32]), ..seen }), "wrong-epoch"),
            (grant("doc", Seen { size: 1_000_000, ..seen }), "seen-ahead"),
            (grant("doc", Seen { authority: 2, ..seen }), "authority-ahead"),
        ];
        let mut many: Vec<_> = (0..=GRANTS_PER_SCOPE_MAX).map(|_| grant("grants/many", seen)).collect();
        for (envelope, code) in &refused {
            self.refuses(envelope, code).await;
        }
        self.taken(&kept, 201).await;
        self.taken(&voided, 201).await;
        let revoke = |scope: &str, grant: &Envelope| {
            let (scope, grants, case) = (parse(scope), vec![grant.digest()], Some("INC-4711".into()));
            self.deployment
                .envelope(&["alice"], &Action::Revoke(Revoke { scope, grants, reason: "test".into(), case }))
        };
        let (elsewhere, revoked) = (revoke("doc", &kept), revoke("grants/void", &voided));
        self.refuses(&elsewhere, "grant-outside-scope").await;
        self.taken(&revoked, 201).await;
        self.refuses(&voided, "void").await;
        let last = many.pop().unwrap();
        for envelope in &many {
            self.taken(envelope, 201).await;
        }
        self.refuses(&last, "too-many-grants").await;
        self.get("readStatus", "/v1/status", 200).await;
    }

    async fn refused_forms(&mut self) {
        let good = self.deployment.stop("doc/forms");
        let elsewhere =
            good.document.replace(&self.deployment.name.genesis.to_string(), &Digest([7; 32]).to_string());
        let envelopes = [
            (self.deployment.signed(&["alice"], "stop doc".into()), "bad-document"),
            (Envelope { signatures: Vec::new(), ..good.clone() }, "unsigned"),
            (self.deployment.signed(&["stranger"], good.document.clone()), "no-valid-signature"),
            (
                self.deployment.signed(&["alice"], good.document.clone() + &" ".repeat(STOP_MAX_BYTES)),
                "too-large",
            ),
            (self.deployment.signed(&["alice"], elsewhere), "wrong-deployment"),
        ];
        let long = good.document.clone() + &" ".repeat(COMMAND_MAX_BYTES);
        let gives = self.deployment.release("doc", &[Digest([8; 32])]).document;
        let gives_elsewhere =
            gives.replace(&self.deployment.name.genesis.to_string(), &Digest([7; 32]).to_string());
        let of_proposals = [
            (envelopes[0].0.clone(), "bad-document"),
            (Envelope { document: gives.clone(), signatures: Vec::new() }, "unsigned"),
            (self.deployment.signed(&["stranger"], gives.clone()), "no-valid-signature"),
            (self.deployment.signed(&["soar"], gives), "no-role"),
            (self.deployment.signed(&["alice"], long), "too-large"),
            (self.deployment.signed(&["alice"], gives_elsewhere), "wrong-deployment"),
            (good.clone(), "not-proposed"),
        ];
        for (id, path, envelopes) in [
            ("submitCommand", "/v1/commands", &envelopes[..]),
            ("shutdownAgent", "/agent/shutdown", &envelopes),
            ("signProposal", "/v1/proposals", &of_proposals),
        ] {
            for (envelope, code) in envelopes {
                let request = self.form(path, envelope);
                self.refused(id, request, code).await;
            }
            let part = Form::new().part("reason", Part::text("because"));
            self.refused(id, self.post(path).multipart(part), "bad-multipart").await;
        }
        self.refused("submitCommand", self.post("/v1/commands").json(&json!({})), "not-multipart").await;
        self.refused("signProposal", self.post("/v1/proposals").json(&json!({})), "not-multipart").await;
        self.refused("shutdownAgent", self.post("/agent/shutdown").json(&json!({})), "unsigned").await;
        let release = self.deployment.release("doc", &[Digest([8; 32])]);
        let request = self.form("/agent/shutdown", &release);
        self.refused("shutdownAgent", request, "not-a-stop").await;

        let short = |change: Value| {
            let mut document = json!({
                "tagout": 1, "deployment": self.deployment.name.to_string(), "id": "1", "agent_id": "doc/short",
                "issued_at": "2026-11-22T15:00:00Z", "reason": "test",
            });
            document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            self.deployment.signed(&["soar"], document.to_string())
        };
        let forms = [
            short(json!({})),
            short(
                json!({"id": "2", "action": "stop", "mode": "drain", "drain_ms": 1000, "case": "INC-4711"}),
            ),
            self.deployment.stop("doc/long"),
        ];
        for envelope in &forms {
            for status in [201, 200] {
                let request = self.form("/agent/shutdown", envelope);
                self.fits_its_form("shutdownAgent", envelope);
                self.asked("shutdownAgent", request, status).await;
            }
        }
        self.get("listLocks", "/v1/locks", 200).await;
    }

    /// Stops `agent`, whose one instance confirms that or is silent, and gives the drill of it as far as it is known.
    async fn drilled(&mut self, agent: &str, kind: LockKind, confirms: bool) -> Drill {
        self.silent(agent).await;
        let stopped = self.deployment.envelope(&["alice"], &stop(agent, kind));
        let answer = self.taken(&stopped, 201).await;
        let (lock, mut version) = (stopped.digest(), 0);
        if confirms {
            let confirmation = json!({"lock": lock, "agent": agent, "instance": "silent", "closed_us": 1, "cut_us": 1,
                "calls_cut": 0, "by": "push"});
            self.says("confirmStop", "/v1/confirmations", &confirmation, 204).await;
        }
        let reach = loop {
            let reach = self.get("followStop", &format!("/v1/locks/{lock}/reach?after={version}"), 200).await;
            if !reach["outcome_index"].is_null() {
                break reach;
            }
            version = reach["version"].as_u64().unwrap();
        };
        let after_ms = reach["instances"][0]["state"]["after_ms"].as_u64();
        Drill {
            deployment: self.deployment.name.clone(),
            issued_at_ms: 1_795_359_600_000,
            scope: parse(agent),
            stop: Place { digest: lock, index: answer["index"].as_u64().unwrap() },
            outcome: reach["outcome_index"].as_u64().unwrap(),
            release: None,
            start: None,
            confirmed: u64::from(confirms),
            bounded: u64::from(!confirms),
            slowest_ms: after_ms,
            instances: vec![Drilled { agent: parse(agent), instance: "silent".into(), after_ms }],
        }
    }

    fn sign_drill(&self, who: &str, document: String) -> Envelope {
        let signature = self.deployment.signer(who).sign(DRILL_NAMESPACE, document.as_bytes()).unwrap();
        Envelope { document, signatures: vec![signature] }
    }

    fn drill_form(&self, envelope: &Envelope) -> RequestBuilder {
        let form = Form::new().text("drill", envelope.document.clone());
        let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
        self.post("/v1/drills").multipart(form)
    }

    async fn drills(&mut self) {
        let mut drill = self.drilled("doc/drilled", LockKind::Halt, true).await;
        let lock = drill.stop.digest;
        for (envelope, place) in [
            (self.deployment.release("doc/drilled", &[lock]), &mut drill.release),
            (self.deployment.start_of("doc/drilled", &[lock]), &mut drill.start),
        ] {
            let answer = self.taken(&envelope, 201).await;
            *place = Some(Place { digest: envelope.digest(), index: answer["index"].as_u64().unwrap() });
        }
        let open = self.deployment.stop("doc/open");
        self.silent("doc/open").await;
        let open_at = self.taken(&open, 201).await["index"].as_u64().unwrap();
        let early = Drill {
            scope: parse("doc"),
            stop: Place { digest: open.digest(), index: open_at },
            ..drill.clone()
        };
        let other = |change: &dyn Fn(&mut Drill)| {
            let mut other = drill.clone();
            change(&mut other);
            other.to_document()
        };
        let good = drill.to_document();
        let long = good.clone() + &" ".repeat(COMMAND_MAX_BYTES);
        let ours = self.deployment.name.genesis.to_string();
        let mut in_time = early.clone();
        in_time.scope = parse("doc/open");
        in_time.instances[0].agent = parse("doc/open");
        for (who, document, code) in [
            ("alice", "{}".into(), "bad-document"),
            ("stranger", good.clone(), "no-valid-signature"),
            ("alice", long, "too-large"),
            ("alice", good.replace(&ours, &Digest([7; 32]).to_string()), "wrong-deployment"),
            ("alice", other(&|d| d.stop.digest = Digest([7; 32])), "no-such-stop"),
            ("alice", early.to_document(), "drill-elsewhere"),
            ("alice", in_time.to_document(), "no-outcome"),
            ("alice", other(&|d| d.outcome += 1), "drill-differs"),
        ] {
            let request = self.drill_form(&self.sign_drill(who, document));
            self.refused("appendDrill", request, code).await;
        }
        let unsigned = Envelope { document: good.clone(), signatures: Vec::new() };
        self.refused("appendDrill", self.drill_form(&unsigned), "unsigned").await;
        let part = Form::new().text("command", "{}");
        self.refused("appendDrill", self.post("/v1/drills").multipart(part), "bad-multipart").await;
        self.refused("appendDrill", self.post("/v1/drills").json(&json!({})), "not-multipart").await;

        let silent = self.drilled("doc/silent", LockKind::Pause, false).await.to_document();
        for document in [good, silent] {
            let envelope = self.sign_drill("soar", document);
            let form = json!({"drill": envelope.document, "signature": envelope.signatures});
            let at = self.named("appendDrill").at.clone();
            self.fits(&format!("{at}/requestBody/content/multipart~1form-data/schema"), &form);
            for status in [201, 200] {
                self.asked("appendDrill", self.drill_form(&envelope), status).await;
            }
        }
        let again = self.sign_drill("alice", other(&|d| d.issued_at_ms += 1));
        self.refused("appendDrill", self.drill_form(&again), "drill-known").await;
        let listed = self.get("listDrills", "/v1/drills?scope=doc", 200).await;
        assert_eq!(listed["drills"].as_array().unwrap().len(), 2);
        self.refused("listDrills", self.read("/v1/drills?scope=a//b"), "bad-scope").await;
        self.refused("listDrills", self.read("/v1/drills?scope=a&scope=b"), "bad-request").await;
    }

    async fn proposals(&mut self) {
        let stopped = self.deployment.stop("doc/proposed");
        self.silent("doc/proposed").await;
        self.taken(&stopped, 201).await;
        let lock = stopped.digest();
        let by = |of: &Envelope, who: &[&str]| self.deployment.signed(who, of.document.clone());
        let release = self.deployment.release("doc/proposed", &[lock]);
        let start = self.deployment.start_of("doc/proposed", &[lock]);
        let (firsts, seconds) =
            ([&release, &start].map(|of| by(of, &["alice"])), [&release, &start].map(|of| by(of, &["bob"])));
        let refuse = |proposal: Digest, on: &str| {
            let (scope, reason, case) = (parse(on), "not tonight".into(), Some("INC-4711".into()));
            let action = Action::Refuse(Refuse { scope, proposal, reason, case });
            self.deployment.envelope(&["soar"], &action)
        };
        let refused = self.deployment.release("doc/proposed", &[lock]);
        let (refused, ours) = (by(&refused, &["alice"]), by(&refused, &["bob"]));
        let refusals = [
            (refuse(Digest([7; 32]), "doc"), "no-such-proposal"),
            (refuse(refused.digest(), "doc"), "proposal-elsewhere"),
        ];
        let refusal = refuse(refused.digest(), "doc/proposed");

        self.proposed(&refused).await;
        for (envelope, code) in &refusals {
            self.refuses(envelope, code).await;
        }
        self.taken(&refusal, 201).await;
        for envelope in [&refused, &ours] {
            let request = self.form("/v1/proposals", envelope);
            self.refused("signProposal", request, "refused").await;
        }
        let whole = Envelope { signatures: [refused.signatures, ours.signatures].concat(), ..ours };
        self.refuses(&whole, "refused").await;

        for envelope in &firsts {
            let record = self.proposed(envelope).await;
            assert_eq!((&record["signed_by"], &record["id"]), (&json!(["alice"]), &json!(envelope.digest())));
            let request = self.form("/v1/proposals", envelope);
            self.refused("signProposal", request, "nothing-new").await;
        }
        let listed = self.get("listProposals", "/v1/proposals?scope=doc", 200).await;
        assert_eq!(listed["proposals"].as_array().unwrap().len(), 2);
        let shown = self.get("readProposal", &format!("/v1/proposals/{}", start.digest()), 200).await;
        assert_eq!(shown["enables"]["first"][0]["verdict_then"], "enabled");
        for status in [201, 200] {
            for envelope in &seconds {
                let request = self.form("/v1/proposals", envelope);
                self.asked("signProposal", request, status).await;
            }
        }
        let gone = format!("/v1/proposals/{}", start.digest());
        self.refused("readProposal", self.read(&gone), "no-such-proposal").await;
        self.refused("readProposal", self.read("/v1/proposals/12ab"), "bad-proposal-id").await;
        self.refused("listProposals", self.read("/v1/proposals?scope=a//b"), "bad-scope").await;
        self.refused("listProposals", self.read("/v1/proposals?scope=a&scope=b"), "bad-request").await;

        let mut last = None;
        for n in 0..=PROPOSALS_MAX {
            let seen = self.seen().await;
            let grant = self.grant(&format!("doc/many/{n}"), Terms::default(), seen);
            last = Some(self.deployment.signed(&["alice"], grant.document));
            if n < PROPOSALS_MAX {
                self.proposed(last.as_ref().unwrap()).await;
            }
        }
        let request = self.form("/v1/proposals", &last.expect("one more than there may be"));
        self.refused("signProposal", request, "too-many-proposals").await;
    }

    async fn enrolments(&mut self) {
        let token = Token::of_random([7; 32]);
        for expires_at_ms in [None, Some(4_000_000_000_000)] {
            let (scope, token, reason) = (parse("doc/enrolled"), token.digest(), "test".into());
            let enroll = self.loosen(Action::Enroll(Enroll { scope, token, expires_at_ms, reason }));
            self.taken(&enroll, 201).await;
        }
        let listed = self.get("listEnrolments", "/v1/enrolments?scope=doc", 200).await;
        assert_eq!(listed["enrolments"].as_array().unwrap().len(), 2);
        let lease = |agents: &[&str]| {
            let agents: Vec<_> = agents.iter().map(|agent| json!({"scope": agent})).collect();
            json!({"nonce": Digest([1; 32]), "instance": "i", "agents": agents})
        };
        let both = self.post("/v1/leases").json(&lease(&["doc/enrolled/a", "doc/other"]));
        let answer = self.asked("askForLease", both.bearer_auth(token.reveal()), 200).await;
        assert_eq!(answer["unenrolled"][0]["agent"], "doc/other");
        let confirmation = json!({"lock": Digest([7; 32]), "agent": "doc/other", "instance": "i", "closed_us": 1,
            "cut_us": 1, "calls_cut": 0, "by": "push"});
        let unknown = Token::of_random([8; 32]);
        for (id, path, body) in [
            ("askForLease", "/v1/leases", lease(&["doc/other"])),
            ("confirmStop", "/v1/confirmations", confirmation),
        ] {
            let request = self.post(path).json(&body).bearer_auth(unknown.reveal());
            self.refused(id, request, "not-enrolled").await;
            let request = self.post(path).json(&body).bearer_auth(token.reveal());
            self.refused(id, request, "enrolled-elsewhere").await;
        }
        self.trips(&token, &unknown).await;
    }

    async fn trips(&mut self, token: &Token, unknown: &Token) {
        let trip = |deployment: &str, scope: &str| {
            json!({"tagout": 1, "deployment": deployment, "trip": scope, "nonce": Digest([5; 32]),
                "issued_at": "2026-11-22T15:00:00Z", "instance": "host-1", "reason": "test"})
        };
        let deployment = self.deployment.name.to_string();
        let own = trip(&deployment, "doc/enrolled/a");
        self.fits("/paths/~1v1~1trips/post/requestBody/content/application~1json/schema", &own);
        let url = self.deployment.url("/v1/trips");
        let post = |body: Vec<u8>, token: &Token| self.http.post(&url).body(body).bearer_auth(token.reveal());
        let authorized = |body: &Value| post(body.to_string().into(), token);
        let elsewhere = trip(&format!("other:{}", Digest([7; 32])), "doc/enrolled/a");
        let refused = [
            (self.http.post(&url).body(own.to_string()), "not-enrolled"),
            (post(own.to_string().into(), unknown), "not-enrolled"),
            (authorized(&trip(&deployment, "doc")), "enrolled-elsewhere"),
            (authorized(&elsewhere), "wrong-deployment"),
            (authorized(&json!({})), "bad-document"),
            (post(vec![0xff], token), "bad-document"),
            (post(vec![b'x'; STOP_MAX_BYTES + 1], token), "too-large"),
        ];
        let (taken, again, used) = (authorized(&own), authorized(&own), authorized(&own));
        for (request, code) in refused {
            self.refused("tripAgent", request, code).await;
        }
        let lock = Digest::of(own.to_string().as_bytes());
        let taken = self.asked("tripAgent", taken, 201).await;
        assert_eq!(taken["digest"], json!(lock));
        let again = self.asked("tripAgent", again, 200).await;
        assert_eq!(again["index"], taken["index"], "{again}");
        self.taken(&self.deployment.release("doc/enrolled/a", &[lock]), 201).await;
        self.refused("tripAgent", used, "used").await;
    }

    async fn webhooks(&mut self) {
        let alert = |severity: &str| json!({"scope": "doc/alerted", "reason": "test", "case": "INC-1", "severity": severity});
        let fleet = json!({"scope": "*", "reason": "test", "case": "INC-2", "severity": "critical"});
        let other = json!({"scope": "doc/other", "reason": "test", "case": "INC-3", "severity": "critical"});
        let post = |webhook: &str, sent: &webhook::Request| {
            let request = self.http.post(self.deployment.url(&format!("/v1/webhooks/{webhook}")));
            request.headers(sent.headers()).header("content-type", "application/json").body(sent.body.clone())
        };
        let critical = webhook::Request::new(&alert("critical"));
        let odd_time =
            webhook::Request { timestamp: "now".into(), ..webhook::Request::new(&alert("critical")) };
        let large =
            webhook::Request { body: " ".repeat(300 * 1024), ..webhook::Request::new(&alert("critical")) };
        let unsigned =
            webhook::Request { signature: "v1,AAAA".into(), ..webhook::Request::new(&alert("critical")) };
        let refused = [
            (post("soc", &odd_time), "bad-webhook"),
            (post("soc", &unsigned), "webhook-refused"),
            (post("soc", &webhook::Request::new(&fleet)), "scope-not-allowed"),
            (post("none", &critical), "no-such-webhook"),
            (post("soc", &large), "too-large"),
            (post("soc", &webhook::Request::new(&alert("odd"))), "unmapped"),
            (post("person", &webhook::Request::new(&alert("critical"))), "webhook-key"),
        ];
        let (nothing, taken) = (post("soc", &webhook::Request::new(&alert("low"))), post("soc", &critical));
        let (again, used) = (post("soc", &critical), post("soc", &critical));
        let too_many = post("soc", &webhook::Request::new(&other));
        for (request, code) in refused {
            self.refused("takeWebhook", request, code).await;
        }
        self.asked("takeWebhook", nothing, 204).await;
        let taken = self.asked("takeWebhook", taken, 201).await;
        self.asked("takeWebhook", again, 200).await;
        self.refused("takeWebhook", too_many, "blast-limit").await;
        let lock = taken["digest"].as_str().unwrap().parse().unwrap();
        self.taken(&self.deployment.release("doc/alerted", &[lock]), 201).await;
        self.taken(&self.deployment.start_of("doc/alerted", &[lock]), 201).await;
        self.refused("takeWebhook", used, "used").await;
    }

    async fn openc2(&mut self) {
        let agent = |action: &str, scope: &str, args: Value| json!({"action": action, "target": {"x-tagout:agent": scope}, "args": {"x-tagout": args}});
        let post = |token: u8, id: &str, request: Value| {
            let message = producer::message(id, &request);
            let url = self.deployment.url("/.well-known/openc2");
            producer::post(self.http, &url, Some(&producer::token(token)), id).body(message)
        };
        let stop = |scope: &str| agent("stop", scope, json!({"reason": "test", "case": scope}));
        let long = agent("stop", "doc/openc2", json!({"mode": "drain", "drain_ms": u64::from(u32::MAX)}));
        let large = agent("stop", "doc/openc2", json!({"reason": "x".repeat(70_000)}));
        let unknown = post(9, "c0", stop("doc/openc2"));
        let refused = [
            (unknown, "openc2-refused"),
            (post(0, "c1", json!({"action": "stop"})), "bad-openc2"),
            (post(0, "c2", large), "too-large"),
            (post(0, "c3", long), "unmapped"),
            (post(0, "c4", agent("restore", "doc/openc2", json!({}))), "gives-back"),
            (post(0, "c5", stop("other")), "scope-not-allowed"),
            (post(0, "c6", agent("scan", "doc/openc2", json!({}))), "not-implemented"),
            (post(1, "c7", stop("doc/openc2")), "webhook-key"),
        ];
        let features = json!({"action": "query", "target": {"features": ["versions", "profiles", "pairs"]}});
        let features = post(0, "c8", features);
        let mut acknowledged = stop("doc/openc2");
        acknowledged["args"]["response_requested"] = json!("ack");
        let (taken, again) = (post(0, "c9", stop("doc/openc2")), post(0, "c9", acknowledged));
        let (used, too_many) = (post(0, "c9", stop("doc/openc2")), post(0, "c10", stop("doc/others")));
        for (request, code) in refused {
            self.refused("takeOpenc2", request, code).await;
        }
        self.asked("takeOpenc2", features, 200).await;
        let taken = self.asked("takeOpenc2", taken, 200).await;
        self.asked("takeOpenc2", again, 200).await;
        self.refused("takeOpenc2", too_many, "blast-limit").await;
        let lock = taken["body"]["openc2"]["response"]["results"]["x-tagout"]["digest"].as_str().unwrap();
        let lock = lock.parse().unwrap();
        self.taken(&self.deployment.release("doc/openc2", &[lock]), 201).await;
        self.taken(&self.deployment.start_of("doc/openc2", &[lock]), 201).await;
        self.refused("takeOpenc2", used, "used").await;
    }

    async fn authorities(&mut self) {
        let chain = self.get("readTrustChain", "/v1/authority", 200).await;
        let genesis: Value =
            serde_json::from_str(chain["documents"][0]["document"].as_str().unwrap()).unwrap();
        let key = |name: &str| {
            let line = std::fs::read_to_string(self.deployment.key(name).with_extension("pub")).unwrap();
            line.trim().to_owned()
        };
        // Bob gets a new key, and so the grants that he signed would be void.
        let next = |change: Value| {
            let mut next = genesis.clone();
            let fields = next.as_object_mut().unwrap();
            fields.extend(
                json!({"version": 2, "deployment": self.deployment.name.to_string(), "disables": 0,
                    "previous": self.deployment.name.genesis, "reason": "a new key for Bob"})
                .as_object()
                .unwrap()
                .clone(),
            );
            next["principals"][1]["keys"] = json!([key("stranger")]);
            next.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            next
        };
        let signed = |who: &str, document: &Value| self.deployment.signed(&[who], document.to_string());
        let retired = json!([{"key": key("stranger"), "principal": "bob", "grants": [Digest([7; 32])]}]);
        let refused = [
            (signed("alice", &next(json!({}))), "root-threshold"),
            (signed("root", &next(json!({}))), "disables-more"),
            (signed("root", &next(json!({"version": 3}))), "version-gap"),
            (signed("root", &next(json!({"previous": Digest([7; 32])}))), "other-predecessor"),
            (
                signed("root", &next(json!({"retired": retired, "principals": genesis["principals"]}))),
                "not-retirable",
            ),
        ];
        let suspend = |name: &str| {
            let keys = vec![PublicKey::parse_openssh(&key(name)).unwrap()];
            let action =
                Action::Suspend(Suspend { keys, reason: "test".into(), case: Some("INC-4711".into()) });
            self.deployment.envelope(&["alice"], &action)
        };
        let (root_suspended, suspended) = (suspend("root"), suspend("soar"));
        let impact = next(json!({}));
        // Automation is gone, Bob's old signatures go on to count, and he stops only what he touches.
        let (people, rest) = (&genesis["principals"].as_array().unwrap()[..2], &genesis["roles"]);
        let mut principals = people.to_vec();
        principals[1]["keys"] = json!([key("stranger")]);
        let role = |name: &str| {
            let found = rest.as_array().unwrap().iter().find(|role| role["name"] == name);
            found.unwrap_or_else(|| panic!("no role {name}")).clone()
        };
        let mut operators = role("operators");
        operators["principals"] = json!(["alice"]);
        let touch = json!({"name": "touch", "principals": ["bob"], "actions": ["stop"], "scopes": ["touch"],
            "threshold": 1, "presence": true, "verification": false});
        let valid = next(json!({
            "principals": principals, "roles": [operators, role("restart"), touch], "disables": 100, "enrolment": true,
            "retired": [{"key": key("bob"), "principal": "bob", "grants": [Digest([7; 32])]}],
        }));
        let bobs = |scope: &str| self.deployment.signed(&["stranger"], self.deployment.stop(scope).document);
        let (untouched, elsewhere) = (bobs("touch/a"), bobs("doc/a"));
        let (returns, valid) = (signed("root", &next(json!({"disables": 100}))), signed("root", &valid));

        for (envelope, code) in &refused {
            self.refuses(envelope, code).await;
        }
        self.says("tryAuthority", "/v1/authority/impact", &genesis, 200).await;
        let answer = self.says("tryAuthority", "/v1/authority/impact", &impact, 200).await;
        assert!(answer["disables"].as_array().unwrap().contains(&json!("doc")), "{answer}");
        self.refused("tryAuthority", self.post("/v1/authority/impact").body("{}"), "bad-document").await;
        self.refused("tryAuthority", self.post("/v1/authority/impact").body(vec![0xff]), "bad-request").await;
        let request = self.post("/v1/authority/impact").body("x".repeat(COMMAND_MAX_BYTES + 1));
        self.refused("tryAuthority", request, "too-large").await;

        self.refuses(&root_suspended, "root-key").await;
        self.taken(&suspended, 201).await;
        self.refuses(&returns, "key-returns").await;
        self.taken(&valid, 201).await;
        for (envelope, code) in [(&untouched, "below-threshold"), (&elsewhere, "no-role")] {
            let request = self.form("/agent/shutdown", envelope);
            self.refused("shutdownAgent", request, code).await;
        }
        self.get("readTrustChain", "/v1/authority", 200).await;
    }

    async fn identities(&mut self, elsewhere: &str) {
        let listed = self.get("listTokens", "/v1/tokens", 200).await;
        assert_eq!(listed["tokens"].as_array().unwrap().len(), 2);
        let first = |body: &Value, at: &str| body.pointer(at).unwrap().as_str().unwrap().to_owned();
        let lock = first(&self.get("listLocks", "/v1/locks?scope=doc", 200).await, "/locks/0/id");
        let proposal =
            first(&self.get("listProposals", "/v1/proposals?scope=doc", 200).await, "/proposals/0/id");
        let (lock, reach) = (format!("/v1/locks/{lock}"), format!("/v1/locks/{lock}/reach"));
        let proposal = format!("/v1/proposals/{proposal}");
        let reads = [
            ("listProposals", "/v1/proposals?scope=doc", true),
            ("readProposal", &proposal, true),
            ("listAgents", "/v1/agents?scope=doc", true),
            ("listEnrolments", "/v1/enrolments?scope=doc", true),
            ("listLocks", "/v1/locks?scope=doc", true),
            ("readLock", &lock, true),
            ("followStop", &reach, true),
            ("readStatus", "/v1/status", false),
            ("readCluster", "/v1/cluster", false),
            ("readTrustChain", "/v1/authority", false),
            ("tryAuthority", "/v1/authority/impact", true),
            ("listenForStops", "/v1/events?scope=doc", true),
            ("readCheckpoint", "/log/checkpoint", true),
            ("readTile", "/log/tile/entries/000", true),
            ("readMetrics", "/metrics", true),
            ("listTokens", "/v1/tokens", true),
            ("listDrills", "/v1/drills?scope=doc", true),
            ("listNotifications", "/v1/notifications", true),
            ("replayNotifications", "/v1/notifications/soc/replay", true),
            ("resumeNotifications", "/v1/notifications/soc/resume", true),
            ("testNotification", "/v1/notifications/soc/test", true),
        ];
        let whoever = Whoever::of(self.deployment, elsewhere);
        let mut asked = Vec::new();
        for (id, path, scoped) in reads {
            let method: Method = self.named(id).method.parse().unwrap();
            let requests = whoever.asks(|client| client.request(method.clone(), self.deployment.url(path)));
            asked.extend(
                requests.into_iter().filter(|(code, _)| scoped || *code != "outside-scopes").map(|r| (id, r)),
            );
        }
        for id in ["readStatus", "readTrustChain", "listenForStops"] {
            let path = reads.iter().find(|(other, ..)| *other == id).unwrap().1;
            let unknown = Token::of_random([8; 32]);
            let request = whoever.bare.get(self.deployment.url(path)).bearer_auth(unknown.reveal());
            asked.push((id, ("not-enrolled", request)));
        }
        self.all_refused(asked).await;

        // What gives takes an identity, too, where the file says so.
        let file = self.deployment.access_file();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("commands_need_bearer = true\n{text}")).unwrap();
        let release = self.deployment.release("doc", &[Digest([9; 32])]);
        let form = || {
            let form = Form::new().text("command", release.document.clone());
            release.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()))
        };
        let (commands, proposals) =
            (self.deployment.url("/v1/commands"), self.deployment.url("/v1/proposals"));
        loop {
            let answer = whoever.bare.post(&commands).multipart(form()).send().await.unwrap();
            if answer.status() == 401 {
                break;
            }
        }
        let mut asked = Vec::new();
        for (id, url) in [("submitCommand", &commands), ("signProposal", &proposals)] {
            asked.extend(
                whoever.asks(|client| client.post(url).multipart(form())).into_iter().map(|r| (id, r)),
            );
        }
        self.all_refused(asked).await;
    }

    /// All at once: an issuer that is away is waited for.
    async fn all_refused(&mut self, asked: Vec<(&str, (&'static str, RequestBuilder))>) {
        let sent = asked
            .into_iter()
            .map(|(id, (code, request))| async move { (id, code, request.send().await.unwrap()) });
        for (id, code, answer) in futures_util::future::join_all(sent).await {
            let (status, body) = self.answered(id, answer).await;
            assert_eq!(body["code"], code, "{id}: {status} {body}");
        }
    }

    // How it is asked.

    fn read(&self, path: &str) -> RequestBuilder {
        self.http.get(self.deployment.url(path))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.deployment.url(path))
    }

    fn form(&self, path: &str, envelope: &Envelope) -> RequestBuilder {
        let form = Form::new().text("command", envelope.document.clone());
        let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
        self.post(path).multipart(form)
    }

    fn loosen(&self, action: Action) -> Envelope {
        self.deployment.envelope(&PEOPLE, &action)
    }

    fn grant(&self, scope: &str, terms: Terms, seen: Seen) -> Envelope {
        let (scope, expires_at_ms, reason) = (parse(scope), 4_000_000_000_000, "test".into());
        self.loosen(Action::Grant(Grant { scope, expires_at_ms, seen, terms, reason }))
    }

    async fn seen(&mut self) -> Seen {
        let status = self.get("readStatus", "/v1/status", 200).await;
        let epoch = status["epoch"]["id"].as_str().unwrap().parse().unwrap();
        Seen { epoch, size: status["log_size"].as_u64().unwrap(), authority: 1 }
    }

    async fn get(&mut self, id: &str, path: &str, status: u16) -> Value {
        self.asked(id, self.read(path), status).await
    }

    /// Sends a JSON body that must fit its schema.
    async fn says(&mut self, id: &str, path: &str, body: &Value, status: u16) -> Value {
        self.fits(
            &format!("{}/requestBody/content/application~1json/schema", self.named(id).at.clone()),
            body,
        );
        self.asked(id, self.post(path).json(body), status).await
    }

    async fn lease(&mut self, change: Value) -> LeaseResponse {
        let mut request = json!({"nonce": Digest([1; 32]), "instance": "i"});
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = self.says("askForLease", "/v1/leases", &request, 200).await;
        serde_json::from_value(answer).expect("a lease response")
    }

    /// A second instance, which confirms nothing.
    async fn silent(&mut self, agent: &str) {
        let request = json!({"nonce": Digest([2; 32]), "instance": "silent", "agents": [{"scope": agent}]});
        self.says("askForLease", "/v1/leases", &request, 200).await;
    }

    /// Sends a command that takes effect.
    async fn taken(&mut self, envelope: &Envelope, status: u16) -> Value {
        self.fits_its_form("submitCommand", envelope);
        let request = self.form("/v1/commands", envelope);
        self.asked("submitCommand", request, status).await
    }

    /// Sends a command that one person signed as a proposal.
    async fn proposed(&mut self, envelope: &Envelope) -> Value {
        self.fits_its_form("signProposal", envelope);
        let request = self.form("/v1/proposals", envelope);
        self.asked("signProposal", request, 202).await
    }

    /// Sends a command that is well made and does not fit the state or its signers. What gives is not proposed either.
    async fn refuses(&mut self, envelope: &Envelope, code: &str) {
        self.fits_its_form("submitCommand", envelope);
        let request = self.form("/v1/commands", envelope);
        self.refused("submitCommand", request, code).await;
        let command = Command::parse(envelope.document.as_bytes()).expect("it is well made");
        if command.action.kind().may_be_proposed() && envelope.signatures.len() == PEOPLE.len() {
            // But for what the release may change that a start waits for.
            let early = ["not-released", "other-locks"].contains(&code);
            let alone = self.deployment.signed(&["alice"], envelope.document.clone());
            let request = self.form("/v1/proposals", if early { envelope } else { &alone });
            self.refused("signProposal", request, code).await;
        }
    }

    async fn refused(&mut self, id: &str, request: RequestBuilder, code: &str) {
        let request = request.build().expect("a request");
        let what = format!("{} {}", request.method(), request.url());
        let answer = self.send(id, request).await;
        let (status, body) = self.answered(id, answer).await;
        assert_eq!(code_of(&body), Some(code), "{what}: {status} {body}");
    }

    async fn asked(&mut self, id: &str, request: RequestBuilder, status: u16) -> Value {
        let request = request.build().expect("a request");
        let what = format!("{} {}", request.method(), request.url());
        self.parameters_fit(id, &request);
        let answer = self.send(id, request).await;
        let (found, body) = self.answered(id, answer).await;
        assert_eq!(found, status, "{what}: {body}");
        body
    }

    async fn send(&self, id: &str, request: Request) -> Response {
        let operation = self.named(id);
        assert_eq!(request.method(), &operation.method.parse::<Method>().unwrap(), "{id}");
        // What stands for `{path}` may have slashes.
        let mut path = request.url().path().split('/');
        for segment in operation.path.split('/') {
            let found = path.next().unwrap_or_else(|| panic!("{} is not asked at {}", id, request.url()));
            assert!(segment.starts_with('{') || segment == found, "{id} is not asked at {}", request.url());
        }
        assert!(path.next().is_none() || operation.path.ends_with("{path}"), "{}", request.url());
        self.http.execute(request).await.unwrap_or_else(|e| panic!("{id}: {e}"))
    }

    async fn listen(&mut self, scope: &str) -> Events {
        let request = self.read(&format!("/v1/events?scope={scope}")).build().unwrap();
        self.parameters_fit("listenForStops", &request);
        let answer = self.send("listenForStops", request).await;
        let at = self.foretold("listenForStops", answer.status().as_u16());
        self.judge_head(&at, answer.headers());
        self.given.insert(("listenForStops".into(), answer.status().as_u16(), None));
        Events { answer, text: String::new() }
    }

    /// Reads until an event of each name has come; every one must fit.
    async fn hears<const N: usize>(&mut self, events: &mut Events, wanted: [&str; N]) {
        let mut wanted = BTreeSet::from(wanted);
        let at = self.foretold("listenForStops", 200) + "/content/text~1event-stream/x-tagout-events";
        while !wanted.is_empty() {
            let event = events.next().await;
            let mut lines = event.lines();
            let (name, data) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
            let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("{event:?}"));
            let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}"));
            assert_eq!(lines.next(), None, "{event:?}");
            let data = serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {event:?}"));
            assert!(self.document.pointer(&format!("{at}/{name}")).is_some(), "{name} is not documented");
            self.fits(&format!("{at}/{name}"), &data);
            wanted.remove(name);
        }
    }

    // How it is judged.

    fn named(&self, id: &str) -> &Operation {
        let found = self.operations.iter().find(|operation| operation.id == id);
        found.unwrap_or_else(|| panic!("no operation {id} is documented"))
    }

    /// Where the response of this status is documented.
    fn foretold(&self, id: &str, status: u16) -> String {
        let responses = responses(self.document, self.named(id));
        responses.get(&status).unwrap_or_else(|| panic!("{id} does not document {status}")).clone()
    }

    async fn answered(&mut self, id: &str, answer: Response) -> (u16, Value) {
        let status = answer.status().as_u16();
        if !responses(self.document, self.named(id)).contains_key(&status) {
            panic!("{id} does not document {status}: {}", answer.text().await.unwrap_or_default());
        }
        let body = self.judge(&self.foretold(id, status), answer).await;
        let code = (status >= 400).then(|| code_of(&body).expect("a code").to_owned());
        self.given.insert((id.into(), status, code));
        (status, body)
    }

    /// Holds an answer to the response at `at`; gives its body, text as a text and bytes as null.
    async fn judge(&mut self, at: &str, answer: Response) -> Value {
        let media = self.judge_head(at, answer.headers());
        let (status, url) = (answer.status(), answer.url().clone());
        let bytes = answer.bytes().await.expect("the whole answer");
        let Some(media) = media else {
            assert!(bytes.is_empty(), "{url}: {status} has a body, and {at} has none");
            return Value::Null;
        };
        let schema = format!("{at}/content/{}/schema", escaped(&media));
        if self.document.pointer(&schema).is_none() {
            assert_eq!(media, "application/octet-stream", "{at} has no schema");
            return Value::Null;
        }
        let text = std::str::from_utf8(&bytes).unwrap_or_else(|e| panic!("{url}: {e}"));
        let body = if media.contains("json") {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{url}: {e}: {text}"))
        } else {
            Value::from(text)
        };
        self.fits(&schema, &body);
        if media == "application/problem+json" {
            assert_eq!(body["status"], status.as_u16(), "{url}: {body}");
        }
        body
    }

    /// Holds the headers to the response at `at`; gives the media type, if there is a body.
    fn judge_head(&mut self, at: &str, headers: &HeaderMap) -> Option<String> {
        let response = self.document.pointer(at).unwrap_or_else(|| panic!("nothing is at {at}"));
        let documented = response.get("headers").and_then(Value::as_object);
        let documented: Vec<&String> = documented.into_iter().flatten().map(|(name, _)| name).collect();
        // Whatever HTTP itself needs is not repeated by the document.
        let of_http = ["content-type", "content-length", "date"];
        for name in headers.keys().map(|name| name.as_str()).filter(|name| !of_http.contains(name)) {
            assert!(documented.iter().any(|d| d.eq_ignore_ascii_case(name)), "{at} does not document {name}");
        }
        for name in documented {
            let header = resolve(self.document, &format!("{at}/headers/{name}"));
            let Some(value) = headers.get(name.as_str()) else {
                let required = self.document.pointer(&format!("{header}/required")) == Some(&true.into());
                assert!(!required, "{at}: {name} is missing");
                continue;
            };
            self.fits(&format!("{header}/schema"), &value.to_str().unwrap().into());
        }
        let contents = response.get("content").and_then(Value::as_object);
        let found = headers.get("content-type").map(|value| value.to_str().unwrap().to_owned());
        match (&found, contents) {
            (Some(found), Some(contents)) => {
                assert!(contents.contains_key(found), "{at} does not document {found}")
            }
            (None, None) => {}
            _ => panic!("{at}: the content is {found:?}"),
        }
        found
    }

    fn fits(&mut self, at: &str, value: &Value) {
        self.schemas.check(at, value, &mut self.met).unwrap_or_else(|error| panic!("{error}"));
    }

    /// What the path, the query and the headers of a good request say must be foretold as well.
    fn parameters_fit(&mut self, id: &str, request: &Request) {
        let url = request.url();
        let operation = self.named(id).clone();
        let mut names = Vec::new();
        for at in parameters(self.document, &operation) {
            let parameter = self.document.pointer(&at).expect("a parameter");
            let name = parameter["name"].as_str().expect("a name");
            names.push(name);
            let value = if parameter["in"] == "path" {
                let (before, after) = operation.path.split_once(&format!("{{{name}}}")).expect("its place");
                let rest = &url.path()[before.len()..];
                Some(if after.is_empty() { rest } else { rest.split('/').next().unwrap() }.to_owned())
            } else if parameter["in"] == "header" {
                request.headers().get(name).map(|value| value.to_str().expect("ASCII").to_owned())
            } else {
                url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
            };
            let Some(value) = value else {
                assert_ne!(parameter["required"], true, "{id} is not told {name}");
                continue;
            };
            let kind =
                self.document.pointer(&format!("{}/type", resolve(self.document, &format!("{at}/schema"))));
            let value = match kind.and_then(Value::as_str) {
                Some("integer") => json!(value.parse::<u64>().expect("a whole number")),
                Some("array") => json!(value.split(',').collect::<Vec<_>>()),
                _ => json!(value),
            };
            self.fits(&format!("{at}/schema"), &value);
        }
        let unknown = url.query_pairs().find(|(key, _)| !names.contains(&key.as_ref()));
        assert!(unknown.is_none(), "{id} does not document {unknown:?}");
    }

    fn fits_its_form(&mut self, id: &str, envelope: &Envelope) {
        let form = json!({"command": envelope.document, "signature": envelope.signatures});
        self.fits(
            &format!("{}/requestBody/content/multipart~1form-data/schema", self.named(id).at.clone()),
            &form,
        );
    }

    /// Whatever the document says was met, but for what is named above with its reason.
    fn all_was_met(&self) {
        let mut documented = BTreeSet::new();
        for operation in &self.operations {
            for (status, at) in responses(self.document, operation) {
                let codes = codes(self.document, &at);
                let some = codes.into_iter().map(Some);
                let all = if status >= 400 { some.collect() } else { vec![None] };
                documented.extend(all.into_iter().map(|code| (operation.id.clone(), status, code)));
            }
        }
        let missing: BTreeSet<_> = documented.difference(&self.given).collect();
        let missing: BTreeSet<(&str, &str)> = missing
            .into_iter()
            .map(|(id, _, code)| (id.as_str(), code.as_deref().unwrap_or("success")))
            .collect();
        assert_eq!(missing, NOT_PROVOKED.iter().copied().collect(), "documented answers that were not given");

        let schemas = self.document["components"]["schemas"].as_object().unwrap();
        let mut unmet = BTreeSet::new();
        for name in schemas.keys().filter(|name| *name != "ProblemCode") {
            self.schemas.below(&format!("/components/schemas/{name}"), &mut |at, _| {
                if !self.met.contains(at) {
                    unmet.insert(at.to_owned());
                }
            });
        }
        for at in NOT_MET {
            assert!(self.document.pointer(at).is_some(), "nothing is at {at}");
            unmet.remove(*at);
        }
        assert!(unmet.is_empty(), "no message had this: {unmet:#?}");
    }
}

/// A problem's, or an OpenC2 response's.
fn code_of(body: &Value) -> Option<&str> {
    let openc2 = || body.pointer("/body/openc2/response/results/x-tagout/code")?.as_str();
    body["code"].as_str().or_else(openc2)
}

/// Everybody who is refused.
struct Whoever<'a> {
    bare: Client,
    /// With a certificate of a CA that nobody has named, and one of nobody whom anybody has named.
    foreign: Client,
    nobody: Client,
    elsewhere: &'a str,
}

impl<'a> Whoever<'a> {
    fn of(deployment: &Deployment, elsewhere: &'a str) -> Self {
        let other = deployment.folder().join("other-ca");
        std::fs::create_dir(&other).unwrap();
        pki::create_ca(&other, "other").unwrap();
        let with = |ca: &std::path::Path| {
            let issued = pki::issue_client(ca, "client").unwrap();
            let (cert, key) = (&issued.cert_pem, &issued.key_pem);
            let tls = tls::client_config_with_identity(&deployment.ca_pem(), cert, key).unwrap();
            Client::builder().tls_backend_preconfigured(tls).build().unwrap()
        };
        let (foreign, nobody) = (with(&other), with(&deployment.dir().join("ca")));
        Self { bare: deployment.bare_http(), foreign, nobody, elsewhere }
    }

    /// A request by each, with what it is refused for.
    fn asks(&self, ask: impl Fn(&Client) -> RequestBuilder) -> Vec<(&'static str, RequestBuilder)> {
        // {"alg":"RS256","kid":"k"}, and claims that nobody gets to see.
        let of_issuer = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.e30.AAAA";
        vec![
            ("no-identity", ask(&self.bare)),
            ("invalid-token", ask(&self.bare).bearer_auth(format!("tagout_api_{}", "0".repeat(64)))),
            ("issuer-away", ask(&self.bare).bearer_auth(of_issuer)),
            ("outside-scopes", ask(&self.bare).bearer_auth(self.elsewhere)),
            ("invalid-certificate", ask(&self.foreign)),
            ("not-permitted", ask(&self.nobody)),
        ]
    }
}

/// A stream of server-sent events, as text.
struct Events {
    answer: Response,
    text: String,
}

impl Events {
    /// The lines of the next event.
    async fn next(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                // A comment only shows that the connection lives.
                if event.starts_with(':') {
                    continue;
                }
                return event;
            }
            let chunk = self.answer.chunk().await.expect("the stream goes on").expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }
}

fn release_of(scope: &str, lock: Digest) -> Release {
    Release {
        scope: parse(scope),
        locks: LockSet::Ids(vec![lock]),
        lost_from: None,
        reason: "reviewed".into(),
    }
}
