//! The tightenings besides a stop, by the real command against a real node, as a guard and as `tagout status` see them.

use tagout::{Guard, Reason};
use tagout_control_plane::sign::generate;
use tagout_proto::lock::LockKind;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

/// `--key` for both people.
fn both(deployment: &Deployment) -> Vec<String> {
    ["alice", "bob"]
        .into_iter()
        .flat_map(|name| ["--key".into(), deployment.key(name).display().to_string()])
        .collect()
}

fn run(deployment: &Deployment, arguments: &[&str]) -> Ran {
    Ran::of(&mut deployment.command(arguments))
}

fn run_by_both(deployment: &Deployment, arguments: &[&str]) -> Ran {
    Ran::of(deployment.command(arguments).args(both(deployment)))
}

fn stopped(guard: &Guard) -> LockKind {
    wait_for("the guard to be stopped", || match guard.check().err()?.reason {
        Reason::Stopped(lock) => Some(lock.kind),
        _ => None,
    })
}

#[test]
fn s7_restrict_throttle_and_isolate_say_what_they_do_and_their_release_lifts_them() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async { deployment.sdk(&deployment.url("")) });
    let grant = run_by_both(
        &deployment,
        &[
            "grant",
            "demo",
            "--for",
            "1h",
            "--reason",
            "first",
            "--essential",
            "handover",
            "--essential",
            "alarm",
            "--calls-per-minute",
            "600",
        ],
    )
    .exits(0);
    assert!(grant.stdout.contains("essential: alarm, handover; at most 600 calls a minute"), "{grant:?}");
    let guard = |agent: &str| {
        let guard = client.guard(agent).unwrap();
        runtime.block_on(guard.ready(DEADLINE)).unwrap();
        guard
    };
    let (restricted, throttled, isolated) =
        (guard("demo/restricted"), guard("demo/throttled"), guard("demo/isolated"));

    let dry = run(&deployment, &["isolate", "demo/isolated", "--reason", "drill", "--dry-run"]).exits(0);
    assert!(dry.stdout.contains("an isolate of demo/isolated would reach 1 agent, 1 instance"), "{dry:?}");
    assert!(isolated.check().is_ok());

    // An automation may do all three.
    let soar = deployment.key("soar").display().to_string();
    let soar = ["--key", soar.as_str()];
    let said =
        run(&deployment, &[&["restrict", "demo/restricted", "--reason", "odd"][..], &soar].concat()).exits(0);
    assert!(said.stdout.contains("RESTRICTED demo/restricted at entry "), "{said:?}");
    assert!(
        said.stdout.contains("no new calls but essential ones; calls under way go on; its release lifts it")
    );
    assert!(said.stdout.contains("settled: 1 of 1 instance confirmed"), "{said:?}");
    assert_eq!(stopped(&restricted), LockKind::Restrict);
    let said =
        run(&deployment, &[&["isolate", "demo/isolated", "--reason", "odd"][..], &soar].concat()).exits(0);
    assert!(said.stdout.contains("enforcers cut the agent's network; its release lifts it"), "{said:?}");
    assert_eq!(stopped(&isolated), LockKind::Isolate);
    let throttle = ["throttle", "demo/throttled", "--reason", "odd"];
    let nothing = run(&deployment, &throttle).exits(2);
    assert!(nothing.stderr.contains("--calls-per-minute N"), "{nothing:?}");
    let limits = ["--calls-per-minute", "5", "--tokens-per-minute", "1000"];
    let said = run(&deployment, &[&throttle[..], &limits, &soar].concat()).exits(0);
    assert!(said.stdout.contains("THROTTLED demo/throttled (5 calls and 1000 tokens a minute)"), "{said:?}");
    assert!(throttled.check().is_ok());
    run(&deployment, &["restrict", "demo/nobody", "--reason", "mistyped"]).exits(5);

    let status = run(&deployment, &["status"]).exits(0);
    for (agent, start, end) in [
        ("demo/restricted", "ESSENTIAL ONLY", "essential: alarm, handover; at most 600 calls a minute"),
        ("demo/throttled", "THROTTLED", "at most 5 calls and 1000 tokens a minute"),
        ("demo/isolated", "ISOLATED", "at most 600 calls a minute"),
    ] {
        let row = status.row(agent);
        assert!(row.starts_with(start) && row.ends_with(end), "{agent}: {row}");
    }

    let release = ["release", "--scope", "demo", "--by", "soar", "--reason", "reviewed"];
    let released = run_by_both(&deployment, &release).exits(0);
    assert!(!released.stdout.contains("nothing runs again yet"), "{released:?}");
    wait_until("the guards to run again", || {
        [&restricted, &throttled, &isolated].iter().all(|g| g.check().is_ok())
    });
    let status = run(&deployment, &["status", "--json"]).exits(0).json();
    assert_eq!(
        status["lock_records"].as_array().unwrap().len(),
        1,
        "the lock that alice placed stays: {status}"
    );
    let alone = run(&deployment, &[&release[..], &soar].concat()).exits(1);
    assert!(alone.stderr.contains("no unreleased locks that soar placed"), "{alone:?}");

    // Runbook copies and stock lines have the command's name.
    let folder = deployment.folder().join("runbook").display().to_string();
    let copies = ["isolate", "demo", "--reason", "runbook", "--copies", "2", "--out", &folder];
    run(&deployment, &copies).exits(0);
    assert!(deployment.folder().join("runbook/isolate-0002.json.sig").is_file());
    let lines = Ran::of(
        deployment
            .command(&["throttle", "demo", "--reason", "r", "--calls-per-minute", "1", "--print-curl"])
            .current_dir(deployment.folder()),
    )
    .exits(0);
    assert!(lines.stdout.contains("command=@throttle.json"), "{lines:?}");
}

#[test]
fn a_revoke_takes_consent_back_and_so_does_a_suspend_that_says_so_beforehand() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async { deployment.sdk(&deployment.url("")) });
    let grant = |scope: &str| {
        let grant = ["grant", scope, "--for", "1h", "--reason", "r", "--json"];
        let granted = run_by_both(&deployment, &grant).exits(0).json();
        granted["digest"].as_str().expect("its digest").to_owned()
    };
    let first = grant("demo/first");
    grant("demo/second");
    let guards: Vec<_> = ["demo/first", "demo/second"].map(|agent| client.guard(agent).unwrap()).into();
    guards.iter().for_each(|guard| drop(runtime.block_on(guard.ready(DEADLINE)).unwrap()));

    // By its first digits, as `status` shows them; and one that nobody has signed yet, by all of its digits.
    let status = run(&deployment, &["status"]).exits(0);
    assert!(status.row(&first[..12]).starts_with("demo/first"), "{status:?}");
    let coming = "0123456789abcdef".repeat(4);
    let dry = run(&deployment, &["revoke", &first[..12], "--reason", "r", "--dry-run"]).exits(0);
    assert!(dry.stdout.contains("1 scope would be without any consent:\n  demo/first\n"), "{dry:?}");
    assert!(guards[0].check().is_ok(), "a dry run revokes nothing");
    let revoked = run(&deployment, &["revoke", &first[..12], &coming, "--reason", "r"]).exits(0);
    assert!(revoked.stdout.contains("1 of them has not arrived yet; it is remembered"), "{revoked:?}");
    let refused = |guard: &Guard| matches!(guard.check(), Err(denied) if matches!(denied.reason, Reason::NoConsent { .. }));
    wait_until("the first guard to lose its consent", || refused(&guards[0]));
    assert!(guards[1].check().is_ok());
    run(&deployment, &["revoke", "--scope", "demo/first", "--reason", "r"]).exits(1);

    // All of what lies on a scope and below it, and the other one by taking bob's key.
    grant("demo");
    let revoked = run(&deployment, &["revoke", "--scope", "demo/second", "--reason", "r"]).exits(0);
    assert!(revoked.stdout.contains("these lie above demo/second, cover it too and stay"), "{revoked:?}");
    wait_until("the grant above to count", || guards.iter().all(|guard| guard.check().is_ok()));

    let dry = run(&deployment, &["suspend", "--principal", "bob", "--reason", "lost", "--dry-run"]).exits(0);
    assert!(dry.stdout.contains("1 grant would be void by it, for ever"), "{dry:?}");
    assert!(dry.stdout.contains("1 scope would be without any consent:\n  demo\n"), "{dry:?}");
    let public = deployment.key("bob").with_extension("pub").display().to_string();
    let suspended = run(&deployment, &["suspend", &public, "--reason", "lost", "--json"]).exits(0).json();
    assert_eq!(suspended["voids"][0]["scope"], "demo", "{suspended}");
    wait_until("the guards to lose their consent", || guards.iter().all(refused));
    let late = run_by_both(&deployment, &["grant", "demo", "--for", "1h", "--reason", "r"]).exits(8);
    assert!(late.stdout.contains("is suspended for good"), "{late:?}");
    let again = run(&deployment, &["suspend", "--principal", "bob", "--reason", "lost"]).exits(1);
    assert!(again.stderr.contains("suspended already"), "{again:?}");
    // Until the key is out no other change is taken, and each refusal says how to take it out.
    let root_key = deployment.key("root").display().to_string();
    let replace =
        ["node", "replace", "node-1", "--with", "node-2=127.0.0.1:1", "--key", &root_key, "--reason", "r"];
    for change in [&replace[..], &["authority", "propose", "--ttl", "5s"]] {
        let refused = run(&deployment, change).exits(3);
        for said in
            ["--remove-key SHA256:", " --add-key bob=NEW.pub", "--remove-principal bob", "nothing was sent"]
        {
            assert!(refused.stderr.contains(said), "{refused:?}");
        }
    }
    // As they say it, and with that other changes are taken again.
    let folder = deployment.folder().to_owned();
    generate(&folder.join("bob-2"), "bob", None).unwrap();
    let said = run(&deployment, &replace).exits(3).stderr;
    let line = said.split('`').find(|part| part.starts_with("tagout authority propose")).unwrap();
    let line = line.strip_prefix("tagout ").unwrap().replace("NEW.pub", "bob-2.pub");
    let words: Vec<_> = line.split(' ').chain(["--ttl", "5s"]).collect();
    let here = |words: &[&str]| Ran::of(deployment.command(words).current_dir(&folder)).exits(0);
    here(&words);
    here(&["authority", "sign", "authority-2.json", "--key", &root_key]);
    here(&["authority", "submit", "authority-2.json"]);
    here(&["authority", "propose", "--ttl", "6s"]);
    let root = deployment.key("root").with_extension("pub").display().to_string();
    let root = run(&deployment, &["suspend", &root, "--reason", "no"]).exits(3);
    assert!(root.stderr.contains("only an authority change takes it out of use"), "{root:?}");
    run(&deployment, &["log", "verify"]).exits(0);

    // Whoever may not read takes away all the same, and is not told that it was refused.
    std::fs::remove_file(deployment.dir().join("operator.token")).unwrap();
    let stranger = generate(&folder.join("stranger"), "stranger", None).map(|_| folder.join("stranger.pub"));
    let stranger = stranger.unwrap().display().to_string();
    for (taken, what) in [
        (&["stop", "demo/first", "--reason", "r"][..], "stop"),
        (&["revoke", &"1".repeat(64), "--reason", "r"], "revoke"),
        (&["suspend", &stranger, "--reason", "r"], "suspend"),
    ] {
        let taken = run(&deployment, taken).exits(0);
        let said = format!("the {what} stands; but reading takes an identity, and none was shown");
        assert!(taken.stdout.contains(&said), "{taken:?}");
    }
    assert_eq!(stopped(&guards[0]), LockKind::Halt);
}
