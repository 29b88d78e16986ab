//! Drills: a real guard is stopped by one, and comes back; what that showed is in the log, and false evidence is not.

use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tagout::{Client, Guard};
use tagout_control_plane::access::{ApiToken, token_lines};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::TTL_MAX_MS;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::sshsig::{DRILL_NAMESPACE, NAMESPACE};
use tagout_proto::wire::AccessRole;
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, PEOPLE, parse, runtime};
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::session::Session;
use tagout_tests::three::Three;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};
use tokio::runtime::Runtime;

const CANARY: &str = "support/canary";
const HOSTILE: &str = "monthly <script>alert(1)</script>";
/// 2100-01-01.
const FAR_MS: u64 = 4_102_444_800_000;

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
    let well_formed = "import html.parser,sys\nopen_=[]\nvoid={'meta','wbr'}\n\
        class P(html.parser.HTMLParser):\n def handle_starttag(s,t,a):\n  if t not in void: open_.append(t)\n \
        def handle_startendtag(s,t,a): pass\n def handle_endtag(s,t):\n  assert open_.pop()==t,t\n\
        p=P();p.feed(open(sys.argv[1]).read());p.close();assert not open_,open_";
    let mut parser = Command::new("python3");
    parser.arg("-c").arg(well_formed).arg(&page);
    Ran::of(&mut parser).exits(0);

    // The ledger keeps no outcome's instances, so evidence may name others: the report notices, by the outcome's own entry.
    runtime.block_on(renamed(&deployment, &http, document));
    let report = wait_for("the log to be published with it", || {
        Some(deployment.run(&["drill", "report"])).filter(|report| report.code != Some(0))
    });
    let report = report.exits(7);
    assert!(report.stderr.contains("lists other instances than the outcome at entry "), "{report:?}");
    deployment.run(&["log", "verify", "--from-start"]).exits(0);
}

fn entry(deployment: &Deployment, index: u64) -> Value {
    deployment.run(&["log", "show", &index.to_string(), "--json"]).exits(0).json()
}

/// Stops the canary, and appends evidence that names another instance than the one that confirmed. `good` is of another stop.
async fn renamed(deployment: &Deployment, http: &reqwest::Client, mut good: Value) {
    let stop = deployment.stop(CANARY);
    let index = deployment.submit(http, &stop).await.unwrap().index;
    let outcome = wait_for("the outcome of the stop", || {
        let newest = deployment.run(&["log", "show", "--last", "1", "--json"]).exits(0).json();
        let newest = newest["entries"][0].clone();
        (newest["kind"] == "outcome").then_some(newest)
    });
    let achieved: Value = serde_json::from_str(outcome["document"].as_str().unwrap()).unwrap();
    let drill = good["drill"].as_object_mut().unwrap();
    drill.insert("stop".into(), json!({"digest": stop.digest(), "index": index}));
    drill.insert("outcome".into(), outcome["index"].clone());
    drill.insert("slowest_ms".into(), achieved["slowest_ms"].clone());
    drill.insert(
        "instances".into(),
        json!([{"agent": CANARY, "instance": "another", "after_ms": achieved["slowest_ms"]}]),
    );
    drill.retain(|key, _| key != "release" && key != "start");
    let document = good.to_string();
    let signature = deployment.signer("alice").sign(DRILL_NAMESPACE, document.as_bytes()).unwrap();
    let form = reqwest::multipart::Form::new().text("drill", document).text("signature", signature);
    let answer = http.post(deployment.url("/v1/drills")).multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED, "{}", answer.text().await.unwrap());
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

/// A drill that ends before its start leaves the canary stopped, and everything that it takes to go on has been printed.
#[test]
fn s1_s2_s8_drills_that_are_killed_that_wait_and_that_go_on_by_themselves() {
    // Whoever has not confirmed is waited for so long.
    let mut deployment = Deployment::make(Choice { ttl_ms: TTL_MAX_MS, ..Choice::default() });
    let tokens = ["support", "elsewhere"].map(|scope| {
        let token = ApiToken::random().unwrap();
        let scopes = [parse(scope)];
        deployment.add_access("", &token_lines(scope, &token.digest(), AccessRole::Viewer, &scopes, FAR_MS));
        token
    });
    deployment.start_node();
    let (runtime, http) = (runtime(), deployment.http());
    let client = runtime.block_on(async {
        deployment.grant(&http, "support").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard(CANARY).unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    listening(&runtime, &deployment);
    let [alice, bob] = PEOPLE.map(|name| deployment.key(name).display().to_string());
    let both = ["--key", &alice, "--key", &bob];
    let spawn = |name: &str, more: &[&str]| {
        let drill = [&["drill", CANARY, "--reason", "monthly", "--yes"], more].concat();
        Process::spawn(name, deployment.folder(), &mut deployment.command(&drill))
    };

    // Killed between the stop, which nobody has confirmed yet, and the resume.
    let call = slow_call(&guard);
    let mut killed = spawn("killed", &both);
    let line = format!("tagout resume {}", killed.wait_for_line("  tagout resume "));
    killed.kill();
    assert!(!killed.stdout().contains("\"action\":\"release\""), "{}", killed.stdout());
    // So that a limit of one millisecond is exceeded.
    std::thread::sleep(Duration::from_millis(5));
    drop(call);
    let lock = line.rsplit(' ').next().unwrap();
    wait_until("the outcome of the stop", || {
        deployment.run(&["log", "show", "--last", "1"]).exits(0).stdout.contains("outcome of ")
    });
    assert!(guard.check().is_err(), "the canary runs after a drill that was killed");
    let locks = deployment.run(&["status", CANARY, "--json"]).exits(0).json();
    assert!(locks["lock_records"][0]["id"].as_str().unwrap().starts_with(lock), "{locks}");
    let by_line = Ran::of(&mut typed(&deployment, &line, &both)).exits(0);
    assert!(by_line.stdout.contains(&format!("drilled {CANARY} at entry ")), "{by_line:?}");
    wait_until("the canary to be back", || guard.check().is_ok());

    // By one who waits until the other has signed, too.
    let mut waits = spawn("waits", &["--key", &alice, "--wait"]);
    waits.wait_for_line("waiting for the others");
    wait_until("the canary to be stopped", || guard.check().is_err());
    let open = deployment.run(&["proposals", "--json"]).exits(0).json();
    let ids = open["proposals"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap());
    let sign: Vec<_> = ["proposals", "sign", "--key", &bob].into_iter().chain(ids).collect();
    deployment.run(&sign).exits(0);
    waits.succeed();
    assert!(waits.line(&format!("drilled {CANARY} at entry ")).is_some(), "{}", waits.stdout());
    wait_until("the canary to be back", || guard.check().is_ok());

    reported(&deployment);
    seen_by(&runtime, &deployment, tokens);

    // The other one refuses, and it says so.
    let mut waits = spawn("refused", &["--key", &alice, "--wait"]);
    waits.wait_for_line("waiting for the others");
    let open = deployment.run(&["proposals", "--json"]).exits(0).json();
    for proposal in open["proposals"].as_array().unwrap() {
        let id = proposal["id"].as_str().unwrap();
        deployment.run(&["proposals", "refuse", id, "--reason", "not now", "--key", &bob]).exits(0);
    }
    assert_eq!(waits.wait().code(), Some(4), "{}", waits.stderr());
    assert!(waits.stderr().contains("what would bring it back was refused"), "{}", waits.stderr());
    deployment.run_by_both(&["resume", CANARY, "--reason", "back"]);
    wait_until("the canary to be back", || guard.check().is_ok());

    // Drills by a schedule, of which some fail since somebody has stopped the canary.
    let every = spawn("every", &[&both[..], &["--every", "1s"]].concat());
    let drilled = || every.stdout().matches(&format!("drilled {CANARY} at entry ")).count();
    wait_until("two drills", || drilled() >= 2);
    deployment.run(&["stop", CANARY, "--reason", "somebody's own", "--no-wait"]).exits(0);
    wait_until("a drill to fail", || {
        every.stderr().contains(&format!("error: {CANARY} does not run now: lock "))
    });
    let before = drilled();
    deployment.run_by_both(&["resume", CANARY, "--reason", "back"]);
    wait_until("one more drill", || drilled() > before);
    assert!(every.stdout().contains(&format!("the next drill of {CANARY} begins 1s after this one did")));
    let mut every = every;
    assert!(every.ended().is_none(), "a drill that failed ended the schedule");
    every.kill();
    deployment.run(&["log", "verify", "--from-start"]).exits(0);
}

/// A call of the guard that ends, once it is cut, only when the sender is dropped: until then nobody confirms the stop.
fn slow_call(guard: &Guard) -> Sender<()> {
    struct Ends(Receiver<()>);
    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    let ((may_end, ends), (began, begun)) = (channel(), channel());
    let guard = guard.clone();
    // On a thread of its own, which it blocks.
    std::thread::spawn(move || {
        let call = async move {
            let _ends = Ends(ends);
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(guard.run(call))
    });
    begun.recv().unwrap();
    may_end
}

/// Waits until the guard hears of a stop at once.
fn listening(runtime: &Runtime, deployment: &Deployment) {
    wait_until("the guard to listen", || {
        let metrics = runtime.block_on(async {
            deployment.http().get(deployment.url("/metrics")).send().await.unwrap().text().await.unwrap()
        });
        metrics.lines().any(|line| line == "tagout_guards_listening 1")
    });
}

/// A line as a drill prints it, typed by people whose profile names their keys.
fn typed(deployment: &Deployment, line: &str, keys: &[&str]) -> Command {
    let profile = std::fs::read_to_string(deployment.profile()).unwrap();
    let (alice, both) = ("\"../keys/alice\"", format!("{:?}, {:?}", keys[1], keys[3]));
    assert!(profile.contains(alice), "{profile}");
    let path = deployment.dir().join("both.toml");
    std::fs::write(&path, profile.replace(alice, &both)).unwrap();
    let of_ours = bin::tagout();
    let search = format!("{}:{}", of_ours.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", line]).env("PATH", search).env("TAGOUT_PROFILE", path).env_remove("SSH_AUTH_SOCK");
    bash.env("XDG_STATE_HOME", deployment.folder().join("state")).env("NO_COLOR", "1");
    bash
}

/// What the report says of two drills, of which the first was slow; of a copy the same, unless somebody changed it.
fn reported(deployment: &Deployment) {
    let report = |code: i32, more: &[&str]| {
        deployment.run(&[&["drill", "report", "--json"], more].concat()).exits(code).json()
    };
    let all = report(0, &["--every", "24h", "--alert-over", "1h"]);
    let [first, second] = &all["drills"].as_array().unwrap()[..] else { panic!("{all}") };
    assert_eq!((first["evidence"]["by"][0].as_str(), &all["gaps"]), (Some("alice"), &json!([])));
    assert_eq!((&first["state"], &second["state"]), (&"resumed".into(), &"resumed".into()));
    assert_eq!(all["unfinished"], json!([]));

    // The log is younger than the period, and what nobody ever drilled is missing from its beginning on.
    report(0, &["--since", "90d", "--every", "24h"]);
    let late = report(1, &["--since", "90d", "--every", "1ms"]);
    let gap = &late["gaps"][0];
    assert_eq!((&gap["scope"], &gap["to_ms"]), (&CANARY.into(), &first["stop"]["time_ms"]));
    assert!(gap["from_ms"].as_u64() > late["since_ms"].as_u64(), "{late}");
    let never = report(1, &["support/never", "--every", "1ms"]);
    assert_eq!((&never["drills"], &never["gaps"][0]["scope"]), (&json!([]), &json!("support/never")));
    let none = report(0, &["--since", "2100-01-01T00:00:00Z", "--alert-over", "1ms"]);
    assert_eq!((&none["drills"], &none["worst_ms"]), (&json!([]), &Value::Null));
    let slow = deployment.run(&["drill", "report", "--alert-over", "1ms"]).exits(1);
    let finding = format!("the slowest confirmation took {} ms, over 1 ms", first["slowest_ms"]);
    assert!(slow.stdout.contains(&finding), "{slow:?}");

    // The page has the lines with which an outsider verifies the newest of them.
    let (backup, page) = (deployment.folder().join("backup"), deployment.folder().join("page.html"));
    let (backup_path, page_path) = (backup.to_str().unwrap(), page.to_str().unwrap());
    deployment.run(&["backup", "--out", backup_path]).exits(0);
    let of_copy = report(0, &["--dir", backup_path, "--html", page_path]);
    assert_eq!(of_copy["drills"], all["drills"]);
    let page_text = std::fs::read_to_string(&page).unwrap();
    let lines =
        page_text.split("<pre>").find_map(|pre| pre.split("</pre>").next().filter(|p| p.starts_with("jq ")));
    let lines = lines.expect("lines to type").replace("&#39;", "'").replace("&gt;", ">").replace("&lt;", "<");
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("report.json"), of_copy.to_string()).unwrap();
    let verified =
        Ran::of(Command::new("bash").args(["-e", "-c", &lines]).current_dir(outside.path())).exits(0);
    assert!(verified.stdout.contains("Good \"tagout-drill\" signature for alice"), "{verified:?}");

    // S9: of a copy that says something else, nothing is reported.
    let size = of_copy["log_size"].as_u64().unwrap();
    let bundle = backup.join(format!("tile/entries/000.p/{size}"));
    let mut bytes = std::fs::read(&bundle).unwrap();
    let said = b"\"confirmed\":1,\"bounded\":0";
    let at = bytes.windows(said.len()).rposition(|window| window == said).expect("the newest drill");
    bytes[at + said.len() - 1] = b'1';
    std::fs::remove_file(&bundle).unwrap();
    std::fs::write(&bundle, bytes).unwrap();
    std::fs::remove_file(&page).unwrap();
    let forged = deployment.run(&["drill", "report", "--dir", backup_path, "--html", page_path]).exits(7);
    assert!(forged.stderr.starts_with("error: entry ") && !page.exists(), "{forged:?}");
}

/// Whoever may not read a scope hears of no drill of it.
fn seen_by(runtime: &Runtime, deployment: &Deployment, [support, elsewhere]: [ApiToken; 2]) {
    let http = deployment.bare_http();
    let get = |token: &ApiToken, path: &str| {
        runtime.block_on(async {
            let asked = http.get(deployment.url(path)).bearer_auth(token.reveal());
            let answer = asked.send().await.unwrap();
            (answer.status(), answer.json::<Value>().await.unwrap())
        })
    };
    let of_canary = format!("/v1/drills?scope={CANARY}");
    for path in ["/v1/drills", &of_canary] {
        let (status, body) = get(&support, path);
        assert_eq!((status, &body["drills"][0]["scope"]), (StatusCode::OK, &CANARY.into()), "{body}");
    }
    let (status, body) = get(&elsewhere, "/v1/drills");
    assert_eq!((status, &body["drills"]), (StatusCode::OK, &json!([])), "{body}");
    let (status, body) = get(&elsewhere, &of_canary);
    assert_eq!((status, &body["code"]), (StatusCode::FORBIDDEN, &"outside-scopes".into()), "{body}");
}

#[test]
fn s8_three_nodes_have_the_same_evidence() {
    let three = Three::start();
    let (runtime, deployment) = (runtime(), &three.deployment);
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "support").await;
        deployment.sdk(&three.url(2, ""))
    });
    let guard = client.guard(CANARY).unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    // The CLI asks another node than the guard does.
    let asked = three.url(1, "");
    let drill = ["--node", &asked, "drill", CANARY, "--reason", "monthly", "--yes", "--json"];
    let done = deployment.run_by_both(&drill).json();
    let index = done["drill"]["index"].as_u64().unwrap();
    let mut all = Vec::new();
    for node in 0..3 {
        let url = three.url(node, "");
        let shown =
            deployment.run(&["--node", &url, "log", "show", &index.to_string(), "--raw"]).exits(0).raw;
        let drills = wait_for("the node to have applied it", || {
            let answer: Value = runtime.block_on(async {
                let asked = deployment.http().get(three.url(node, "/v1/drills"));
                asked.send().await.unwrap().json().await.unwrap()
            });
            (answer["drills"] != json!([])).then_some(answer)
        });
        deployment.run(&["--node", &url, "log", "verify", "--from-start"]).exits(0);
        all.push((shown, drills));
    }
    let entry = Entry::decode(&all[0].0).unwrap();
    assert_eq!((entry.kind, entry.index), (EntryKind::Drill, index));
    assert_eq!(entry.envelope.document, done["drill"]["document"].as_str().unwrap());
    assert_eq!(all[0].1["drills"][0]["index"], index);
    assert!(all.iter().all(|node| *node == all[0]), "{all:?}");
}

/// What is typed and read.
#[test]
fn s2_s5_s8_drills_by_two_and_by_one() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let guard = runtime.block_on(async {
        deployment.grant(&deployment.http(), "support").await;
        let client = Client::builder().profile_file(deployment.profile()).instance("pod-7").build().unwrap();
        client.guard(CANARY).unwrap()
    });
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    listening(&runtime, &deployment);
    let mut session = Session::of(&deployment, "drill.txt", "Drills", "tests/drills.rs");
    let both = ["--key", "keys/alice", "--key", "keys/bob"];
    let drill = ["drill", CANARY, "--reason", "monthly", "--yes"];

    session.says("Alice and Bob sign what stops the canary, what brings it back, and what that showed.");
    let call = slow(&guard);
    session.runs(&[&drill[..], &both].concat(), 0);
    call.join().unwrap();
    wait_until("the canary to be back", || guard.check().is_ok());
    session.runs(&["drill", "report"], 0);

    session.says("Another month Alice is alone. She wants to know if the canary takes longer than a millisecond, which it does.");
    let call = slow(&guard);
    session.runs(&[&drill[..], &["--key", "keys/alice"]].concat(), 8);
    call.join().unwrap();
    let open = deployment.run(&["proposals", "--json"]).exits(0).json();
    let ids: Vec<_> =
        open["proposals"].as_array().unwrap().iter().map(|p| &p["id"].as_str().unwrap()[..12]).collect();
    let lock = deployment.run(&["status", CANARY, "--json"]).exits(0).json();
    let lock = &lock["lock_records"][0]["id"].as_str().unwrap()[..12];
    session.runs(&["drill", "finish", lock, "--key", "keys/alice"], 4);
    session.runs(&["proposals", "sign", ids[0], ids[1], "--key", "keys/bob"], 0);
    wait_until("the canary to be back", || guard.check().is_ok());
    session.runs(&["drill", "finish", lock, "--alert-over", "1ms", "--key", "keys/alice"], 1);

    session.says("An auditor reads the report, with what was promised.");
    session.runs(
        &["drill", "report", CANARY, "--every", "24h", "--alert-over", "1ms", "--html", "drills.html"],
        1,
    );
    session.runs(&["log", "show", "--last", "13"], 0);
    session.compare();
}

/// A call that takes some milliseconds to end when it is cut.
fn slow(guard: &Guard) -> std::thread::JoinHandle<()> {
    let (call, guard) = (slow_call(guard), guard.clone());
    std::thread::spawn(move || {
        wait_until("the canary to be stopped", || guard.check().is_err());
        std::thread::sleep(Duration::from_millis(5));
        drop(call);
    })
}
