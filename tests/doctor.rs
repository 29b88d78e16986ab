//! `tagout doctor`: could this host be stopped now?

use tagout_tests::deployment::{Choice, Deployment, free_address, runtime};
use tagout_tests::ran::Ran;

#[test]
fn the_doctor_says_by_which_paths_a_host_can_be_stopped_and_what_is_wrong() {
    let mut deployment = Deployment::start(Choice::default());
    runtime().block_on(async { deployment.grant(&deployment.http(), "demo").await });
    let folder = deployment.folder().join("stops");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.display().to_string();

    let well = Ran::of(&mut deployment.command(&["doctor", "demo/a", "--stop-folder", &folder])).exits(0);
    assert!(well.stdout.contains("This host can be stopped now: by push in milliseconds"), "{well:?}");
    assert!(well.stdout.contains("no call begins after 2s"), "{well:?}");
    let report = Ran::of(&mut deployment.command(&["doctor", "--json"])).exits(0).json();
    assert_eq!(report["verdict"], "pushed");
    assert_eq!(report["bounded_after_ms"], 2_000);
    assert_eq!(report["nodes"][0]["ready"], true);
    assert!(report["nodes"][0]["certificate_days_left"].as_i64().unwrap() > 300, "{report}");

    // Works, and something is wrong.
    let gone = format!("{folder}/gone");
    let ill = Ran::of(&mut deployment.command(&["doctor", "--stop-folder", &gone])).exits(1);
    assert!(ill.stdout.contains("problem: the stop folder") && ill.stdout.contains("make it"), "{ill:?}");
    let nobody = format!("https://{}", free_address());
    let profile = std::fs::read_to_string(deployment.profile()).unwrap();
    let two = profile.replace("nodes = [", &format!("nodes = [\n    \"{nobody}\","));
    std::fs::write(deployment.profile(), two).unwrap();
    let ill = Ran::of(&mut deployment.command(&["doctor"])).exits(1);
    assert!(ill.stdout.contains("This host can be stopped now"), "by the other one: {ill:?}");
    assert!(ill.stdout.contains(&format!("problem: {nobody}: cannot connect")), "{ill:?}");

    // A node that is gone lets no agent run.
    deployment.kill_node();
    let cut_off = Ran::of(&mut deployment.command(&["doctor", "demo/a", "--json"])).exits(6).json();
    assert_eq!(cut_off["verdict"], "denied");
    assert_eq!(cut_off["problems"].as_array().unwrap().len(), 2, "{cut_off}");
}
