//! OpenC2 producers take away over HTTPS: a real node, curl and reqwest as producers, and a guard that feels them. What gives
//! back is refused with a pointer to people (S7).

use std::process::Command;

use serde_json::{Value, json};
use tagout::{Client, Guard};
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::producer::{configure, message, post, token};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_until};

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn start() -> Self {
        let mut deployment = Deployment::make(Choice::default());
        configure(
            &deployment,
            &[("soc", "soar", 0), ("person", "alice", 1)],
            "scopes = ['demo']\nagents_per_hour = 3",
        );
        deployment.start_node();
        let world = Self { deployment, runtime: runtime() };
        world.deployment.run_by_both(&["grant", "demo", "--for", "1h", "--reason", "r"]);
        world
    }

    fn guard(&self, agent: &str) -> Guard {
        let client = Client::builder().profile_file(self.deployment.profile()).build().unwrap();
        let guard = client.guard(agent).unwrap();
        self.runtime.block_on(guard.ready(DEADLINE)).unwrap();
        guard
    }

    fn url(&self) -> String {
        self.deployment.url("/.well-known/openc2")
    }

    /// The HTTP status, and the OpenC2 response.
    fn send(&self, id: &str, request: &Value) -> (u16, Value) {
        self.send_body(&token(0), id, message(id, request))
    }

    fn send_body(&self, token: &str, id: &str, body: String) -> (u16, Value) {
        let request = post(&self.deployment.http(), &self.url(), Some(token), id).body(body);
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], "application/openc2+json;version=1.0");
            assert_eq!(answer.headers()["x-request-id"], id);
            assert_eq!(answer.headers()["cache-control"], "no-cache");
            let status = answer.status().as_u16();
            let message: Value = answer.json().await.unwrap();
            let response = message["body"]["openc2"]["response"].clone();
            assert_eq!(
                (
                    &response["status"] == 102 || response["status"] == status,
                    &message["headers"]["request_id"]
                ),
                (true, &json!(id)),
                "{message}"
            );
            (status, response)
        })
    }
}

fn on(action: &str, scope: &str, args: Value) -> Value {
    json!({"action": action, "target": {"x-tagout:agent": scope}, "args": {"x-tagout": args}})
}

#[test]
fn s7_a_producer_throttles_contains_and_stops_and_cannot_restore() {
    let world = World::start();
    let guard = world.guard("demo/agent_2");
    let tag = json!({"reason": "beaconing to a new domain", "case": "INC-1"});
    let with = |more: Value| {
        let mut args = tag.clone();
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        args
    };

    let (status, said) = world.send("c1", &on("set", "demo/agent_2", with(json!({"calls_per_minute": 6}))));
    assert_eq!((status, &said["results"]["x-tagout"]["action"]), (200, &json!("throttle")), "{said}");
    wait_until("the guard to be throttled", || guard.state().limits.calls_per_minute == Some(6));
    let (status, said) = world.send("c2", &on("contain", "demo/agent_2", tag.clone()));
    assert_eq!((status, &said["results"]["x-tagout"]["action"]), (200, &json!("isolate")), "{said}");
    wait_until("the guard to be isolated", || guard.check().is_err() && guard.state().isolated);
    let (status, said) = world.send("c3", &on("stop", "demo/agent_2", tag.clone()));
    assert_eq!((status, &said["results"]["x-tagout"]["reach"]["agents"]), (200, &json!(1)), "{said}");

    for action in ["restore", "start", "allow", "restart", "cancel", "delete", "create"] {
        let (status, said) = world.send("c4", &on(action, "demo/agent_2", json!({})));
        assert_eq!((status, &said["results"]["x-tagout"]["code"]), (403, &json!("gives-back")), "{said}");
        assert!(
            said["status_text"].as_str().unwrap().contains("`tagout resume SCOPE --reason WHY`"),
            "{said}"
        );
    }
    let locks = world.deployment.run(&["status", "demo/agent_2", "--json"]).exits(0).json();
    assert_eq!(locks["lock_records"].as_array().unwrap().len(), 3, "{locks}");
    assert_eq!(locks["lock_records"][0]["tag"]["by"], json!(["soar"]));
    guard.check().unwrap_err();
    world.deployment.run_by_both(&["resume", "demo/agent_2", "--reason", "reviewed"]);
    wait_until("the agent to run again", || guard.check().is_ok());
}

#[test]
fn s7_a_command_that_is_sent_again_is_the_same_for_ever() {
    let world = World::start();
    // It says no case, so it is one of its own.
    let stop = json!({"action": "stop", "target": {"x-tagout:agent": "demo/agent_2"}, "command_id": "c-1"});
    let (_, first) = world.send("r1", &stop);
    let (status, again) = world.send("r2", &stop);
    let of = |said: &Value, what: &str| said["results"]["x-tagout"][what].clone();
    assert_eq!(
        (status, of(&again, "repeated"), of(&again, "digest")),
        (200, json!(true), of(&first, "digest"))
    );
    world.deployment.run_by_both(&["resume", "demo/agent_2", "--reason", "reviewed"]);
    let (status, used) = world.send("r3", &stop);
    assert_eq!((status, &used["results"]["x-tagout"]["code"]), (400, &json!("used")), "{used}");
    let other = json!({"action": "stop", "target": {"x-tagout:agent": "demo/agent_2"}, "command_id": "c-2"});
    assert_eq!(world.send("r4", &other).0, 200);
}

#[test]
fn what_a_consumer_must_say_of_itself_it_says_to_curl() {
    let world = World::start();
    std::fs::write(world.deployment.folder().join("ca.pem"), world.deployment.ca_pem()).unwrap();
    let curl = |media: &str, body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(world.deployment.folder().join("ca.pem"));
        curl.args(["-H", &format!("Authorization: Bearer {}", token(0)), "-H", "X-Request-ID: d1ac0489"]);
        curl.args(["-H", &format!("Content-Type: {media}"), "--data-binary", body]);
        Ran::of(curl.arg(world.url()).args(["--write-out", "\n%{content_type}"])).exits(0).stdout
    };
    // Language 1.0, section 4.2.1, by Transfer 1.0.
    let query = r#"{"action": "query", "target": {"features": []}}"#;
    let said = curl("application/openc2-cmd+json;version=1.0", query);
    assert_eq!(said, "{\"status\":200}\napplication/openc2-rsp+json;version=1.0");
    let message =
        message("d1ac0489", &json!({"action": "query", "target": {"features": ["versions", "pairs"]}}));
    let said = curl("application/openc2;version=1.0", &message);
    assert!(
        said.ends_with("application/openc2;version=1.0") && said.contains(r#""versions":["1.0"]"#),
        "{said}"
    );
    let said = curl("application/openc2+json;version=1.0", &message);
    assert!(
        said.contains(r#""set":["x-tagout:agent"]"#) && said.contains(r#""to":["soc.example"]"#),
        "{said}"
    );
}

#[test]
fn a_producer_says_which_response_it_wants_and_refusals_are_always_said() {
    let world = World::start();
    let asking = |kind: &str, scope: &str| json!({"action": "stop", "target": {"x-tagout:agent": scope}, "args": {"response_requested": kind}});
    assert_eq!(world.send("a1", &asking("ack", "demo/a")), (200, json!({"status": 102})));
    assert_eq!(world.send("a2", &asking("complete", "demo/a")).1["results"]["x-tagout"]["scope"], "demo/a");
    let silent = post(&world.deployment.http(), &world.url(), Some(&token(0)), "a3");
    let silent = silent.body(message("a3", &asking("none", "demo/b")));
    world.runtime.block_on(async {
        let answer = silent.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, String::new()));
    });
    assert_eq!(
        world.deployment.run(&["status", "--json"]).exits(0).json()["locks"],
        json!(3),
        "each was a command"
    );
    assert_eq!(world.send("a4", &asking("none", "moltbook")).0, 403);
}

#[test]
fn every_refusal_says_what_to_do_and_stops_nobody() {
    let world = World::start();
    let stop = |scope: &str| message("c", &on("stop", scope, json!({"case": "INC-1"})));
    let request = |request: Value| message("c", &request);
    let timed = json!({"action": "stop", "target": {"x-tagout:agent": "demo"}, "args": {"duration": 1000}});
    let cases = [
        (token(0), stop("moltbook/a"), 403, "scope-not-allowed", "may not touch moltbook/a"),
        (token(0), stop("*"), 403, "scope-not-allowed", "may not touch *"),
        (token(0), stop("demo//x"), 400, "bad-openc2", "segment"),
        (token(0), "stop!".into(), 400, "bad-openc2", "no OpenC2 message"),
        (token(0), request(json!({"action": "stop"})), 400, "bad-openc2", "target"),
        (token(0), request(timed), 501, "not-implemented", "until people lift it"),
        (
            token(0),
            request(json!({"action": "deny", "target": {"file": {}}})),
            501,
            "not-implemented",
            "query features",
        ),
        (token(0), format!("\"{}\"", "x".repeat(70 * 1024)), 400, "too-large", "65536 bytes"),
        (token(1), stop("demo"), 503, "webhook-key", "never a person's"),
        (token(7), stop("demo"), 401, "openc2-refused", "has this one"),
        ("secret".into(), stop("demo"), 401, "openc2-refused", "64 lowercase hex digits"),
    ];
    for (token, body, status, code, said) in cases {
        let (got, response) = world.send_body(&token, "c", body);
        assert_eq!((got, &response["results"]["x-tagout"]["code"]), (status, &json!(code)), "{response}");
        let text = response["status_text"].as_str().unwrap();
        assert!(text.contains(said), "{response}");
        let known = code != "openc2-refused";
        assert_eq!(text.starts_with("OpenC2 producer \""), known, "{response}");
    }
    // Beyond its agents an hour it is for people, and no retry helps.
    for agent in ["demo/a", "demo/b", "demo/c"] {
        assert_eq!(world.send(agent, &on("stop", agent, json!({}))).0, 200);
    }
    let (status, response) = world.send("d", &on("stop", "demo/d", json!({})));
    assert_eq!(
        (status, &response["results"]["x-tagout"]["code"]),
        (403, &json!("blast-limit")),
        "{response}"
    );
    let text = response["status_text"].as_str().unwrap();
    assert!(
        text.starts_with("OpenC2 producer \"soc\" wanted to stop demo/d for case d: it may take away"),
        "{text}"
    );

    // What is no id is not said again in a header.
    let http = world.deployment.http();
    let nameless = post(&http, &world.url(), Some(&token(0)), "").body("{}");
    let answer = world.runtime.block_on(nameless.send()).unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("x-request-id")), (400, None));

    let without = |name: &str| {
        let mut request =
            post(&http, &world.url(), Some(&token(0)), "c").body(stop("demo/z")).build().unwrap();
        request.headers_mut().remove(name);
        world.runtime.block_on(async {
            let answer = http.execute(request).await.unwrap();
            (
                answer.status().as_u16(),
                answer.headers().get("www-authenticate").cloned(),
                answer.text().await.unwrap(),
            )
        })
    };
    let (status, challenge, said) = without("authorization");
    assert_eq!((status, challenge.unwrap().to_str().unwrap()), (401, "Bearer realm=\"tagout\""), "{said}");
    assert!(without("content-type").2.contains("the content type is neither"));
    let security = world.deployment.data().join("security.jsonl");
    let noted = || std::fs::read_to_string(&security).unwrap();
    wait_until("the attempts to be noted", || noted().matches("openc2-refused").count() == 3);
    let metrics = world.runtime.block_on(async {
        http.get(world.deployment.url("/metrics")).send().await.unwrap().text().await.unwrap()
    });
    assert!(metrics.contains("tagout_openc2_total{producer=\"soc\",code=\"blast-limit\"} 1"), "{metrics}");
}

#[test]
fn a_node_without_producers_says_so_and_a_wrong_file_is_told_at_the_start() {
    let mut deployment = Deployment::make(Choice::default());
    let folder = deployment.dir().join("node-1");
    let config = std::fs::read_to_string(deployment.config()).unwrap();
    deployment.configure("webhooks = \"webhooks.toml\"");
    let key = deployment.key("soar").display().to_string();
    let digest = "0".repeat(64);
    let producer = |name: &str, token: &str, more: &str| {
        format!(
            "[[openc2]]\nname = \"{name}\"\ntokens = [\"{token}\"]\nsign = \"{key}\"\nscopes = ['demo']\n{more}\n"
        )
    };
    let limit = "agents_per_hour = 1";
    let cases = [
        (producer("soc", &token(0), limit), "never the token itself"),
        (producer("soc", &digest, ""), "agents_per_hour"),
        (producer("soc", &digest, "agents_per_hour = 0"), "at least 1"),
        (producer("soc", &digest, limit).repeat(2), "another one has this name"),
        (producer("soc", &digest, limit) + &producer("other", &digest, limit), "stands twice"),
        (producer("SOC", &digest, limit), "a name has 1 to 64"),
    ];
    for (text, said) in cases {
        std::fs::write(folder.join("webhooks.toml"), &text).unwrap();
        let mut serve = Command::new(bin::tagout());
        let ran = Ran::of(serve.arg("serve").arg("--config").arg(deployment.config()));
        assert!(ran.code == Some(1) && ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }

    std::fs::write(deployment.config(), config).unwrap();
    deployment.start_node();
    let request =
        post(&deployment.http(), &deployment.url("/.well-known/openc2"), Some(&token(0)), "c").body("{}");
    runtime().block_on(async {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 404);
        assert!(answer.text().await.unwrap().contains("no OpenC2 producer"));
    });
}
