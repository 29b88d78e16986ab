//! The authority changes hands: root keys are rotated by both thresholds, people come and go, and a guard goes on under it.

use std::path::Path;
use std::process::Command;

use tagout_control_plane::sign::generate;
use tagout_tests::deployment::{Choice, Deployment, runtime};
use tagout_tests::ran::Ran;
use tagout_tests::wait::{DEADLINE, wait_until};

#[test]
fn s5_root_keys_are_rotated_by_both_thresholds_and_a_guard_goes_on_under_the_new_authority() {
    let deployment = Deployment::start(Choice::default());
    let runtime = runtime();
    let client = runtime.block_on(async {
        deployment.grant(&deployment.http(), "demo").await;
        deployment.sdk(&deployment.url(""))
    });
    let guard = client.guard("demo/agent").unwrap();
    runtime.block_on(guard.ready(DEADLINE)).unwrap();

    let folder = deployment.folder().join("ceremony");
    std::fs::create_dir(&folder).unwrap();
    let tagout = |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&folder));
    for name in ["root-2", "root-3", "carol"] {
        generate(&folder.join(name), name, None).unwrap();
    }
    let old_root = deployment.key("root").display().to_string();
    let alice = deployment.key("alice").display().to_string();

    let before = tagout(&["authority", "show", "--json"]).exits(0).json();
    assert_eq!((&before["version"], &before["index"]), (&1.into(), &0.into()));

    // The old root key goes, two new ones come, carol joins alice and bob, and it takes two of the three.
    tagout(&[
        "authority",
        "propose",
        "--reason",
        "yearly rotation",
        "--add-root",
        "root-2.pub",
        "--add-root",
        "root-3.pub",
        "--remove-root",
        "root",
        "--root-threshold",
        "2",
        "--add-person",
        "carol=carol.pub",
        "--role",
        "restart",
        "--members",
        "+carol",
    ])
    .exits(0);
    let diff = tagout(&["authority", "diff"]).exits(0);
    for said in [
        "carol joins (person)",
        "carol gains release, start, grant on *",
        "root signer root leaves",
        "root signer root-2 joins",
        "a change of the authority takes 2 of 2 root keys, where it took 1",
        "0 grants would be void by it",
    ] {
        assert!(diff.stdout.contains(said), "{said}: {diff:?}");
    }

    // Neither threshold alone does it, and a person's key signs no authority.
    let sign = |key: &str| tagout(&["authority", "sign", "authority-2.json", "--key", key]);
    assert!(
        tagout(&["authority", "submit", "authority-2.json"])
            .exits(4)
            .stderr
            .contains("no signature lies beside")
    );
    assert!(sign(&alice).exits(1).stderr.contains("is no root key"));
    assert!(sign(&old_root).exits(0).stdout.contains("more is needed: "));
    let early = tagout(&["authority", "submit", "authority-2.json"]).exits(4);
    assert!(early.stderr.contains("root-2, root-3"), "{early:?}");
    // One of the new ones signs with the tool that everybody has.
    ssh_keygen_signs(&folder, "root-2", "authority-2.json");
    assert!(sign("root-3").exits(0).stdout.contains("enough root keys have signed"));
    let submitted = tagout(&["authority", "submit", "authority-2.json"]).exits(0);
    assert!(submitted.stdout.contains("authority version 2 is in force"), "{submitted:?}");

    // The guard goes on, and takes what only the new authority allows: carol grants with alice.
    wait_until("the guard to go on", || guard.check().is_ok());
    let stop = tagout(&["stop", "demo/agent", "--reason", "after the change"]).exits(0);
    assert!(guard.check().is_err(), "{stop:?}");
    let by_two = ["--key", &alice, "--key", "carol"];
    tagout(&[&["resume", "demo/agent", "--reason", "reviewed"][..], &by_two].concat()).exits(0);
    wait_until("the guard to run by the word of carol", || guard.check().is_ok());
    tagout(&[&["grant", "demo/new", "--for", "1h", "--reason", "by carol"][..], &by_two].concat()).exits(0);
    let new = client.guard("demo/new").unwrap();
    runtime.block_on(new.ready(DEADLINE)).unwrap();

    // Who could do what, before and now.
    let genesis = tagout(&["authority", "show", "--version", "1"]).exits(0);
    assert!(!genesis.stdout.contains("carol"), "{genesis:?}");
    let at = tagout(&["authority", "show", "--at", "2099-01-01T00:00:00Z"]).exits(0);
    assert!(at.stdout.contains("2 of alice, bob, carol") && at.stdout.contains("root-3"), "{at:?}");
    tagout(&["authority", "show", "--at", "2001-01-01T00:00:00Z"]).exits(1);
    let history = tagout(&["authority", "history"]).exits(0);
    assert!(
        history.stdout.contains("authority version 2") && history.stdout.contains("root:root-3"),
        "{history:?}"
    );
    assert!(history.stdout.contains("\"yearly rotation\""), "{history:?}");

    // bob's key is lost: it is suspended, and the next version says how many scopes that leaves without consent.
    let propose = ["authority", "propose", "--remove-principal", "bob"];
    tagout(&propose).exits(0);
    let keys = ["--key", "root-2", "--key", "root-3"];
    let signed = tagout(&[&["authority", "sign", "authority-3.json"][..], &keys].concat()).exits(0);
    assert!(signed.stdout.contains("the draft says now that it disables 1 scope"), "{signed:?}");
    // The same bytes are what lies in the file, and one changed byte is not.
    let draft = std::fs::read_to_string(folder.join("authority-3.json")).unwrap();
    assert!(draft.contains("\"disables\": 1"), "{draft}");
    std::fs::write(folder.join("authority-3.json"), draft.replace("\"disables\": 1", "\"disables\": 0"))
        .unwrap();
    let changed = tagout(&["authority", "submit", "authority-3.json"]).exits(7);
    assert!(changed.stderr.contains("if the draft was edited since, sign it anew"), "{changed:?}");
    std::fs::write(folder.join("authority-3.json"), &draft).unwrap();
    tagout(&["authority", "submit", "authority-3.json"]).exits(0);
    wait_until("the grant of alice and bob to be void", || guard.check().is_err());
    assert!(new.check().is_ok(), "the grant of alice and carol holds");

    // This machine remembers the newest authority: without a node, and against one that shows an older one.
    let mut deployment = deployment;
    deployment.kill_node();
    let tagout = |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&folder));
    let remembered = tagout(&["authority", "show"]).exits(0);
    assert!(
        remembered.stdout.contains("authority version 3") && !remembered.stdout.contains("bob"),
        "{remembered:?}"
    );
    tagout(&["authority", "propose", "--ttl", "5s"]).exits(0);
    let offline = tagout(&[&["authority", "sign", "authority-4.json"][..], &keys].concat()).exits(0);
    assert!(offline.stdout.contains("was not looked up"), "{offline:?}");
    let state = std::fs::read_dir(deployment.folder().join("state/tagout")).unwrap().flatten();
    let file =
        state.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "authority"));
    let file = file.expect("the remembered authority");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("carol", "mallo")).unwrap();
    let forged = tagout(&["authority", "show"]).exits(7);
    assert!(forged.stderr.contains("find out who changed it"), "{forged:?}");
    std::fs::write(&file, &text).unwrap();

    // S10: a stop neither needs that memory nor trusts it.
    deployment.start_node();
    let tagout = |arguments: &[&str]| Ran::of(deployment.command(arguments).current_dir(&folder));
    std::fs::write(&file, "{}").unwrap();
    let stop = tagout(&["stop", "demo/new", "--reason", "all the same", "--no-wait"]);
    assert!(matches!(stop.code, Some(0 | 5)) && stop.stdout.contains("STOPPED demo/new"), "{stop:?}");
    std::fs::write(&file, &text).unwrap();
    let verified = tagout(&["log", "verify"]).exits(0);
    assert!(verified.stdout.contains("verified"), "{verified:?}");
}

fn ssh_keygen_signs(folder: &Path, key: &str, file: &str) {
    let mut sign = Command::new("ssh-keygen");
    sign.args(["-Y", "sign", "-n", "tagout-command", "-f", key, file]).current_dir(folder);
    Ran::of(&mut sign).exits(0);
}
