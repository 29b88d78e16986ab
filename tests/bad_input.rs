//! Every refusal of the API, word for word: the status, the stable code, and the sentence that says what to do.
//!
//! `TAGOUT_BLESS=1` writes `golden/bad_input.txt` anew; read what changed as an operator would at three in the morning.

use std::fmt::Write as _;
use std::path::Path;

use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tagout_proto::command::{Action, Grant, Seen};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::{COMMAND_MAX_BYTES, KNOWN_PER_LEASE_MAX, SIGNATURES_MAX, STOP_MAX_BYTES};
use tagout_proto::lock::LockKind;
use tagout_proto::rule::Terms;
use tagout_proto::wire::{Problem, Status, StopReach};
use tagout_tests::deployment::{Choice, Deployment, parse, runtime, stop};
use tagout_tests::wait::wait_for;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/bad_input.txt");

#[test]
fn s8_every_refusal_says_what_to_do_and_leaves_the_log_as_it_was() {
    let deployment = Deployment::start(Choice::default());
    let http = deployment.http();
    let runtime = runtime();
    let golden = runtime.block_on(async {
        let locks = Locks::place(&deployment, &http).await;
        let size = log_size(&deployment, &http).await;
        let mut golden = String::from(
            "Refused requests, each with the status, the code and the sentence of its answer.\n\
             tests/bad_input.rs compares; TAGOUT_BLESS=1 writes this file anew.\n",
        );
        let mut attempts = 0;
        let cases = Cases::new(&deployment, &http).all(&locks);
        for Case { name, line, request, is_command } in cases {
            let answer = request.send().await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let status = answer.status().as_u16();
            let content_type = answer.headers().get("content-type").cloned();
            let body = answer.text().await.unwrap();
            assert_eq!(
                content_type.as_ref().and_then(|v| v.to_str().ok()),
                Some("application/problem+json"),
                "{name}: {status} {body}"
            );
            let problem: Problem =
                serde_json::from_str(&body).unwrap_or_else(|e| panic!("{name}: {e}: {body}"));
            assert_eq!(problem.status, status, "{name}");
            assert!(status >= 400 && !problem.title.is_empty(), "{name}: {problem:?}");
            assert_eq!(log_size(&deployment, &http).await, size, "{name} is in the log");
            if is_command {
                attempts += 1;
                noted(&deployment.data(), attempts, &problem, name);
            }
            let detail = normal(&problem.detail).replace('\n', "\n    ");
            write!(golden, "\n{name}\n  {line}\n  {status} {}\n    {detail}\n", problem.code).unwrap();
        }
        assert_eq!(security_log(&deployment.data()).len(), attempts, "what is no command is not in it");

        // What was refused has kept nobody from stopping.
        let answer =
            deployment.submit(&http, &deployment.stop("bad/afterwards")).await.expect("a valid stop");
        assert_eq!((answer.index, answer.repeated), (size, false));
        golden
    });
    let verified = deployment.cli(&["log", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    compare(&golden);
}

/// Locks in the states that commands can be wrong about.
struct Locks {
    held: Digest,
    paused: Digest,
    released: Digest,
    /// The stop that was released: used, for ever.
    used: Envelope,
}

impl Locks {
    async fn place(deployment: &Deployment, http: &Client) -> Self {
        let paused = deployment.envelope(&["alice"], &stop("bad/paused", LockKind::Pause));
        let (held, used) = (deployment.stop("bad/held"), deployment.stop("bad/released"));
        for envelope in [&held, &paused, &used] {
            deployment.submit(http, envelope).await.expect("a valid stop");
        }
        deployment
            .submit(http, &deployment.release("bad/released", &[used.digest()]))
            .await
            .expect("the release");
        // Once their outcomes are in the log it grows no more by itself.
        for envelope in [&held, &paused, &used] {
            let (path, mut version) = (format!("/v1/locks/{}/reach", envelope.digest()), 0);
            loop {
                let reach: StopReach = deployment.get(http, &format!("{path}?after={version}")).await;
                if reach.outcome_index.is_some() {
                    break;
                }
                version = reach.version;
            }
        }
        Self { held: held.digest(), paused: paused.digest(), released: used.digest(), used }
    }
}

struct Case {
    name: &'static str,
    line: String,
    request: RequestBuilder,
    /// Sent where commands are sent, so that the attempt belongs into the security log.
    is_command: bool,
}

struct Cases<'a> {
    deployment: &'a Deployment,
    http: &'a Client,
    list: Vec<Case>,
}

const COMMANDS: &str = "/v1/commands";
const SHUTDOWN: &str = "/agent/shutdown";

impl<'a> Cases<'a> {
    fn new(deployment: &'a Deployment, http: &'a Client) -> Self {
        Self { deployment, http, list: Vec::new() }
    }

    fn all(mut self, locks: &Locks) -> Vec<Case> {
        self.documents();
        self.signatures();
        self.states(locks);
        self.forms();
        self.reads();
        self.guards();
        self.list
    }

    fn documents(&mut self) {
        let with_reason = |bytes| self.stop_with(json!({"reason": "x".repeat(bytes)}));
        let (oversize_command, oversize_stop) = (with_reason(COMMAND_MAX_BYTES), with_reason(STOP_MAX_BYTES));
        self.command("a command of more than 32 KiB", &oversize_command);
        self.command("a stop of more than 4 KiB", &oversize_stop);
        let good = self.stop_with(json!({}));
        self.command("broken JSON", &good[..good.len() - 1]);
        self.command("no JSON at all", "stop bad/input");
        self.command("an empty document", "");
        self.command("not an object", "[]");
        self.command("a duplicate key", &good.replacen('{', r#"{"scope":"bad/other","#, 1));
        self.command("something after the document", &format!("{good}{good}"));
        let nested = format!("{}{}", "[".repeat(12), "]".repeat(12));
        self.command("deep nesting", &good.replacen('{', &format!(r#"{{"x":{nested},"#), 1));
        for (name, change) in [
            ("an unknown key", json!({"until": "tomorrow"})),
            ("a float", json!({"mode": "drain", "drain_ms": 1.5})),
            ("a drain without its time", json!({"mode": "drain"})),
            ("a drain of more than an hour", json!({"mode": "drain", "drain_ms": 3_600_001})),
            ("a time without a drain", json!({"drain_ms": 1000})),
            ("an unknown mode", json!({"mode": "kill"})),
            ("a mode that is no stop's", json!({"action": "isolate"})),
            ("an unknown action", json!({"action": "explode"})),
            ("an unknown format version", json!({"tagout": 2})),
            ("a scope with a dot segment", json!({"scope": "bad/../input"})),
            ("a scope with empty segments", json!({"scope": "/bad//input/"})),
            ("a scope with a space", json!({"scope": "bad input"})),
            ("a scope with a star in it", json!({"scope": "bad/*"})),
            ("a scope of nine segments", json!({"scope": "1/2/3/4/5/6/7/8/9"})),
            ("no reason", json!({"reason": null})),
            ("an empty reason", json!({"reason": ""})),
            ("a reason on two lines", json!({"reason": "one\ntwo"})),
            ("an id with spaces", json!({"id": "my stop"})),
            ("a date in local time", json!({"issued_at": "2026-11-22 15:00"})),
            ("a deployment without its genesis", json!({"deployment": "test"})),
            ("another deployment", json!({"deployment": format!("test:{}", Digest::default())})),
        ] {
            let document = self.stop_with(change);
            self.command(name, &document);
        }
        let unnamed = self.stop_with(json!({"mode": null}));
        self.command("the short form where commands are sent", &unnamed);
        let agent_id = self.stop_with(json!({"scope": null, "agent_id": "bad/input"}));
        self.command("agent_id where commands are sent", &agent_id);
        let both = self.stop_with(json!({"agent_id": "bad/input"}));
        self.post("scope and agent_id in one document", SHUTDOWN, &both, &["alice"]);
        let bytes = Form::new().part("command", Part::bytes(vec![0xff, 0xfe]));
        self.form("a document that is not UTF-8", COMMANDS, bytes);
    }

    fn signatures(&mut self) {
        let good = self.stop_with(json!({}));
        self.post("unsigned", COMMANDS, &good, &[]);
        self.post("signed by a stranger", COMMANDS, &good, &["stranger"]);
        self.post("signed by a root key", COMMANDS, &good, &["root"]);
        let for_file = self.deployment.signer("alice").sign("file", good.as_bytes()).expect("a signature");
        self.signed_as("signed for another namespace", &good, &[&for_file]);
        let with_newline = self.signature("alice", &format!("{good}\n"));
        self.signed_as("a newline that was lost on the way", &good, &[&with_newline]);
        let of_other = self.signature("alice", &self.stop_with(json!({"id": "other"})));
        self.signed_as("the signature of another stop", &good, &[&of_other]);
        self.signed_as("no signature in its part", &good, &["alice"]);
        let own = self.signature("alice", &good);
        self.signed_as("a signature cut short", &good, &[&own[..own.len() / 2]]);
        self.signed_as("a signature of more than 1 KiB", &good, &[&"x".repeat(1025)]);
        let many = vec![own.as_str(); SIGNATURES_MAX + 1];
        self.signed_as("more signatures than may be", &good, &many);
    }

    fn states(&mut self, locks: &Locks) {
        let Locks { held, paused, released, used } = locks;
        self.envelope("a released stop, replayed", used);
        let release = |scope: &str, lock: &Digest| self.deployment.release(scope, &[*lock]);
        let start = |scope: &str, lock: &Digest| self.deployment.start_of(scope, &[*lock]);
        let cases = [
            ("a start before the release", start("bad/held", held)),
            ("a start of a pause", start("bad/paused", paused)),
            ("a start of another scope", start("bad/elsewhere", released)),
            ("a start of an unknown lock", start("bad/held", &Digest([7; 32]))),
            ("a release of what is no lock", release("bad/held", &self.deployment.name.genesis)),
            ("a release from outside", release("bad/elsewhere", held)),
            ("a second release", release("bad/released", released)),
        ];
        for (name, envelope) in &cases {
            self.envelope(name, envelope);
        }
        let release = release("bad/held", held).document;
        self.post("a release by one of two people", COMMANDS, &release, &["alice"]);
        self.post("a release by one person, twice", COMMANDS, &release, &["bob", "bob"]);
        self.post("a release by automation", COMMANDS, &release, &["soar"]);
        self.post("a release by a person and automation", COMMANDS, &release, &["alice", "soar"]);
        self.post("a release as a shutdown", SHUTDOWN, &release, &["alice", "bob"]);
        let doubled = release.replacen('[', &format!("[\"{held}\","), 1);
        self.post("a release that names a lock twice", COMMANDS, &doubled, &["alice", "bob"]);
        let short = release.replace(&held.to_string(), &held.short());
        self.post("a release by the short id", COMMANDS, &short, &["alice", "bob"]);
        let epoch = self.deployment.name.genesis;
        let grant = |epoch, size, expires_at_ms| {
            let (scope, reason) = (parse("bad"), "test".into());
            Action::Grant(Grant {
                scope,
                expires_at_ms,
                seen: Seen { epoch, size, authority: 1 },
                terms: Terms::default(),
                reason,
            })
        };
        let later_ms = 4_000_000_000_000;
        for (name, grant) in [
            ("a grant that has expired", grant(epoch, 1, 1_000)),
            ("a grant of another epoch", grant(Digest([7; 32]), 1, later_ms)),
            ("a grant that saw more than there is", grant(epoch, 1_000_000, later_ms)),
        ] {
            let envelope = self.deployment.envelope(&["alice", "bob"], &grant);
            self.envelope(name, &envelope);
        }
    }

    fn forms(&mut self) {
        let good = self.stop_with(json!({}));
        let own = self.signature("alice", &good);
        let signed = || Form::new().text("command", good.clone()).text("signature", own.clone());
        self.form("two command parts", COMMANDS, signed().text("command", good.clone()));
        self.form("an unknown part", COMMANDS, signed().text("reason", "because"));
        self.form("no command part", COMMANDS, Form::new().text("signature", own.clone()));
        let truncated = "--b\r\ncontent-disposition: form-data; name=\"command\"\r\n\r\n{";
        let request = self.http.post(self.deployment.url(COMMANDS)).body(truncated);
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        self.add("a multipart body that ends too early", format!("POST {COMMANDS}"), request, true);
        let command = Part::text("x".repeat(256 << 10));
        self.form("more bytes than any command has", COMMANDS, Form::new().part("command", command));
        let json = |path| {
            let request = self.http.post(self.deployment.url(path)).bearer_auth("a-token");
            request.json(&json!({"agent_id": "bad/input", "reason": "policy violation 4.1"}))
        };
        let (bare, shutdown) = (json(COMMANDS), json(SHUTDOWN));
        let line = |path| format!("POST {path} application/json, with a bearer token");
        self.add("bare JSON where commands are sent", line(COMMANDS), bare, true);
        self.add("bare JSON and a bearer token as a shutdown", line(SHUTDOWN), shutdown, true);
        let empty = self.http.post(self.deployment.url(SHUTDOWN));
        self.add("an empty request as a shutdown", format!("POST {SHUTDOWN}"), empty, true);
    }

    fn reads(&mut self) {
        let zeros = Digest::default();
        for (name, path) in [
            ("GET where commands are sent", COMMANDS.to_owned()),
            ("an unknown path", "/v1/agent".into()),
            ("a tile that is none", "/log/tile/0/1".into()),
            ("a tile whose path is no text", "/log/tile/0/%ff".into()),
            ("a tile that the log has not grown to", "/log/tile/entries/x001/000".into()),
            ("a checkpoint of no size", "/log/checkpoint?size=all".into()),
            ("a lock id that is none", "/v1/locks/12ab".into()),
            ("a lock id that is no text", "/v1/locks/%ff".into()),
            ("a lock that is not in force", format!("/v1/locks/{zeros}")),
            ("the reach of a lock id that is none", "/v1/locks/12ab/reach".into()),
            ("the reach of an unknown stop", format!("/v1/locks/{zeros}/reach")),
            ("the reach after no version", format!("/v1/locks/{zeros}/reach?after=now")),
            ("agents of a bad scope", "/v1/agents?scope=bad//input".into()),
            ("locks of a bad scope", "/v1/locks?scope=bad/../input".into()),
            ("a scope that stands twice", "/v1/agents?scope=a&scope=b".into()),
            ("events of nothing", "/v1/events".into()),
            ("events of a bad scope", "/v1/events?scope=a,,b".into()),
        ] {
            let request = self.http.get(self.deployment.url(&path));
            self.add(name, format!("GET {path}"), request, false);
        }
        let request = self.http.post(self.deployment.url("/v1/status"));
        self.add("POST where one reads", "POST /v1/status".into(), request, false);
    }

    fn guards(&mut self) {
        let lease = |change: Value| {
            let request =
                json!({"nonce": Digest([1; 32]), "instance": "i", "agents": [{"scope": "bad/input"}]});
            changed(request, change).to_string()
        };
        let agents = |n: usize| vec![json!({"scope": "bad/input"}); n];
        let known = vec![json!({"id": Digest([7; 32]), "agent": "bad/input"}); KNOWN_PER_LEASE_MAX + 1];
        for (name, body) in [
            ("a lease request that is broken JSON", "{".to_owned()),
            ("a lease request without agents", lease(json!({"agents": []}))),
            ("a lease request for too many agents", lease(json!({"agents": agents(1025)}))),
            ("a lease request of more than 2 MiB", lease(json!({"instance": "i".repeat(2 << 20)}))),
            ("a lease request with a short nonce", lease(json!({"nonce": "00"}))),
            ("a lease request without a nonce", lease(json!({"nonce": null}))),
            ("a lease request with an unknown key", lease(json!({"ttl_ms": 60_000}))),
            ("a lease request for a bad scope", lease(json!({"agents": [{"scope": "bad//input"}]}))),
            ("a lease request by a nameless instance", lease(json!({"instance": ""}))),
            ("a lease request that knows too many locks", lease(json!({"known": known}))),
        ] {
            let request = self.http.post(self.deployment.url("/v1/leases")).body(body);
            let request = request.header("content-type", "application/json");
            self.add(name, "POST /v1/leases".into(), request, false);
        }
        let request = self.http.post(self.deployment.url("/v1/leases")).body(lease(json!({})));
        self.add("a lease request that is not called JSON", "POST /v1/leases".into(), request, false);
        let confirmation = json!({
            "lock": Digest([7; 32]), "agent": "bad/input", "instance": "i",
            "closed_us": 1, "cut_us": 1, "calls_cut": 0, "by": "push",
        });
        for (name, change) in [
            ("a confirmation of an unknown stop", json!({})),
            ("a confirmation by an unknown path", json!({"by": "hearsay"})),
        ] {
            let body = changed(confirmation.clone(), change);
            let request = self.http.post(self.deployment.url("/v1/confirmations")).json(&body);
            self.add(name, "POST /v1/confirmations".into(), request, false);
        }
    }

    /// A stop of `bad/input` with some keys changed; null takes one out.
    fn stop_with(&self, change: Value) -> String {
        let stop = json!({
            "tagout": 1, "deployment": self.deployment.name.to_string(), "action": "stop", "id": "bad-input",
            "issued_at": "2026-11-22T15:00:00Z", "scope": "bad/input", "mode": "halt", "reason": "test",
        });
        changed(stop, change).to_string()
    }

    fn signature(&self, who: &str, document: &str) -> String {
        self.deployment.signed(&[who], document.into()).signatures.remove(0)
    }

    /// A document that Alice signed as it stands.
    fn command(&mut self, name: &'static str, document: &str) {
        self.post(name, COMMANDS, document, &["alice"]);
    }

    fn post(&mut self, name: &'static str, path: &str, document: &str, who: &[&str]) {
        let envelope = self.deployment.signed(who, document.into());
        self.form(name, path, form(&envelope));
    }

    fn envelope(&mut self, name: &'static str, envelope: &Envelope) {
        self.form(name, COMMANDS, form(envelope));
    }

    fn signed_as(&mut self, name: &'static str, document: &str, signatures: &[&str]) {
        let signatures = signatures.iter().map(ToString::to_string).collect();
        self.envelope(name, &Envelope { document: document.into(), signatures });
    }

    fn form(&mut self, name: &'static str, path: &str, form: Form) {
        let request = self.http.post(self.deployment.url(path)).multipart(form);
        self.add(name, format!("POST {path}"), request, true);
    }

    fn add(&mut self, name: &'static str, line: String, request: RequestBuilder, is_command: bool) {
        self.list.push(Case { name, line: normal(&line), request, is_command });
    }
}

fn form(envelope: &Envelope) -> Form {
    let form = Form::new().text("command", envelope.document.clone());
    envelope.signatures.iter().fold(form, |form, s| form.text("signature", s.clone()))
}

/// `object` with the keys of `change`; null takes one out.
fn changed(mut object: Value, change: Value) -> Value {
    let keys = object.as_object_mut().expect("an object");
    for (key, value) in change.as_object().expect("an object") {
        match value {
            Value::Null => keys.remove(key),
            value => keys.insert(key.clone(), value.clone()),
        };
    }
    object
}

async fn log_size(deployment: &Deployment, http: &Client) -> u64 {
    deployment.get::<Status>(http, "/v1/status").await.log_size
}

fn security_log(data: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join("security.jsonl")).expect("the security log");
    // The last line may still be being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Waits for line number `attempts` of the security log, which must be about this refusal.
fn noted(data: &Path, attempts: usize, problem: &Problem, name: &str) {
    let attempt = wait_for(&format!("{name:?} to be in the security log"), || {
        let mut lines = security_log(data);
        (lines.len() >= attempts).then(|| lines.swap_remove(attempts - 1))
    });
    assert_eq!(attempt["code"], problem.code, "{name}");
    assert_eq!(attempt["status"], problem.status, "{name}");
    assert_eq!(attempt["detail"], problem.detail, "{name}");
    assert!(attempt["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{name}: {attempt}");
}

/// The text without what differs from run to run: digests, key fingerprints and places in the log.
fn normal(text: &str) -> String {
    let (mut rest, mut out) = (text, String::new());
    let run = |text: &str, of: fn(&u8) -> bool| text.bytes().take_while(of).count();
    while let Some(first) = rest.chars().next() {
        let hex = run(rest, u8::is_ascii_hexdigit);
        let key = rest.strip_prefix("SHA256:");
        let entry = rest.strip_prefix("entry ").map(|n| run(n, u8::is_ascii_digit)).filter(|n| *n > 0);
        let (put, taken) = if let Some(key) = key {
            let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
            ("<fingerprint>", "SHA256:".len() + run(key, base64))
        } else if let Some(digits) = entry {
            ("entry <n>", "entry ".len() + digits)
        } else if hex == 64 {
            ("<sha256>", hex)
        } else {
            (&rest[..first.len_utf8()], first.len_utf8())
        };
        out.push_str(put);
        rest = &rest[taken..];
    }
    out
}

fn compare(found: &str) {
    if std::env::var_os("TAGOUT_BLESS").is_some() {
        std::fs::create_dir_all(Path::new(GOLDEN).parent().expect("a folder")).expect("a folder");
        std::fs::write(GOLDEN, found).expect("the golden file can be written");
    }
    let wanted = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    let blocks = |text: &str| text.split("\n\n").map(|b| b.trim().to_owned()).collect::<Vec<_>>();
    let (found, wanted) = (blocks(found), blocks(&wanted));
    let missing: Vec<_> = wanted.iter().filter(|b| !found.contains(b)).cloned().collect();
    let new: Vec<_> = found.iter().filter(|b| !wanted.contains(b)).cloned().collect();
    assert!(
        found == wanted,
        "golden/bad_input.txt says:\n\n{}\n\nbut this was answered:\n\n{}\n\nIf the answers are right, run it with \
         TAGOUT_BLESS=1",
        missing.join("\n\n"),
        new.join("\n\n")
    );
}
