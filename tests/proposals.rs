//! Proposals, as people meet them: the night call word for word, with a real guard that feels what is in force and nothing
//! else, and what a deployment of one node or of three makes of signatures that come one by one.

use reqwest::StatusCode;
use tagout::Guard;
use tagout_proto::command::{Action, Refuse};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::PROPOSALS_MAX;
use tagout_proto::wire::{Problem, ProposalRecord, Proposals};
use tagout_tests::deployment::{Choice, Deployment, parse, runtime};
use tagout_tests::session::Session;
use tagout_tests::three::Three;
use tagout_tests::wait::{DEADLINE, wait_until};

const AGENT: &str = "support/agent_22";

/// What an operator types and reads, from the stop to the agent's return.
#[test]
fn s2_s5_s7_the_night_call() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "support").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard(AGENT).unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    let mut session = Session::of(&deployment, "night_call.txt", "The night call", "tests/proposals.rs");

    session.runs(&["stop", AGENT, "--reason", "policy violation 4.1", "--case", "INC-4711", "--no-wait"], 0);
    wait_until("the guard to be stopped", || guard.check().is_err());
    settle(&deployment);

    session.says("Alice reviews it, and has her own key alone.");
    let resume = ["resume", AGENT, "--reason", "reviewed, INC-4711", "--key", "keys/alice"];
    session.runs(&resume, 8);
    let ids = open(&deployment);
    let [release, start] = &ids[..] else { panic!("{ids:?}") };
    session.says("That she asks once more adds nothing, and neither does a second signature of hers, nor an automation's.");
    session.runs(&resume, 4);
    session.runs(&["proposals", "sign", release, start, "--key", "keys/alice"], 3);
    session.runs(&["proposals", "sign", start, "--key", "keys/soar"], 3);
    still_stopped(&deployment, &guard);

    session.says("Bob looks.");
    session.runs(&["proposals"], 0);
    session.runs(&["proposals", "show", release], 0);
    session.runs(&["proposals", "show", start], 0);
    still_stopped(&deployment, &guard);

    session.says("Bob signs, and the agent is back.");
    session.runs(&["proposals", "sign", start, release, "--key", "keys/bob"], 0);
    wait_until("the agent to be back", || guard.check().is_ok());
    session.runs(&["proposals"], 0);

    session.says("Another night he refuses. Nobody brings that one back.");
    session.runs(
        &["grant", "support/agent_23", "--for", "1h", "--reason", "a favour", "--key", "keys/alice"],
        8,
    );
    let grant = open(&deployment).remove(0);
    session.runs(&["proposals", "refuse", &grant, "--reason", "not tonight", "--key", "keys/bob"], 0);
    session.runs(&["proposals", "sign", &grant, "--key", "keys/bob"], 1);
    session.runs(&["log", "show", "--last", "8"], 0);
    session.runs(&["log", "verify"], 0);
    session.compare();
}

/// S7: also by a lease that knows of all that was proposed.
fn still_stopped(deployment: &Deployment, guard: &Guard) {
    let status = deployment.run(&["status", "--json"]).exits(0).json();
    let size = status["log_size"].as_u64().expect("a size");
    wait_until("a lease that knows of it", || guard.state().log_size >= size);
    assert!(guard.check().is_err(), "a proposal enabled something");
}

/// Outcomes are in the log when they are, and the session numbers its entries.
fn settle(deployment: &Deployment) {
    wait_until("the outcome of the stop", || {
        deployment.run(&["log", "show", "--last", "1"]).exits(0).stdout.contains("outcome of ")
    });
}

/// The open proposals by their short ids, the oldest first.
fn open(deployment: &Deployment) -> Vec<String> {
    let listed = deployment.run(&["proposals", "--json"]).exits(0).json();
    let ids = listed["proposals"].as_array().expect("proposals").iter();
    ids.map(|proposal| proposal["id"].as_str().expect("an id")[..12].to_owned()).collect()
}

async fn proposals(three: &Three, node: usize) -> Vec<ProposalRecord> {
    let answer = three.deployment.http().get(three.url(node, "/v1/proposals")).send().await.unwrap();
    answer.json::<Proposals>().await.unwrap().proposals
}

/// Sends what one person signed, as a proposal.
async fn sign(http: &reqwest::Client, url: &str, envelope: &Envelope) -> (StatusCode, serde_json::Value) {
    let form = reqwest::multipart::Form::new().text("command", envelope.document.clone());
    let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
    let answer = http.post(url).multipart(form).send().await.expect("the node answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

#[test]
fn s1_s5_s8_three_nodes_have_the_same_proposals_and_keep_them() {
    let mut three = Three::start();
    let (runtime, http) = (runtime(), three.deployment.http());
    let deployment = &three.deployment;
    let grants: Vec<_> = runtime.block_on(async {
        let mut grants = Vec::new();
        for n in 0..3 {
            let grant = deployment.envelope(&["alice"], &deployment.grant_for(&format!("support/{n}")).await);
            let (status, record) = sign(&http, &three.url(n, "/v1/proposals"), &grant).await;
            assert_eq!((status, &record["signed_by"]), (StatusCode::ACCEPTED, &serde_json::json!(["alice"])));
            grants.push(grant);
        }
        grants
    });
    let ids: Vec<Digest> = grants.iter().map(Envelope::digest).collect();
    let same = |three: &Three| {
        let first = runtime.block_on(proposals(three, 0));
        assert_eq!(first.iter().map(|record| record.id).collect::<Vec<_>>(), ids);
        for node in [1, 2] {
            wait_until("the others to have applied them", || {
                runtime.block_on(proposals(three, node)) == first
            });
        }
    };
    same(&three);
    let expected = runtime.block_on(proposals(&three, 0));

    // A restart of all of them, by kill -9: what was signed by one is neither lost nor in force.
    three.kill();
    three.run();
    same(&three);
    assert_eq!(runtime.block_on(proposals(&three, 1)), expected);

    // Where a node is away, whoever is about to sign is told that there may be more agents than are shown.
    let show = |three: &Three| {
        let url = three.url(1, "");
        three.deployment.run(&["--node", &url, "proposals", "show", &ids[0].to_string()]).exits(0).stdout
    };
    let silent = "1 node did not answer, and may know of more agents";
    assert!(!show(&three).contains(silent));
    three.kill_one(0);
    let shown = show(&three);
    assert!(shown.contains(silent), "{shown}");
    three.run_one(0);
    wait_until("the node to be back", || {
        let ready = runtime.block_on(http.get(three.url(0, "/readyz")).send());
        ready.is_ok_and(|answer| answer.status().is_success())
    });

    // Bob signs at another node than Alice did; two at once, at two nodes, take effect once.
    let deployment = &three.deployment;
    let by_bob: Vec<_> =
        grants.iter().map(|grant| deployment.signed(&["bob"], grant.document.clone())).collect();
    runtime.block_on(async {
        let (status, answer) = sign(&http, &three.url(2, "/v1/proposals"), &by_bob[0]).await;
        assert_eq!((status, &answer["repeated"]), (StatusCode::CREATED, &false.into()), "{answer}");
        let urls = [three.url(0, "/v1/proposals"), three.url(1, "/v1/proposals")];
        let (one, other) = tokio::join!(sign(&http, &urls[0], &by_bob[1]), sign(&http, &urls[1], &by_bob[1]));
        assert_eq!(one.1["index"], other.1["index"], "{one:?} {other:?}");
        assert!(
            one.0.is_success() && other.0.is_success() && one.0 != StatusCode::ACCEPTED,
            "{one:?} {other:?}"
        );

        let action = Action::Refuse(Refuse {
            scope: parse("support/2"),
            proposal: ids[2],
            reason: "no".into(),
            case: None,
        });
        let refuse = deployment.envelope(&["bob"], &action);
        tagout_tests::deployment::try_submit(&http, &three.url(1, "/v1/commands"), &refuse)
            .await
            .unwrap()
            .unwrap();
        for node in 0..3 {
            let url = three.url(node, "/v1/proposals");
            let (status, answer) = sign(&http, &url, &by_bob[2]).await;
            let problem: Problem = serde_json::from_value(answer).unwrap();
            assert_eq!((status, problem.code.as_str()), (StatusCode::CONFLICT, "refused"));
            assert!(
                problem.detail.starts_with("bob refused ") && problem.detail.contains("\"no\""),
                "{}",
                problem.detail
            );
            // Whoever was to sign it hears why, too.
            let shown = http.get(format!("{url}/{}", ids[2])).send().await.unwrap();
            let gone: Problem = shown.json().await.unwrap();
            assert_eq!((gone.code.as_str(), &gone.detail), ("no-such-proposal", &problem.detail));
        }
    });
    for node in 0..3 {
        let url = three.url(node, "");
        wait_until("no node to have an open proposal", || {
            runtime.block_on(proposals(&three, node)).is_empty()
        });
        deployment.run(&["--node", &url, "log", "verify"]).exits(0);
    }
}

/// In whatever order a ceremony is signed, nobody signs twice for nothing, and nothing starts before its release.
#[test]
fn s2_a_start_that_is_signed_before_its_release_waits_for_it() {
    let deployment = Deployment::start(Choice::default());
    let (runtime, http) = (runtime(), deployment.http());
    runtime.block_on(async {
        let url = deployment.url("/v1/proposals");
        let stop = deployment.stop("support/a");
        deployment.submit(&http, &stop).await.expect("a stop");
        let lock = stop.digest();
        let (release, start) =
            (deployment.release("support/a", &[lock]), deployment.start_of("support/a", &[lock]));
        let by = |of: &Envelope, who: &str| deployment.signed(&[who], of.document.clone());
        for (document, who) in [(&release, "alice"), (&start, "alice"), (&start, "bob")] {
            let (status, answer) = sign(&http, &url, &by(document, who)).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{who}: {answer}");
        }
        let waiting: Proposals = deployment.get(&http, "/v1/proposals").await;
        let [_, waiting] = &waiting.proposals[..] else { panic!("{waiting:?}") };
        assert_eq!((&waiting.missing, waiting.signed_by.len()), (&None, 2));
        for envelope in [&by(&start, "bob"), &start] {
            let (_, answer) = sign(&http, &url, envelope).await;
            assert_eq!(answer["code"], "not-released", "{answer}");
        }
        for document in [&release, &start] {
            let (status, answer) = sign(&http, &url, &by(document, "bob")).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
    });
    assert!(open(&deployment).is_empty());
}

#[test]
fn s10_a_full_table_of_proposals_keeps_no_stop_waiting() {
    let deployment = Deployment::start(Choice::default());
    let (runtime, http) = (runtime(), deployment.http());
    runtime.block_on(async {
        let url = deployment.url("/v1/proposals");
        for n in 0..=PROPOSALS_MAX {
            let grant = deployment.envelope(&["alice"], &deployment.grant_for(&format!("support/{n}")).await);
            let (status, answer) = sign(&http, &url, &grant).await;
            let full = n == PROPOSALS_MAX;
            assert_eq!(status, if full { StatusCode::CONFLICT } else { StatusCode::ACCEPTED }, "{answer}");
        }
        deployment.submit(&http, &deployment.stop("support")).await.expect("a stop");
        deployment.grant(&http, "support/both").await;
    });
    // A snapshot holds them all, and the next start has them still.
    let before = open(&deployment);
    assert_eq!(before.len(), PROPOSALS_MAX);
    let mut deployment = deployment;
    deployment.kill_node();
    deployment.start_node();
    assert_eq!(open(&deployment), before);
}
