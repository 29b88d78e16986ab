//! Drills: a real guard is stopped by one, and comes back; what that showed is in the log, and false evidence is not.

use std::process::Command;

use reqwest::StatusCode;
use serde_json::Value;
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::sshsig::{DRILL_NAMESPACE, NAMESPACE};
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_until};

const CANARY: &str = "support/canary";
const HOSTILE: &str = "monthly <script>alert(1)</script>";

#[test]
fn s2_s5_s7_s8_a_drill_stops_a_canary_and_what_it_showed_is_in_the_log() {
    let deployment = Deployment::start(Choice::default());
    let (runtime, http) = (runtime(), deployment.http());
    let client = runtime.block_on(async {
        deployment.grant(&http, "support").await;
        deployment.sdk(&deployment.url(""))
    });
    let drill = ["drill", CANARY, "--reason", HOSTILE, "--yes"];
    let keys = ["alice", "bob", "soar"].map(|name| deployment.key(name).display().to_string());
    let nothing = deployment.run(&[&drill[..], &["--key", &keys[0], "--key", &keys[1]]].concat()).exits(1);
    assert!(nothing.stderr.contains("a drill on nothing proves nothing"), "{nothing:?}");
    let guard = client.guard(CANARY).unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();

    // What would stop more than was meant, and what nobody could bring back, is not begun.
    let fleet = deployment.run(&["drill", "*", "--reason", "r", "--yes"]).exits(2);
    assert!(fleet.stderr.contains("name one canary, or add --many"), "{fleet:?}");
    let asked = deployment.run(&drill[..4]).exits(2);
    assert!(asked.stderr.contains("add --yes"), "{asked:?}");
    let automation = deployment.run(&[&drill[..], &["--key", &keys[2]]].concat()).exits(3);
    assert!(automation.stderr.contains("soar may not release support/canary"), "{automation:?}");
    assert!(guard.check().is_ok(), "what was refused stopped it");

    let done = deployment.run_by_both(&[&drill[..], &["--json"]].concat()).json();
    let (evidence, lock) = (&done["drill"], done["lock"].as_str().expect("a lock"));
    assert_eq!(
        (&evidence["confirmed"], &evidence["bounded"], &done["alert"]),
        (&1.into(), &0.into(), &Value::Null)
    );
    wait_until("the canary to be back", || guard.check().is_ok());
    let document: Value = serde_json::from_str(evidence["document"].as_str().unwrap()).unwrap();
    let outcome = entry(&deployment, document["drill"]["outcome"].as_u64().unwrap());
    let outcome: Value = serde_json::from_str(outcome["document"].as_str().unwrap()).unwrap();
    assert_eq!((&outcome["slowest_ms"], outcome["outcome"].as_str()), (&evidence["slowest_ms"], Some(lock)));

    // OpenSSH vouches for it, and by the line that the log prints.
    let index = evidence["index"].to_string();
    let folder = deployment.folder().join("export");
    let shown = deployment.run(&["log", "show", &index, "--out", folder.to_str().unwrap()]).exits(0);
    let line = shown.stdout.lines().nth(1).expect("the line that verifies");
    let verified = Ran::of(Command::new("bash").args(["-c", line])).exits(0);
    assert!(verified.stdout.contains("Good \"tagout-drill\" signature for alice"), "{verified:?}");

    // One person alone: the resume is proposed, and the canary waits for the other.
    let alone = deployment.run(&[&drill[..], &["--json", "--key", &keys[0]]].concat()).exits(8).json();
    let lock = alone["lock"].as_str().unwrap().to_owned();
    wait_until("the canary to be stopped", || guard.check().is_err());
    let early = deployment.run(&["drill", "finish", &lock[..12]]).exits(4);
    assert!(early.stderr.contains("is not brought back yet"), "{early:?}");
    let again = deployment.run(&[&drill[..], &["--key", &keys[0], "--key", &keys[1]]].concat()).exits(1);
    assert!(again.stderr.contains("does not run now"), "{again:?}");

    runtime.block_on(forged(&deployment, &http, document.clone(), &lock));
    let ids: Vec<_> =
        alone["proposals"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
    deployment.run(&["proposals", "sign", ids[0], ids[1], "--key", &keys[1]]).exits(0);
    wait_until("the canary to be back", || guard.check().is_ok());
    // S7: an automation may not bring it back, and may say what was.
    deployment.run(&["drill", "finish", &lock[..12], "--key", &keys[2]]).exits(0);
    let twice = deployment.run(&["drill", "finish", &lock]).exits(3);
    assert!(twice.stderr.contains("in the log already"), "{twice:?}");

    let page = deployment.folder().join("drills.html");
    let report = ["drill", "report", "--json", "--html", page.to_str().unwrap()];
    let report = deployment.run(&report).exits(0).json();
    let drills = report["drills"].as_array().unwrap();
    assert_eq!(drills.len(), 2);
    assert_eq!((&drills[0]["slowest_ms"], &drills[0]["state"]), (&evidence["slowest_ms"], &"resumed".into()));
    assert_eq!(drills[1]["evidence"]["by"], serde_json::json!(["soar"]));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "what people wrote is markup");
    let well_formed = "import html.parser,sys\nopen_=[]\nvoid={'meta'}\n\
        class P(html.parser.HTMLParser):\n def handle_starttag(s,t,a):\n  if t not in void: open_.append(t)\n \
        def handle_startendtag(s,t,a): pass\n def handle_endtag(s,t):\n  assert open_.pop()==t,t\n\
        p=P();p.feed(open(sys.argv[1]).read());p.close();assert not open_,open_";
    let mut parser = Command::new("python3");
    parser.arg("-c").arg(well_formed).arg(&page);
    Ran::of(&mut parser).exits(0);
    deployment.run(&["log", "verify", "--from-start"]).exits(0);
}

fn entry(deployment: &Deployment, index: u64) -> Value {
    deployment.run(&["log", "show", &index.to_string(), "--json"]).exits(0).json()
}

/// Evidence that says something else than the log is refused, each by its name. `good` is of a stop that has its drill.
async fn forged(deployment: &Deployment, http: &reqwest::Client, good: Value, open: &str) {
    let sign = |document: &Value, who: &str, namespace: &str| {
        let document = document.to_string();
        let signatures = vec![deployment.signer(who).sign(namespace, document.as_bytes()).unwrap()];
        Envelope { document, signatures }
    };
    let with = |pointer: &str, value: Value| {
        let mut document = good.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        document
    };
    let slower = |ms: u64| {
        let mut document = with("/drill/slowest_ms", ms.into());
        document["drill"]["instances"][0]["after_ms"] = ms.into();
        document
    };
    let mut undone = slower(1);
    undone["drill"]["stop"]["digest"] = open.into();
    let mut elsewhere = with("/drill/scope", "support/other".into());
    elsewhere["drill"]["instances"][0]["agent"] = "support/other".into();
    for (document, who, namespace, code) in [
        (&good, "stranger", DRILL_NAMESPACE, "no-valid-signature"),
        (&good, "alice", NAMESPACE, "no-valid-signature"),
        (
            &with("/drill/stop/digest", Digest([9; 32]).to_string().into()),
            "alice",
            DRILL_NAMESPACE,
            "no-such-stop",
        ),
        (&elsewhere, "alice", DRILL_NAMESPACE, "drill-elsewhere"),
        (&with("/issued_at", "2026-11-22T15:00:00Z".into()), "alice", DRILL_NAMESPACE, "drill-known"),
        (&undone, "alice", DRILL_NAMESPACE, "drill-differs"),
        (&with("/drill/confirmed", 0.into()), "alice", DRILL_NAMESPACE, "bad-document"),
    ] {
        let envelope = sign(document, who, namespace);
        let form = reqwest::multipart::Form::new().text("drill", envelope.document.clone());
        let form = envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()));
        let answer = http.post(deployment.url("/v1/drills")).multipart(form).send().await.unwrap();
        assert_ne!(answer.status(), StatusCode::CREATED);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], code, "{problem}");
    }
}
