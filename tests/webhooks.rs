//! Security platforms take away by webhook: a real node, requests signed by openssl, and a guard that feels them. Automation
//! may take away, only people give back (S7).

use std::process::Command;

use serde_json::{Value, json};
use tagout::{Client, Guard};
use tagout_control_plane::sign::generate;
use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_until};
use tagout_tests::webhook::{BY_SEVERITY, Hook, Request, SECRET, base64, configure};

struct World {
    deployment: Deployment,
    runtime: tokio::runtime::Runtime,
}

impl World {
    fn start() -> Self {
        let mut deployment = Deployment::make(Choice::default());
        generate(&deployment.key("outsider"), "outsider", None).unwrap();
        let soc = format!("scopes = ['demo']\nagents_per_hour = 3\n{BY_SEVERITY}");
        let splunk = format!("mapping = 'splunk-es'\n{soc}");
        let fleet = "scopes = ['*']\nagents_per_hour = 3\nactions = 'stop'";
        let hooks = [
            Hook("soc", "soar", &soc),
            Hook("splunk", "soar", &splunk),
            Hook("fleet", "soar", fleet),
            Hook("person", "alice", fleet),
            Hook("outsider", "outsider", fleet),
        ];
        configure(&deployment, &hooks);
        deployment.start_node();
        let world = Self { deployment, runtime: runtime() };
        world.deployment.run_by_both(&["grant", "demo", "--for", "1h", "--reason", "r"]);
        world
    }

    fn guard(&self, agent: &str) -> Guard {
        let deployment = &self.deployment;
        let client = Client::builder().profile_file(deployment.profile()).build().unwrap();
        let guard = client.guard(agent).unwrap();
        self.runtime.block_on(guard.ready(DEADLINE)).unwrap();
        assert!(guard.check().is_ok());
        guard
    }

    fn send(&self, webhook: &str, request: &Request) -> (u16, Value) {
        let url = self.deployment.url(&format!("/v1/webhooks/{webhook}"));
        let request = self.deployment.http().post(url).headers(request.headers()).body(request.body.clone());
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (
                answer.status().as_u16(),
                serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null),
            )
        })
    }

    /// What a sender sends now, with an id of its own.
    fn post(&self, webhook: &str, body: &Value) -> (u16, Value) {
        self.send(webhook, &Request::new(body))
    }

    fn refusal(&self, webhook: &str, request: &Request) -> (u16, String, String) {
        let (status, problem) = self.send(webhook, request);
        let text = |key: &str| problem[key].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned();
        (status, text("code"), text("detail"))
    }

    fn security_log(&self) -> String {
        std::fs::read_to_string(self.deployment.data().join("security.jsonl")).unwrap()
    }
}

fn alert(scope: &str, case: &str, severity: &str) -> Value {
    json!({"scope": scope, "reason": "beaconing to a new domain", "case": case, "severity": severity})
}

#[test]
fn s7_an_alert_throttles_then_isolates_then_stops_and_cannot_resume() {
    let world = World::start();
    let guard = world.guard("demo/agent_2");
    let other = world.guard("demo/agent_3");

    let (status, answer) = world.post("soc", &alert("demo/agent_2", "INC-1", "medium"));
    assert_eq!((status, &answer["action"]), (201, &json!("throttle")), "{answer}");
    wait_until("the guard to be throttled", || guard.state().limits.calls_per_minute == Some(6));

    let (status, answer) = world.post("soc", &alert("demo/agent_2", "INC-1", "High"));
    assert_eq!((status, &answer["action"]), (201, &json!("isolate")), "{answer}");
    wait_until("the guard to be isolated", || guard.check().is_err() && guard.state().isolated);

    let (status, answer) = world.post("soc", &alert("demo/agent_2", "INC-1", "critical"));
    assert_eq!(
        (status, &answer["action"], &answer["reach"]["agents"]),
        (201, &json!("stop"), &json!(1)),
        "{answer}"
    );
    assert!(other.check().is_ok());

    // The tag says why, by whom and of which case.
    let locks = world.deployment.run(&["status", "demo/agent_2", "--json"]).exits(0).stdout;
    assert!(
        locks.contains("beaconing to a new domain") && locks.contains("INC-1") && locks.contains("\"soar\""),
        "{locks}"
    );

    // The automation's own key gives nothing back, and one person alone does not either.
    let soar = world.deployment.key("soar").display().to_string();
    let alone = world.deployment.run(&["resume", "demo/agent_2", "--reason", "r", "--key", &soar]);
    assert_ne!(alone.code, Some(0), "{}", alone.stdout);
    guard.check().unwrap_err();
    world.deployment.run_by_both(&["resume", "demo/agent_2", "--reason", "reviewed"]);
    wait_until("the agent to run again", || guard.check().is_ok());
}

#[test]
fn s7_a_request_that_is_sent_again_is_the_same_command_for_ever() {
    let world = World::start();
    let request = Request::new(&alert("demo/agent_2", "INC-1", "critical"));
    let (status, first) = world.send("soc", &request);
    assert_eq!((status, &first["repeated"]), (201, &json!(false)), "{first}");
    let (status, again) = world.send("soc", &request);
    assert_eq!(
        (status, &again["repeated"], &again["digest"]),
        (200, &json!(true), &first["digest"]),
        "{again}"
    );

    // Another request of the same case is the same lock, too, while it holds.
    let (status, same) = world.post("soc", &alert("demo/agent_2", "INC-1", "critical"));
    assert_eq!((status, &same["digest"]), (200, &first["digest"]), "{same}");
    let (status, other) = world.post("soc", &alert("demo/agent_2", "INC-2", "critical"));
    assert_eq!(status, 201, "{other}");
    assert_ne!(other["digest"], first["digest"]);

    // After people have lifted it, what was captured stops nobody again; a new alert does.
    world.deployment.run_by_both(&["resume", "demo/agent_2", "--reason", "reviewed"]);
    let (status, code, detail) = world.refusal("soc", &request);
    assert_eq!((status, code.as_str()), (409, "used"), "{detail}");
    // A platform that tries again says another time.
    let later = (request.timestamp.parse::<u64>().unwrap() + 2).to_string();
    let retried = Request {
        id: request.id.clone(),
        timestamp: later,
        ..Request::at(0, &alert("demo/agent_2", "INC-1", "critical"))
    };
    let (status, code, detail) = world.refusal("soc", &retried.signed(SECRET));
    assert_eq!((status, code.as_str()), (409, "used"), "{detail}");
    assert_eq!(world.post("soc", &alert("demo/agent_2", "INC-1", "critical")).0, 201);
}

#[test]
fn alerts_of_one_case_that_come_at_once_place_one_lock() {
    let world = World::start();
    let requests: Vec<_> =
        (0..6).map(|_| Request::new(&alert("demo/agent_2", "INC-1", "critical"))).collect();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let sent: Vec<_> = requests
            .iter()
            .map(|request| {
                scope.spawn(|| {
                    let url = world.deployment.url("/v1/webhooks/soc");
                    let post = world
                        .deployment
                        .http()
                        .post(url)
                        .headers(request.headers())
                        .body(request.body.clone());
                    runtime().block_on(async { post.send().await.unwrap().status().as_u16() })
                })
            })
            .collect();
        sent.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 5, "{answers:?}");
}

#[test]
fn a_ready_mapping_reads_what_its_platform_sends() {
    let world = World::start();
    let body = json!({"sid": "scheduler__admin__1", "search_name": "Agent beaconing", "owner": "admin", "app": "SplunkEnterpriseSecuritySuite",
        "results_link": "https://splunk.example/app/search",
        "result": {"tagout_scope": "demo/agent_2", "rule_title": "Agent beaconing", "event_id": "4F@@notable@@1", "urgency": "critical"}});
    let (status, answer) = world.post("splunk", &body);
    assert_eq!((status, &answer["scope"]), (201, &json!("demo/agent_2")), "{answer}");
    assert_eq!(
        world.post("soc", &alert("demo/agent_2", "INC-1", "low")),
        (204, Value::Null),
        "low does nothing"
    );
}

#[test]
fn every_refusal_says_what_to_do_and_stops_nobody() {
    let world = World::start();
    let guard = world.guard("demo/agent_2");
    let body = alert("demo/agent_2", "INC-1", "critical");
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let outside = alert("moltbook/agent_2", "INC-1", "critical");
    let without = |name: &str| {
        let mut request = Request::new(&body);
        match name {
            "webhook-id" => request.id.clear(),
            "webhook-timestamp" => request.timestamp.clear(),
            _ => request.signature.clear(),
        }
        request
    };
    let changed = Request { body: outside.to_string(), ..Request::new(&body) };
    let not_json = Request { body: "alert!".into(), ..Request::new(&body) }.signed(SECRET);
    let odd_id = Request { id: "msg.1".into(), ..Request::new(&body) }.signed(SECRET);
    let cases = [
        (
            "soc",
            Request::new(&body).signed(b"another secret, of as many bytes"),
            401,
            "webhook-refused",
            "compare the secret",
        ),
        ("soc", changed, 401, "webhook-refused", "change the body"),
        ("soc", Request::at(now_s - 400, &body), 401, "webhook-refused", "s ago"),
        ("soc", Request::at(now_s + 400, &body), 401, "webhook-refused", "s ahead"),
        ("soc", without("webhook-id"), 401, "webhook-refused", "webhook-id is missing"),
        ("soc", without("webhook-timestamp"), 401, "webhook-refused", "webhook-timestamp is missing"),
        ("soc", without("webhook-signature"), 401, "webhook-refused", "webhook-signature is missing"),
        ("soc", odd_id, 400, "bad-webhook", "without spaces and full stops"),
        ("soc", not_json, 400, "bad-webhook", "no JSON"),
        ("soc", Request::new(&outside), 403, "scope-not-allowed", "may not touch moltbook/agent_2"),
        ("soc", Request::new(&alert("*", "INC-1", "critical")), 403, "scope-not-allowed", "may not touch *"),
        ("soc", Request::new(&alert("demo//x", "INC-1", "critical")), 422, "unmapped", "names no scope"),
        ("soc", Request::new(&alert("demo/agent_2", "INC-1", "odd")), 422, "unmapped", "severity \"odd\""),
        ("soc", Request::new(&json!({"scope": "demo"})), 422, "unmapped", "/severity"),
        (
            "soc",
            Request::new(&json!({"scope": "demo", "severity": "high", "reason": "r"})),
            422,
            "unmapped",
            "/case or /case_id or /id",
        ),
        ("person", Request::new(&body), 503, "webhook-key", "never a person's"),
        ("outsider", Request::new(&body), 503, "webhook-key", "no automation"),
        ("nobody", Request::new(&body), 404, "no-such-webhook", "tagout.toml"),
    ];
    for (webhook, request, status, code, said) in cases {
        let (got, got_code, detail) = world.refusal(webhook, &request);
        assert_eq!((got, got_code.as_str()), (status, code), "{detail}");
        assert!(detail.contains(said), "{detail}");
        let known = webhook != "nobody";
        assert_eq!(detail.starts_with(&format!("webhook \"{webhook}\"")), known, "{detail}");
        // Whoever has not the secret is told no more than what stands in the address.
        assert!(code != "webhook-refused" || !detail.contains("demo"), "{detail}");
    }
    let large = Request { body: format!("\"{}\"", "x".repeat(300 * 1024)), ..Request::new(&body) };
    assert_eq!(world.refusal("soc", &large).0, 413);
    assert!(guard.check().is_ok());
    assert_eq!(world.deployment.run(&["status", "--json"]).exits(0).json()["locks"], json!(0));
    wait_until("the attempts to be noted", || world.security_log().matches("webhook-refused").count() == 7);
    let noted = world.security_log();
    for said in [
        "webhook \"soc\": no signature in webhook-signature",
        "webhook \"soc\" wanted to stop moltbook/agent_2 for case INC-1: it may not touch moltbook/agent_2",
        "webhook \"soc\": about demo/agent_2, case INC-1: severity \"odd\"",
        "webhook \"soc\": about case INC-1: the body names no scope",
        "webhook \"person\" wanted to stop demo/agent_2 for case INC-1: it signs with a key",
    ] {
        let said = json!(said).to_string();
        assert!(noted.contains(said.trim_matches('"')), "{said}: {noted}");
    }
}

#[test]
fn a_webhook_takes_away_from_so_many_agents_an_hour_and_then_people_decide() {
    let world = World::start();
    let stop = |scope: &str| world.post("fleet", &alert(scope, scope, "critical"));
    for agent in ["demo/a", "demo/b", "demo/c"] {
        assert_eq!(stop(agent).0, 201);
    }
    let (status, problem) = stop("demo/d");
    assert_eq!((status, &problem["code"]), (429, &json!("blast-limit")), "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().starts_with(
            "webhook \"fleet\" wanted to stop demo/d for case demo/d: it may take away from 3 agents an hour, and with \
             this it would be 4: what it asks for is for people to do"
        ),
        "{problem}"
    );
    wait_until("the attempt to be noted with its webhook", || {
        world.security_log().contains("webhook \\\"fleet\\\" wanted to stop demo/d for case demo/d")
    });
    wait_until("the node to say so", || {
        let said = world.deployment.said();
        said.lines().any(|line| {
            ["WARN", "what it asks for is for people to do", "demo/d"].iter().all(|part| line.contains(part))
        })
    });
    assert_eq!(stop("demo/a").0, 200, "what holds already is no more");
    // What people have lifted meanwhile counts all the same.
    world.deployment.run_by_both(&["resume", "demo/a", "--reason", "reviewed"]);
    assert_eq!(stop("demo/d").0, 429);
    // People are not bound by it: the lock is in place, though nobody is there (5).
    world.deployment.run(&["stop", "demo/d", "--reason", "r"]).exits(5);
}

#[test]
fn a_key_of_no_automation_is_said_at_the_start() {
    let world = World::start();
    let said = || {
        let stderr = world.deployment.said();
        let lines = stderr.lines().filter(|line| line.contains("of no automation in the authority"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until("both keys to be told", || said().len() == 2);
    let said = said();
    for webhook in ["person", "outsider"] {
        assert!(said.iter().any(|line| line.contains("WARN") && line.contains(webhook)), "{said:?}");
    }
}

#[test]
fn what_is_wrong_with_the_file_is_said_at_the_start() {
    let deployment = Deployment::make(Choice::default());
    let folder = deployment.dir().join("node-1");
    deployment.configure("webhooks = \"webhooks.toml\"");
    std::fs::write(folder.join("bad.secret"), "whsec_AAAA").unwrap();
    let key = deployment.key("soar").display().to_string();
    let webhook = |verify: &str, more: &str| {
        format!(
            "[[webhook]]\nname = \"soc\"\nverify = [\"{verify}\"]\nsign = \"{key}\"\nscopes = ['demo']\nactions = 'stop'\n{more}"
        )
    };
    let doing = |actions: &str| {
        webhook("soc.secret", "agents_per_hour = 1")
            .replace("actions = 'stop'", &format!("actions = {actions}"))
    };
    std::fs::write(folder.join("soc.secret"), format!("whsec_{}", base64(SECRET))).unwrap();
    let cases = [
        (webhook("none.secret", "agents_per_hour = 1"), "cannot read"),
        (webhook("bad.secret", "agents_per_hour = 1"), "24 to 64 bytes"),
        (webhook("soc.secret", ""), "agents_per_hour"),
        (webhook("soc.secret", "agents_per_hour = 0"), "at least 1"),
        (webhook("soc.secret", "agents_per_hour = 1\nmapping = 'qradar'"), "generic, splunk-es"),
        (webhook("soc.secret", "agents_per_hour = 1\nscope = '{agent}'"), "no template"),
        (webhook("soc.secret", "agents_per_hour = 1\nsecret = 'x'"), "unknown field"),
        (webhook("soc.secret", "agents_per_hour = 1\n").repeat(2), "another one has this name"),
        (doing("{}"), "nothing would ever be done"),
        (
            doing("'release'"),
            "\"release\" is no action: there are \"stop\", \"pause\", \"isolate\", \"restrict\"",
        ),
        (doing("{ high = 'isolated' }"), "severity \"high\": \"isolated\" is no action: there are \"stop\""),
        (
            doing("{ high = 'throttle' }"),
            "severity \"high\": throttle has no limit: it says calls_per_minute",
        ),
        (doing("{ throttle = {} }"), "throttle has no limit: it says calls_per_minute"),
        (doing("{ throttle = { calls_per_minute = 0 } }"), "throttle has a limit of 0"),
        (
            doing("{ low = { throttle = { calls = 1 } } }"),
            "severity \"low\": throttle has unknown field `calls`",
        ),
    ];
    for (text, said) in cases {
        std::fs::write(folder.join("webhooks.toml"), &text).unwrap();
        let mut serve = Command::new(bin::tagout());
        let ran = Ran::of(serve.arg("serve").arg("--config").arg(deployment.config()));
        assert!(ran.code == Some(1) && ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
}
