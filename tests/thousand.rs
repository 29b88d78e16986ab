//! An automation that runs wild places a thousand locks; people clear them with one command and two documents.

use tagout::Reason;
use tagout_proto::lock::LockKind;
use tagout_tests::deployment::{Choice, Deployment, runtime, stop, try_submit};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_for, wait_until};

const LOCKS: usize = 1000;
const AT_ONCE: usize = 25;

#[test]
fn s2_a_thousand_locks_are_cleared_with_one_command_and_two_documents() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "demo").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard("demo/agent").unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();

    // Half on the agent, half on the agents beside it, and one that a person placed.
    let stops: Vec<_> = (0..LOCKS)
        .map(|n| {
            let scope = if n % 2 == 0 { "demo/agent".into() } else { format!("demo/other_{n}") };
            deployment.envelope(&["soar"], &stop(&scope, LockKind::Halt))
        })
        .collect();
    let (http, url) = (deployment.http(), deployment.url("/v1/commands"));
    runtime.block_on(async {
        for stops in stops.chunks(AT_ONCE) {
            let sent = stops.iter().map(|stop| try_submit(&http, &url, stop));
            for answer in futures_util::future::join_all(sent).await {
                answer.expect("the node answers").expect("a stop");
            }
        }
    });
    let by_hand = ["stop", "demo/by_hand", "--reason", "a person's", "--no-wait"];
    Ran::of(&mut deployment.command(&by_hand)).exits(5);
    wait_for("the guard to be stopped", || match guard.check().err()?.reason {
        Reason::Stopped(lock) => Some(lock),
        _ => None,
    });

    let both = ["alice", "bob"].map(|name| deployment.key(name).display().to_string());
    let keys = ["--key", &both[0], "--key", &both[1]];
    let resume = ["resume", "demo", "--below", "--by", "soar", "--reason", "the automation is off", "--json"];
    let resumed = Ran::of(&mut deployment.command(&[&resume[..], &keys].concat())).exits(0).json();
    let commands = resumed["commands"].as_array().expect("commands");
    let actions: Vec<_> = commands.iter().map(|command| command["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["release", "start"]);
    assert!(commands.iter().all(|command| command["awaited"] == 0), "{resumed}");

    // What a person placed stays, and the guard comes back: it verified that both lists hold each of its locks.
    let status = Ran::of(&mut deployment.command(&["status", "--json"])).exits(0).json();
    let locks = status["lock_records"].as_array().expect("locks");
    assert_eq!(locks.len(), 1, "{status}");
    assert_eq!(locks[0]["scope"], "demo/by_hand");
    wait_until("the guard to run again", || guard.check().is_ok());

    // The same in two steps, for a few.
    let again = ["stop", "demo/agent", "--reason", "once more", "--no-wait"];
    let lock = Ran::of(&mut deployment.command(&again)).exits(0).line("lock ");
    let many = ["--scope", "demo/agent", "--bulk", "--reason", "reviewed"];
    Ran::of(&mut deployment.command(&[&["release"][..], &many, &keys].concat())).exits(0);
    assert!(guard.check().is_err(), "S2: released is not started");
    Ran::of(&mut deployment.command(&[&["start"][..], &many, &keys].concat())).exits(0);
    wait_until("the guard to run again", || guard.check().is_ok());
    let shown = Ran::of(&mut deployment.command(&["log", "show", "--last", "40"])).exits(0);
    assert!(!lock.is_empty() && shown.stdout.contains("release 1 lock on demo/agent"), "{shown:?}");
    Ran::of(&mut deployment.command(&["log", "verify"])).exits(0);
}
