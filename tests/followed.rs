//! What an operator sees from outside of a node: one stop by its digest in the log, metrics with their meaning, and a
//! certificate that is replaced while the node serves.

use std::process::Command;

use tagout_tests::bin;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

#[test]
fn a_stop_is_followed_by_its_digest_and_a_renewed_certificate_needs_no_restart() {
    let mut deployment = Deployment::make(Choice::default());
    let mut serve = Command::new(bin::tagout());
    serve.env("RUST_LOG", "info,tagout::way=debug");
    serve.arg("serve").arg("--config").arg(deployment.config());
    deployment.start_node_as(&mut serve);
    let runtime = runtime();
    let client = runtime.block_on(async { deployment.sdk(&deployment.url("")) });
    let bob = deployment.key("bob").display().to_string();
    let alice = deployment.key("alice").display().to_string();
    let grant = ["grant", "demo", "--for", "1h", "--reason", "r", "--key", &alice, "--key", &bob];
    Ran::of(&mut deployment.command(&grant)).exits(0);
    let guard = client.guard("demo/a").unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();

    let renewed = Ran::of(
        Command::new(bin::tagout())
            .arg("renew")
            .arg(deployment.config().parent().unwrap())
            .arg("--ca")
            .arg(deployment.dir().join("ca")),
    )
    .exits(0);
    assert!(renewed.stdout.contains("valid until"), "{renewed:?}");
    let hangup = Command::new("kill").arg("-HUP").arg(deployment.node_id().to_string()).status().unwrap();
    assert!(hangup.success());
    wait_until("the node to take the certificate over", || {
        deployment.node().stderr().contains("took over the certificate files")
    });

    let stopped = Ran::of(&mut deployment.command(&["stop", "demo/a", "--reason", "r", "--json"])).exits(0);
    let report: serde_json::Value = serde_json::from_str(&stopped.stdout).unwrap();
    let digest = report["digest"].as_str().expect("the stop's digest").to_owned();
    let said = wait_for("the outcome in the node's log", || {
        let said = deployment.node().stderr();
        let of_it: Vec<_> = said.lines().filter(|line| line.contains(&digest)).map(str::to_owned).collect();
        of_it.iter().any(|line| line.contains("outcome")).then_some(of_it)
    });
    assert!(
        said.iter().all(
            |line| line.contains(&format!("command{{digest={digest}}}")) || !line.contains("tagout::way")
        ),
        "each in a span that bears its digest: {said:#?}"
    );
    let mut lines = said.iter();
    for step in ["received", "proposed", "applied", "pushed", "confirmed", "outcome"] {
        assert!(lines.any(|line| line.contains(step)), "{step} is missing, or out of turn: {said:#?}");
    }

    let http = deployment.http();
    let metrics = runtime
        .block_on(async { http.get(deployment.url("/metrics")).send().await.unwrap().text().await.unwrap() });
    for wanted in [
        "# HELP tagout_lease_seconds ",
        "tagout_least_lease_left_seconds",
        "tagout_certificate_days_left{certificate=\"node\"} 36",
        "tagout_read_barrier_seconds_count",
        "tagout_apply_seconds_count",
        "tagout_build_info{version=",
    ] {
        assert!(metrics.contains(wanted), "{wanted}: {metrics}");
    }
    let typed = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in typed.filter(|name| name.starts_with("tagout_")) {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no text");
    }
}
