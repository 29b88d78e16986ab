//! Consent ends by itself (the dead man's switch), people are told in time, and renew all that is due in one ceremony.

use serde_json::{Value, json};
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::wait::wait_until;

struct World(Deployment);

impl World {
    fn start() -> Self {
        let world = Self(Deployment::start(Choice::default()));
        world.by_both(&[
            "grant",
            "demo/soon",
            "--for",
            "50m",
            "--essential",
            "handover",
            "--calls-per-minute",
            "60",
        ]);
        world.by_both(&["grant", "demo/later", "--for", "20h"]);
        world.by_both(&["grant", "demo/long", "--for", "300h"]);
        world
    }

    fn by_both(&self, arguments: &[&str]) -> Value {
        self.0.run_by_both(&[arguments, &["--reason", "reviewed", "--json"]].concat()).json()
    }

    fn metric(&self, what: &str, within_hours: &str) -> String {
        let text = runtime().block_on(async {
            self.0.http().get(self.0.url("/metrics")).send().await.unwrap().text().await.unwrap()
        });
        let start = format!("tagout_{what}_ending{{within_hours=\"{within_hours}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{text}")).into()
    }
}

fn granted(done: &Value) -> Vec<(&str, u64)> {
    let grants = done["grants"].as_array().unwrap().iter();
    let mut grants: Vec<_> =
        grants.map(|g| (g["scope"].as_str().unwrap(), g["index"].as_u64().unwrap())).collect();
    grants.sort_unstable();
    grants
}

#[test]
fn what_ends_soon_is_said_and_renewed_in_one_ceremony_with_its_terms() {
    let mut world = World::start();
    assert_eq!(["1", "24", "72"].map(|hours| world.metric("grants", hours)), ["1", "2", "2"]);
    wait_until("the node to say what ends", || {
        let said = world.0.node().stderr();
        said.contains("consent of demo/soon ends within 1 h")
            && said.contains("consent of demo/later ends within 24 h")
    });

    let done = world.by_both(&["grant", "--renew-due", "--within", "24h", "--for", "72h"]);
    assert_eq!(granted(&done), [("demo/later", 5), ("demo/soon", 4)]);
    let status = world.0.run(&["status", "--json"]).exits(0).json();
    let renewed = status["grants"].as_array().unwrap().iter().find(|grant| grant["index"] == 4).unwrap();
    let terms = json!({"essential": ["handover"], "limits": {"calls_per_minute": 60}});
    assert_eq!(renewed["terms"], terms, "as people had signed them");

    // Enrolments and API tokens end by themselves, too.
    let out = world.0.folder().join("agent.token");
    let enroll =
        ["agent", "enroll", "demo/soon", "--for", "30m", "--reason", "r", "--out", out.to_str().unwrap()];
    world.0.run(&enroll).exits(0);
    let access = world.0.access_file();
    let token =
        ["token", "new", "grafana", "--role", "viewer", "--for", "20h", "--access", access.to_str().unwrap()];
    world.0.run(&token).exits(0);
    wait_until("the node to say what else ends", || {
        let said = world.0.node().stderr();
        said.contains("the enrolment of demo/soon ends within 1 h")
            && said.contains("API token grafana ends within 24 h")
    });
    assert_eq!(["1", "24"].map(|hours| world.metric("enrolments", hours)), ["1", "1"]);
    assert_eq!(["1", "24"].map(|hours| world.metric("api_tokens", hours)), ["0", "1"]);

    // Nothing is due any more, and nothing warns.
    assert_eq!(
        world.by_both(&["grant", "--renew-due", "--for", "72h", "--within", "24h"]),
        json!({"grants": []})
    );
    assert_eq!(["1", "24"].map(|hours| world.metric("grants", hours)), ["0", "0"]);
    // By a longer horizon all three are; a scope chooses among them.
    let done = world.by_both(&["grant", "demo/long", "--renew-due", "--within", "400h", "--for", "500h"]);
    assert_eq!(granted(&done), [("demo/long", 7)]);
}

/// What a node says of its grants is not what people sign again: the log is.
#[test]
fn s5_consent_that_was_revoked_is_not_renewed() {
    let world = World::start();
    world.0.run(&["revoke", "--scope", "demo/soon", "--reason", "compromised"]).exits(0);
    let done = world.by_both(&["grant", "--renew-due", "--within", "24h", "--for", "72h"]);
    assert_eq!(granted(&done).iter().map(|(scope, _)| *scope).collect::<Vec<_>>(), ["demo/later"]);
    let text = world
        .0
        .run_by_both(&["grant", "--renew-due", "--within", "24h", "--for", "72h", "--reason", "r"])
        .stdout;
    assert!(text.contains("no grant ends before"), "{text}");
}

#[test]
fn what_is_proposed_already_is_not_proposed_twice() {
    let world = World::start();
    let renew = |scope: &str, exit: i32| {
        let line = ["grant", scope, "--renew-due", "--within", "24h", "--for", "72h", "--reason", "r"];
        world.0.run(&line).exits(exit)
    };
    let open = || {
        let listed = world.0.run(&["proposals", "--json"]).exits(0).json();
        let ids =
            listed["proposals"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    renew("demo/soon", 8);
    let first = open();
    assert_eq!(first.len(), 1);
    let again = renew("demo/soon", 4);
    let sign = format!("tagout proposals sign {}", &first[0][..12]);
    assert!(again.stdout.contains(&sign) && again.stderr.contains("proposed already"), "{again:?}");
    let rest = renew("demo", 8).stdout;
    assert!(rest.contains("1 of them wait") && !rest.contains("renewed, with"), "{rest}");
    assert_eq!((open().len(), open().contains(&first[0])), (2, true));
    // Enough people together need no proposal.
    let done = world.by_both(&["grant", "--renew-due", "--within", "24h", "--for", "72h"]);
    assert_eq!(
        granted(&done).iter().map(|(scope, _)| *scope).collect::<Vec<_>>(),
        ["demo/later", "demo/soon"]
    );
}

#[test]
fn s5_renewing_takes_as_many_people_as_granting_and_is_never_for_less() {
    let world = World::start();
    let alone = world.0.run(&["grant", "--renew-due", "--for", "72h", "--reason", "r"]);
    assert_ne!(alone.code, Some(0), "{}", alone.stdout);
    let keys = ["alice", "bob"].map(|name| world.0.key(name).display().to_string());
    let shorter =
        ["grant", "--renew-due", "--for", "10m", "--reason", "r", "--key", &keys[0], "--key", &keys[1]];
    let ran = world.0.run(&shorter).exits(2);
    assert!(ran.stderr.contains("already: renew it for longer"), "{}", ran.stderr);
    let status = world.0.run(&["status", "--json"]).exits(0).json();
    assert_eq!(status["grants"].as_array().unwrap().len(), 3, "nothing was granted");
}
