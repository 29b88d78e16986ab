//! Notifications under fire: real receivers that are down, slow, failing, picky or gone. Nothing is lost and nothing is held up
//! by them, each receiver is told in the log's order, and one entry has one id from whichever node.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::{Value, json};
use tagout_proto::command::{Action, LockCommand};
use tagout_proto::envelope::Envelope;
use tagout_proto::lock::LockKind;
use tagout_proto::wire::CommandAnswer;
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, parse, runtime, try_submit};
use tagout_tests::ran::Ran;
use tagout_tests::receiver::{Answer, Receiver, Told, configure, entry};
use tagout_tests::session::Session;
use tagout_tests::three::Three;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};
use tagout_tests::webhook::{self, BY_SEVERITY, Hook, Request};
use tokio::runtime::Runtime;

/// Everything in it, one after the other.
fn in_order(entries: &[u64]) -> bool {
    entries.windows(2).all(|pair| pair[0] < pair[1])
}

/// Whether openssl takes the Ed25519 signature for one of the key with this public half.
fn openssl_verifies(told: &Told, public: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let raw = data_encoding::BASE64.decode(public.trim().strip_prefix("whpk_").unwrap().as_bytes()).unwrap();
    // RFC 8410: what stands before the 32 bytes of every such key.
    let der = [&data_encoding::HEXLOWER.decode(b"302a300506032b6570032100").unwrap()[..], &raw].concat();
    let signature = told.header("webhook-signature").strip_prefix("v1a,").expect("an Ed25519 signature");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let content = format!("{}.{}.{}", told.id(), told.header("webhook-timestamp"), told.body);
    let verified = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin", "-inkey"])
        .arg(file("key.der", &der))
        .arg("-sigfile")
        .arg(file("signature", &data_encoding::BASE64.decode(signature.as_bytes()).unwrap()))
        .arg("-in")
        .arg(file("content", content.as_bytes()))
        .output()
        .unwrap();
    verified.status.success()
}

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn start(receivers: &str) -> Self {
        let mut deployment = Deployment::make(Choice::default());
        configure(&deployment, 1, receivers);
        deployment.start_node();
        let world = Self { deployment, runtime: runtime() };
        world.deployment.run_by_both(&["grant", "demo", "--for", "2h", "--reason", "r"]);
        world
    }

    fn submit(&self, action: &Action) -> CommandAnswer {
        let (envelope, http) = (self.deployment.envelope(&["alice"], action), self.deployment.http());
        self.runtime.block_on(self.deployment.submit(&http, &envelope)).unwrap_or_else(|p| panic!("{p:?}"))
    }

    fn stop(&self, scope: &str) -> CommandAnswer {
        self.submit(&lock(scope, LockKind::Halt))
    }

    fn listed(&self, receiver: &str) -> Value {
        let listed = self.deployment.run(&["notifications", "--json"]).exits(0).json();
        let mut all = listed["receivers"].as_array().unwrap().iter();
        all.find(|listed| listed["name"] == receiver).unwrap_or_else(|| panic!("{listed}")).clone()
    }

    fn metrics(&self) -> String {
        self.runtime.block_on(async {
            let answer = self.deployment.http().get(self.deployment.url("/metrics")).send().await.unwrap();
            answer.text().await.unwrap()
        })
    }
}

fn lock(scope: &str, kind: LockKind) -> Action {
    let (scope, reason, case) = (parse(scope), "policy violation 4.1".into(), Some("INC-4711".into()));
    Action::Lock(LockCommand { scope, kind, reason, case })
}

#[test]
fn s8_s10_receivers_that_fail_lose_nothing_and_hold_up_nobody() {
    let good = Receiver::start();
    let mut down = Receiver::down();
    let hangs = Receiver::answering(|_| Answer::Hang);
    let fails = Arc::new(AtomicU32::new(2));
    let failing = Receiver::answering({
        let fails = fails.clone();
        move |_| {
            let left = fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.map_or(Answer::Take, |_| Answer::Refuse(500))
        }
    });
    let asked = AtomicBool::new(false);
    let busy = Receiver::answering(move |_| {
        if asked.swap(true, Ordering::Relaxed) { Answer::Take } else { Answer::RetryAfter(2) }
    });
    let picky = Receiver::answering(|body| {
        if body["type"] == "tagout.isolate" { Answer::Refuse(422) } else { Answer::Take }
    });
    let gone = Receiver::answering(|_| Answer::Refuse(410));
    let short = Receiver::answering(|body| {
        if body["type"] == "tagout.isolate" { Answer::Refuse(503) } else { Answer::Take }
    });
    let logged = "events = ['tightening', 'loosening', 'outcome', 'proposal', 'authority']";
    let receivers = [
        entry("good", &good.url(), "from = 'beginning'"),
        entry("down", &down.url(), logged),
        entry("hangs", &hangs.url(), logged),
        entry("failing", &failing.url(), logged),
        entry("busy", &busy.url(), logged),
        entry("picky", &picky.url(), logged),
        entry("gone", &gone.url(), logged),
        entry("short", &short.url(), &format!("{logged}\ngive_up_after = '1ms'")),
        entry("other", &good.url(), "scopes = ['elsewhere']\nevents = ['outcome']"),
    ];
    let mut world = World::start(&receivers.concat());
    let client = tagout::Client::builder().profile_file(world.deployment.profile()).build().unwrap();
    let guard = client.guard("demo/agent_2").unwrap();
    world.runtime.block_on(guard.ready(DEADLINE)).unwrap();

    // A stop is acknowledged and reaches its guard while receivers hang, fail and are not there.
    let stop = world.stop("demo/agent_2");
    wait_until("the guard to be stopped", || guard.check().is_err());
    let isolate = world.submit(&lock("demo/agent_3", LockKind::Isolate));
    let restrict = world.submit(&lock("demo/agent_4", LockKind::Restrict));

    // The first event that `good` is told of is the genesis, and it is told of everything since.
    let told = good.hears("tagout.stop");
    let expected = format!("evt_{}_{}", stop.index, stop.digest.short());
    assert_eq!((told.id(), told.header("content-type")), (expected.as_str(), "application/json"));
    let body = told.json();
    assert_eq!(
        (&body["data"]["scope"], &body["data"]["by"], &body["data"]["case"], &body["data"]["index"]),
        (&json!("demo/agent_2"), &json!(["alice"]), &json!("INC-4711"), &json!(stop.index))
    );
    let key = world.deployment.dir().join("node-1/notify.key").display().to_string();
    let public = world.deployment.run(&["notifications", "key", &key]).exits(0).stdout;
    assert!(openssl_verifies(&told, &public), "openssl does not verify it");
    let forged = Told { body: told.body.replace("agent_2", "agent_9"), ..told.clone() };
    assert!(!openssl_verifies(&forged, &public), "and would not notice another body");
    let outcome = wait_for("the outcome of the stop", || {
        let all = good.taken().into_iter().map(|told| told.json());
        all.into_iter().find(|body| body["data"]["details"]["lock"] == json!(stop.digest))
    });
    assert_eq!(
        (&outcome["type"], &outcome["data"]["scope"]),
        (&json!("tagout.outcome"), &json!("demo/agent_2"))
    );
    wait_until("good to be told of the rest", || good.entries().contains(&restrict.index));
    let entries = good.entries();
    assert!(entries[0] == 0 && in_order(&entries), "{entries:?}");
    assert_eq!(good.taken()[0].json()["type"], "tagout.authority");

    // Failures and pauses: the same ids again, in order, nothing left out. Its new ones begin at the end of the log.
    for receiver in [&failing, &busy] {
        wait_until("it to be told of all", || receiver.entries().contains(&restrict.index));
        let entries = receiver.entries();
        assert!(in_order(&entries) && !entries.contains(&0), "{entries:?}");
        assert!([stop.index, isolate.index].iter().all(|index| entries.contains(index)), "{entries:?}");
        let first = receiver.told()[0].clone();
        let again = receiver.told().into_iter().find(|told| told.taken).unwrap();
        assert_eq!(
            (first.id(), first.taken, &first.body),
            (again.id(), false, &again.body),
            "the head of the line waits"
        );
    }
    assert_eq!(fails.load(Ordering::Relaxed), 0);

    // What one does not want is a dead letter, and the rest goes on.
    wait_until("picky to be told of the rest", || picky.entries().contains(&restrict.index));
    let dead = world.listed("picky")["dead_letters"].clone();
    let id = format!("evt_{}_{}", isolate.index, isolate.digest.short());
    assert_eq!(
        (&dead[0]["id"], &dead[0]["attempts"], &dead[1]),
        (&json!(id), &json!(1), &Value::Null),
        "{dead}"
    );
    assert!(
        dead[0]["error"].as_str().unwrap().contains("422")
            && dead[0]["error"].as_str().unwrap().contains("no, thank you"),
        "{dead}"
    );
    picky.answer(|_| Answer::Take);
    let said = world.deployment.run(&["notifications", "replay", "picky", &id]).exits(0);
    assert_eq!(
        said.stdout.trim(),
        "1 notification about to be sent again to picky: `tagout notifications` shows what becomes of it"
    );
    assert_eq!(picky.hears("tagout.isolate").entry(), Some(isolate.index));
    wait_until("no dead letter to be left", || world.listed("picky")["dead_letters"] == json!([]));
    // Also what was delivered long ago.
    let before = picky.told().len();
    let id_of_stop = format!("evt_{}_{}", stop.index, stop.digest.short());
    world.deployment.run(&["notifications", "replay", "picky", &id_of_stop]).exits(0);
    wait_until("the stop once more", || picky.told()[before..].iter().any(|told| told.id() == id_of_stop));
    let other_digest = format!("evt_{}_000000000000", stop.index);
    let written_otherwise = format!("evt_0{}_{}", stop.index, stop.digest.short());
    for unknown in ["evt_999999_000000000000", "x", &other_digest, &written_otherwise] {
        let failure = world.deployment.run(&["notifications", "replay", "picky", unknown]);
        let said = failure.stderr.contains("neither a dead letter");
        assert!(failure.code == Some(3) && said, "{failure:?}");
    }
    assert_eq!(world.listed("picky")["dead_letters"], json!([]));
    let failure = world.deployment.run(&["notifications", "replay", "nobody", "--all"]);
    assert!(failure.stderr.contains("no receiver of that name"), "{failure:?}");

    // What could not be delivered for too long is one, too.
    wait_until("short to be told of the rest", || short.entries().contains(&restrict.index));
    let dead = world.listed("short")["dead_letters"].clone();
    assert_eq!((&dead[0]["id"], dead[0]["attempts"].as_u64().unwrap() > 1), (&json!(id), true), "{dead}");

    // Gone is gone until somebody resumes it, and nothing is lost.
    wait_until("gone to be disabled", || world.listed("gone")["disabled"] != Value::Null);
    assert_eq!(gone.told().len(), 1);
    let shown = world.deployment.run(&["notifications"]).exits(0).stdout;
    assert!(
        shown.contains(
            "DISABLED: it wants no more (410 Gone: no, thank you): tagout notifications resume gone"
        ),
        "{shown}"
    );
    assert!(world.metrics().contains("tagout_notifications_disabled{receiver=\"gone\"} 1"));
    gone.answer(|_| Answer::Take);
    world.deployment.run(&["notifications", "resume", "gone"]).exits(0);
    wait_until("gone to be told of all", || gone.entries().contains(&restrict.index));
    assert!(in_order(&gone.entries()) && gone.entries().contains(&stop.index), "{:?}", gone.entries());

    // A restart: who was not there yet, and who hung, is told from where it was.
    assert!(down.told().is_empty() && hangs.taken().is_empty());
    wait_until("the cursors to be saved", || {
        let saved =
            std::fs::read_to_string(world.deployment.data().join("notifications.json")).unwrap_or_default();
        let saved: Value = serde_json::from_str(&saved).unwrap_or_default();
        saved["good"]["cursor"].as_u64() > Some(restrict.index)
            && saved["gone"]["cursor"].as_u64() > Some(restrict.index)
    });
    world.deployment.kill_node();
    hangs.answer(|_| Answer::Take);
    let before = good.told().len();
    world.deployment.start_node();
    down.listen();
    let last = world.stop("demo/agent_5");
    for receiver in [&good, &down, &hangs] {
        wait_until("the last stop", || receiver.entries().contains(&last.index));
        let entries = receiver.entries();
        assert!(
            in_order(&entries) && entries.contains(&stop.index) && entries.contains(&isolate.index),
            "{entries:?}"
        );
    }
    let told = good.told();
    let doubles =
        told[before..].iter().filter(|told| told.entry().is_some_and(|entry| entry <= restrict.index));
    assert_eq!(doubles.count(), 0, "it goes on at its cursor");

    // What no log has: consent that ends soon, and attempts that were refused.
    let terms = ["--essential", "handover"]; // which no other grant has
    world
        .deployment
        .run_by_both(&[&["grant", "demo/agent_6", "--for", "30m", "--reason", "r"], &terms[..]].concat());
    let told = wait_for("the end of consent", || {
        let mut told = good.taken().into_iter().filter(|told| told.json()["type"] == "tagout.expiry.grant");
        told.find(|told| told.json()["data"]["scope"] == "demo/agent_6")
    });
    assert!(told.id().starts_with("exp_") && told.id().ends_with("_1h"), "{}", told.id());
    let by_stranger = world.deployment.envelope(&["stranger"], &lock("demo/agent_2", LockKind::Halt));
    let http = world.deployment.http();
    world.runtime.block_on(world.deployment.submit(&http, &by_stranger)).unwrap_err();
    let told = good.hears("tagout.security.refused");
    assert_eq!(
        (&told.json()["data"]["details"]["code"], &told.json()["data"]["digest"]),
        (&json!("no-valid-signature"), &json!(by_stranger.digest()))
    );

    // A test is answered by the receiver itself.
    let test = world.deployment.run(&["notifications", "test", "good"]).exits(0);
    assert!(
        test.stdout.starts_with("good took tst_") && test.stdout.contains("201 Created: taken"),
        "{test:?}"
    );
    picky.answer(|_| Answer::Refuse(403));
    let test = world.deployment.run(&["notifications", "test", "picky"]).exits(1);
    assert!(test.stdout.contains("picky did not take tst_") && test.stdout.contains("403"), "{test:?}");
    let nothing = good.taken().into_iter().filter(|told| told.json()["data"]["scope"] == "elsewhere");
    assert_eq!(nothing.count(), 0);
    assert!(world.metrics().contains("tagout_notifications_sent_total{receiver=\"good\"}"));
}

/// Places a stop at whichever node takes it, and gives its entry.
fn stop_at_any(three: &Three, runtime: &Runtime, stop: &Envelope) -> u64 {
    let http = three.deployment.http();
    wait_for("a node to take the stop", || {
        (0..3).find_map(|node| {
            let answer = runtime.block_on(try_submit(&http, &three.url(node, "/v1/commands"), stop));
            Some(answer.ok()?.ok()?.index)
        })
    })
}

#[test]
fn s8_a_leader_that_is_killed_is_followed_at_its_cursor_with_the_same_ids() {
    const STOPS: usize = 40;
    // Each takes its time, so that the leader has much to tell when it dies.
    let receiver = Receiver::answering(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        Answer::Take
    });
    let picky = Receiver::answering(|body| {
        if body["data"]["scope"] == "demo/0" { Answer::Refuse(400) } else { Answer::Take }
    });
    let receivers = [
        entry("soc", &receiver.url(), "events = ['tightening']"),
        entry("picky", &picky.url(), "events = ['tightening']"),
    ];
    let mut three = Three::start_with(|deployment| configure(deployment, 3, &receivers.concat()));
    let runtime = runtime();
    let stops: Vec<Envelope> = (0..STOPS).map(|n| three.deployment.stop(&format!("demo/{n}"))).collect();
    let mut placed: BTreeMap<u64, String> = BTreeMap::new();
    let leader = three.leader();
    for stop in &stops[..STOPS / 2] {
        placed.insert(stop_at_any(&three, &runtime, stop), stop.digest().short());
    }
    wait_until("the leader to have told some", || receiver.taken().len() >= 3);
    // What every node says, whoever leads, the new leader included.
    let dead = |three: &Three, node: usize| {
        let url = three.url(node, "");
        let listed = three.deployment.run(&["--node", &url, "notifications", "--json"]).exits(0).json();
        listed["receivers"][1]["dead_letters"].clone()
    };
    for node in 0..3 {
        wait_until("the dead letter to be known everywhere", || dead(&three, node)[0]["attempts"] == 1);
    }
    three.kill_one(leader);
    for stop in &stops[STOPS / 2..] {
        placed.insert(stop_at_any(&three, &runtime, stop), stop.digest().short());
    }
    wait_until("all to be told", || receiver.taken().len() == STOPS);
    let expected: Vec<String> =
        placed.iter().map(|(index, digest)| format!("evt_{index}_{digest}")).collect();
    let ids: Vec<String> = receiver.taken().iter().map(|told| told.id().to_owned()).collect();
    assert_eq!(ids, expected, "each of them, in order, by the id that follows from its entry");

    // The dead letter outlived its leader, and is replayed by the one that came after, asked at whichever node.
    let node = (0..3).find(|node| *node != leader).unwrap();
    assert_eq!(dead(&three, node)[0]["attempts"], 1);
    picky.answer(|_| Answer::Take);
    let url = three.url(node, "");
    three.deployment.run(&["--node", &url, "notifications", "replay", "picky", "--all"]).exits(0);
    wait_until("the dead letter", || {
        picky.taken().iter().any(|told| told.json()["data"]["scope"] == "demo/0")
    });
    wait_until("it to be gone", || dead(&three, node) == json!([]));
}

/// Listens on UDP, TCP and TLS as the RFCs have it, and prints of each message how it came, what stood before it, and what
/// it says. It knows nothing of ours.
const SYSLOG: &str = r#"
import json, re, socket, ssl, sys, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("127.0.0.1", 0))
def listening():
    s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); return s
tcp, plain = listening(), listening()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(sys.argv[1], sys.argv[2])
tls = context.wrap_socket(plain, server_side=True)
print(udp.getsockname()[1], tcp.getsockname()[1], tls.getsockname()[1], flush=True)
lock = threading.Lock()
def message(how, data):
    head = re.match(rb"<(\d{1,3})>1 (\S+Z) (\S+) tagout - (\S+) - ", data)
    event = json.loads(data[head.end():])
    with lock:
        print(json.dumps({"how": how, "pri": int(head[1]), "host": head[3].decode(), "msgid": head[4].decode(), "event": event}), flush=True)
def stream(how, listener):
    while True:
        try: connection, _ = listener.accept()
        except OSError: continue
        file = connection.makefile("rb")
        while True:
            count = b""
            while (byte := file.read(1)) not in (b" ", b""): count += byte
            if not byte: break
            message(how, file.read(int(count)))
for how, listener in (("tcp", tcp), ("tls", tls)):
    threading.Thread(target=stream, args=(how, listener), daemon=True).start()
while True: message("udp", udp.recv(65535))
"#;

#[test]
fn a_siem_is_told_by_file_and_by_syslog_over_udp_tcp_and_tls() {
    let mut deployment = Deployment::make(Choice::default());
    let node = deployment.dir().join("node-1");
    let config: Value = toml::from_str::<toml::Value>(&std::fs::read_to_string(deployment.config()).unwrap())
        .map(|config| serde_json::to_value(config).unwrap())
        .unwrap();
    let path = |key: &str| node.join(config[key].as_str().unwrap());
    let mut listener = Command::new("python3");
    listener.args(["-c", SYSLOG]).arg(path("tls_cert")).arg(path("tls_key")).stdout(Stdio::piped());
    let mut listener = listener.spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let ports = lines.next().unwrap().unwrap();
    let [udp, tcp, tls] = ports.split(' ').collect::<Vec<_>>()[..] else { panic!("{ports}") };
    let ca = deployment.dir().join("ca.pem").display().to_string();
    let events = "events = ['tightening', 'outcome']";
    let receivers = format!(
        "[[siem]]\nname = 'file'\nfile = 'ocsf.jsonl'\n{events}\n\
         [[siem]]\nname = 'udp'\nsyslog = 'udp://127.0.0.1:{udp}'\n{events}\n\
         [[siem]]\nname = 'tcp'\nsyslog = 'tcp://127.0.0.1:{tcp}'\n{events}\n\
         [[siem]]\nname = 'tls'\nsyslog = 'tls://127.0.0.1:{tls}'\nca = '{ca}'\n{events}\n"
    );
    configure(&deployment, 1, &receivers);
    deployment.start_node();
    let http = deployment.http();
    let stop = runtime().block_on(async {
        let action = lock("demo/agent_2", LockKind::Halt);
        deployment.submit(&http, &deployment.envelope(&["alice"], &action)).await.unwrap()
    });

    let mut heard: Vec<Value> = Vec::new();
    while heard.len() < 6 {
        heard.push(serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap());
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
    let id = format!("evt_{}_{}", stop.index, stop.digest.short());
    for how in ["udp", "tcp", "tls"] {
        let of: Vec<_> = heard.iter().filter(|message| message["how"] == how).collect();
        assert_eq!(of.len(), 2, "{heard:?}");
        assert_eq!(
            (&of[0]["msgid"], &of[0]["pri"], &of[0]["event"]["metadata"]["uid"], &of[1]["msgid"]),
            (&json!("tagout.stop"), &json!(13 * 8 + 3), &json!(id), &json!("tagout.outcome"))
        );
    }
    let file = node.join("ocsf.jsonl");
    wait_until("the outcome in the file", || {
        std::fs::read_to_string(&file).unwrap_or_default().contains("tagout.outcome")
    });
    // By python's own JSON: a document on every line.
    let read = "import json,sys; [print(json.loads(l)['type_uid'], json.loads(l)['metadata']['uid']) for l in open(sys.argv[1])]";
    let ran = Ran::of(Command::new("python3").args(["-c", read]).arg(&file)).exits(0);
    assert!(ran.stdout.starts_with(&format!("300412 {id}\n300499 evt_")), "{}", ran.stdout);
}

#[test]
fn what_is_wrong_with_the_file_of_receivers_is_said_at_the_start() {
    let deployment = Deployment::make(Choice::default());
    let folder = deployment.dir().join("node-1");
    configure(&deployment, 1, "");
    for (name, text) in [
        ("bad.key", "whsk_AAAA"),
        ("public.key", "whpk_AAAA"),
        ("bad.headers", "no header"),
        ("own.headers", "webhook-id: x"),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let good = "https://soar.example/hooks";
    let bare = |more: &str| format!("[[receiver]]\nname = 'soc'\n{more}");
    let cases = [
        (bare("sign = ['notify.key']"), "say \"url\", or \"url_file\""),
        (entry("soc", "http://soar.example/", ""), "http is for this machine alone"),
        (entry("soc", "ftp://127.0.0.1/", ""), "http is for this machine alone"),
        (entry("soc", "https://me:secret@soar.example/", ""), "authorization_file"),
        (entry("soc", "soar.example", ""), "write https://HOST/PATH"),
        (entry("Soc!", good, ""), "a-z 0-9 . _ -"),
        (entry("soc", good, "").repeat(2), "another one has this name"),
        (entry("soc", good, "events = []"), "names at least one"),
        (entry("soc", good, "events = ['stops']"), "unknown variant `stops`"),
        (entry("soc", good, "scopes = ['a//b']"), "scope"),
        (entry("soc", good, "scopes = ['demo']\nevents = ['security']"), "is of the whole fleet"),
        (entry("soc", good, "format = 'pagerduty'"), "unknown variant `pagerduty`"),
        (entry("soc", good, "format = 'jira'"), "needs \"project\""),
        (entry("soc", good, "project = 'SEC'"), "are for the format jira"),
        (entry("soc", good, "give_up_after = 'soon'"), "write it as 30m or 24h"),
        (entry("soc", good, "give_up_after = '90d'"), "at most 30 days"),
        (entry("soc", good, "from = 'middle'"), "unknown variant `middle`"),
        (entry("soc", good, "secret = 'x'"), "unknown field"),
        (entry("soc", good, "headers_file = 'bad.headers'"), "\"Name: value\""),
        (entry("soc", good, "headers_file = 'own.headers'"), "the node's own"),
        (entry("soc", good, "authorization_file = 'none'"), "cannot read"),
        (bare(&format!("url = '{good}'")), "tagout notifications key FILE"),
        (bare(&format!("url = '{good}'\nsign = ['bad.key']")), "32 bytes before base64"),
        (bare(&format!("url = '{good}'\nsign = ['public.key']")), "begins with neither whsk_"),
        ("link = 'https://console.example/proposals'".into(), "template of a proposal's address"),
        ("[[siem]]\nname = 's'".into(), "say \"file\" or \"syslog\""),
        ("[[siem]]\nname = 's'\nsyslog = 'udp://host'".into(), "with the port said"),
        ("[[siem]]\nname = 's'\nsyslog = 'http://host:514'".into(), "udp://HOST:514"),
        ("[[siem]]\nname = 's'\nsyslog = 'udp://host:514'\nca = 'ca.pem'".into(), "for syslog over tls"),
        ("[[siem]]\nname = 's'\nfile = 'x'\nmax_mib = 0".into(), "\"max_mib\" is 1 to"),
        ("[[siem]]\nname = 's'\nfile = 'x'\nlevel = 3".into(), "unknown field"),
    ];
    for (text, said) in cases {
        std::fs::write(folder.join("notify.toml"), &text).unwrap();
        let mut serve = Command::new(bin::tagout());
        let ran = Ran::of(serve.arg("serve").arg("--config").arg(deployment.config()));
        assert!(ran.code == Some(1) && ran.stderr.contains(said), "{said}: {}\n{text}", ran.stderr);
        assert!(!ran.stderr.contains("secret@"), "{}", ran.stderr);
    }
}

/// What an analyst sees, from the alert to the agent's return: a security platform only takes away, and people give back.
#[test]
fn s7_a_soar_alert_throttles_isolates_and_opens_tickets_and_cannot_resume() {
    let jira = Receiver::start();
    let mut deployment = Deployment::make(Choice::default());
    let soc = format!("scopes = ['support']\nagents_per_hour = 3\n{BY_SEVERITY}");
    webhook::configure(&deployment, &[Hook("soc", "soar", &soc)]);
    let more =
        "format = 'jira'\nproject = 'SEC'\nissue_type = 'Incident'\nevents = ['tightening', 'proposal']";
    let text =
        format!("link = 'https://console.example/proposals/{{id}}'\n\n{}", entry("jira", &jira.url(), more));
    configure(&deployment, 1, &text);
    deployment.start_node();
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "support").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard("support/agent_22").unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();
    let mut session = Session::of(&deployment, "soar_alert.txt", "A SOAR alert", "tests/notifications.rs");
    let mut tickets = 0;
    let alert = |session: &mut Session<'_>, severity: &str| {
        let body = json!({"scope": "support/agent_22", "reason": "beaconing to a new domain", "case": "INC-4712", "severity": severity});
        let request = Request::new(&body);
        let post = deployment.http().post(deployment.url("/v1/webhooks/soc"));
        let answer: Value = runtime.block_on(async {
            post.headers(request.headers())
                .body(request.body.clone())
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap()
        });
        let (action, scope, index) = (&answer["action"], &answer["scope"], &answer["index"]);
        let line = format!("{} {} at entry {index}", action.as_str().unwrap(), scope.as_str().unwrap());
        session.shows(&format!("POST /v1/webhooks/soc severity={severity} case=INC-4712"), &[line]);
    };
    let mut ticket = |session: &mut Session<'_>| {
        tickets += 1;
        let told = wait_for("the ticket", || jira.taken().get(tickets - 1).cloned());
        session.shows("the ticket in Jira", &ticket_lines(&told));
    };

    session
        .says("An alert of medium severity throttles the agent; the case becomes worse, and it is isolated.");
    alert(&mut session, "medium");
    wait_until("the guard to be throttled", || guard.state().limits.calls_per_minute == Some(6));
    ticket(&mut session);
    alert(&mut session, "high");
    wait_until("the guard to be isolated", || guard.check().is_err());
    ticket(&mut session);

    session.says("The platform's own key gives nothing back.");
    let resume = ["resume", "support/agent_22", "--reason", "false alarm", "--key"];
    session.runs(&[&resume[..], &["keys/soar"]].concat(), 3);
    guard.check().unwrap_err();

    session.says("People do: Alice proposes what the ticket says, and the next ticket leads Bob to it.");
    wait_until("the outcome of the isolation", || {
        deployment.run(&["log", "show", "--last", "1"]).exits(0).stdout.contains("outcome of ")
    });
    session.runs(&[&resume[..], &["keys/alice"]].concat(), 8);
    ticket(&mut session);
    let listed = deployment.run(&["proposals", "--json"]).exits(0).json();
    let ids: Vec<String> = (listed["proposals"].as_array().unwrap().iter())
        .map(|proposal| proposal["id"].as_str().unwrap()[..12].to_owned())
        .collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    guard.check().unwrap_err();
    session.runs(&[&["proposals", "sign"][..], &ids, &["--key", "keys/bob"]].concat(), 0);
    wait_until("the agent to be back", || guard.check().is_ok());
    session.compare();
}

/// A ticket as people read it; its id and link without what differs from run to run.
fn ticket_lines(told: &Told) -> Vec<String> {
    let fields = &told.json()["fields"];
    let head = [
        ("project", &fields["project"]["key"]),
        ("type", &fields["issuetype"]["name"]),
        ("summary", &fields["summary"]),
    ];
    let mut lines: Vec<String> =
        head.iter().map(|(name, value)| format!("{name}: {}", value.as_str().unwrap())).collect();
    for block in fields["description"]["content"].as_array().unwrap() {
        let texts = block["content"].as_array().unwrap().iter().map(|inline| {
            let link = inline["marks"][0]["attrs"]["href"].as_str().map(|href| {
                let (before, id) = href.rsplit_once('/').unwrap();
                format!(" ({before}/ {id} )")
            });
            format!("{}{}", inline["text"].as_str().unwrap(), link.unwrap_or_default())
        });
        let line = texts.collect::<String>();
        lines.push(match line.split_once("evt_") {
            Some((before, id)) => format!("{before}evt_{}_<digest>", id.split_once('_').unwrap().0),
            None => line,
        });
    }
    lines
}
