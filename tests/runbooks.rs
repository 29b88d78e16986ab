//! `deploy/RUNBOOKS.md`, line by line, on three live nodes: what its `sh` blocks say is run as it stands there, and ends as it
//! says. What its `console` blocks say is done by this test where a test can.

use std::path::Path;
use std::process::Command;

use tagout_control_plane::sign::generate;
use tagout_tests::bin;
use tagout_tests::process::Process;
use tagout_tests::ran::Ran;
use tagout_tests::receiver::{Answer, Receiver, entry};
use tagout_tests::wait::wait_until;

const RUNBOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/RUNBOOKS.md");
/// The addresses that the runbooks name.
const THEIR_SUBNET: &str = "10.0.0.";

struct World {
    // Dropped before their folder, where their output lies.
    running: Vec<(String, Process)>,
    folder: tempfile::TempDir,
    subnet: String,
    soc: Receiver,
    chapters: Vec<(String, Vec<Block>)>,
}

enum Block {
    /// Lines for a shell.
    Run(String),
    ByHand(String),
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("ops")).unwrap();
        for name in ["alice", "bob", "carol", "soar", "root"] {
            generate(&folder.path().join("ops").join(name), name, None).expect("a key");
        }
        // The usual ports on addresses of its own, other ones than nodes.rs has in this process.
        let pid = std::process::id();
        let subnet = format!("127.{}.{}.", 128 + pid % 64, (pid / 64) % 256);
        let chapters = chapters(&std::fs::read_to_string(RUNBOOKS).unwrap());
        // It does not want to hear of stops, at first.
        let soc = Receiver::answering(|event| match event["type"] == "tagout.stop" {
            true => Answer::Refuse(422),
            false => Answer::Take,
        });
        let mut world = Self { running: Vec::new(), folder, subnet, soc, chapters };
        world.script(
            "tagout init --name moltbook-prod --dir moltbook --person alice=ops/alice.pub --person bob=ops/bob.pub --ttl 2s \
             --automation soar=ops/soar.pub --root-key ops/root.pub --sign-root ops/root --without-enrolment \
             --nodes node-1=10.0.0.1,node-2=10.0.0.2,node-3=10.0.0.3",
        );
        world.script("tagout notifications key notify.key");
        let receivers = entry("soc", &world.soc.url(), "events = ['tightening']");
        for n in 1..=3 {
            let node = world.folder.path().join(format!("moltbook/node-{n}"));
            std::fs::copy(world.folder.path().join("notify.key"), node.join("notify.key")).unwrap();
            std::fs::write(node.join("notify.toml"), &receivers).unwrap();
            let config = node.join("tagout.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            std::fs::write(&config, format!("{text}\nnotify = \"notify.toml\"\n")).unwrap();
            world.serve(&format!("moltbook/node-{n}"));
        }
        wait_until("a leader", || {
            world.try_script("tagout grant support --for 24h --reason r --key ops/alice --key ops/bob").code
                == Some(0)
        });
        world
    }

    /// Runs the node of this folder.
    fn serve(&mut self, node: &str) {
        let folder = self.folder.path().join(node);
        let config = folder.join("tagout.toml");
        // The smallest disk reserve: many nodes of tests share one disk.
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}\nreserve_mib = 1\n")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut serve = Command::new(bin::tagout());
        let process =
            Process::spawn(&name, self.folder.path(), serve.arg("serve").arg("--config").arg(&config));
        self.running.push((name, process));
    }

    fn kill(&mut self, name: &str) {
        let at = self.running.iter().position(|(running, _)| running == name).expect("it runs");
        self.running.remove(at).1.kill();
    }

    fn try_script(&self, lines: &str) -> Ran {
        let mut bash = Command::new("bash");
        bash.arg("-c")
            .arg(checked(&lines.replace(THEIR_SUBNET, &self.subnet)))
            .current_dir(self.folder.path());
        let path = std::env::var("PATH").unwrap();
        let ours = bin::tagout();
        bash.env("PATH", format!("{}:{path}", ours.parent().map(Path::display).unwrap()));
        bash.env("TAGOUT_PROFILE", "moltbook/profile.toml").env("NO_COLOR", "1").env_remove("SSH_AUTH_SOCK");
        bash.env("XDG_STATE_HOME", self.folder.path().join("state"));
        Ran::of(&mut bash)
    }

    fn script(&self, lines: &str) -> Ran {
        self.try_script(lines).exits(0)
    }

    fn take(&mut self, chapter: &str) -> Block {
        let found = self.chapters.iter_mut().find(|(name, _)| name == chapter);
        let blocks = &mut found.unwrap_or_else(|| panic!("there is no chapter {chapter}")).1;
        assert!(!blocks.is_empty(), "{chapter} has fewer blocks than this test knows");
        blocks.remove(0)
    }

    /// Runs the chapter's next block.
    fn run(&mut self, chapter: &str) -> Ran {
        match self.take(chapter) {
            Block::Run(lines) => self.script(&lines),
            Block::ByHand(lines) => panic!("{chapter}: a line to run was expected, not {lines}"),
        }
    }

    /// The chapter's next block is for people, with this line in it, and says why in a comment.
    fn by_hand(&mut self, chapter: &str, line: &str) {
        match self.take(chapter) {
            Block::ByHand(lines) => {
                assert!(lines.starts_with("# ") && lines.contains(line), "{chapter}: {lines}")
            }
            Block::Run(lines) => panic!("{chapter}: {line} was expected, not {lines}"),
        }
    }
}

/// Each chapter with its blocks.
fn chapters(text: &str) -> Vec<(String, Vec<Block>)> {
    let mut chapters = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("## ") {
            chapters.push((name.to_owned(), Vec::new()));
        }
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let block = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
        let block = match kind {
            "sh" => Block::Run(block),
            "console" => Block::ByHand(block),
            _ => panic!("a block is sh or console, not {kind}"),
        };
        chapters.last_mut().expect("blocks stand in chapters").1.push(block);
    }
    chapters
}

/// The lines one after the other, each of which must end as its comment says.
fn checked(lines: &str) -> String {
    let mut script = String::from("set -o pipefail\n");
    for line in lines.lines() {
        let expected = line.split_once("# exits with ").map_or("0", |(_, code)| code.trim());
        script += &format!(
            "{line}\ncode=$?; [ $code = {expected} ] || {{ echo \"ended with $code and not with {expected}: \" {}; exit 99; }}\n",
            quoted(line)
        );
    }
    script
}

fn quoted(line: &str) -> String {
    format!("'{}'", line.replace('\'', "'\\''"))
}

#[test]
fn every_line_of_the_runbooks_does_what_they_say() {
    let mut world = World::start();

    let chapter = "The night call";
    for _ in 0..3 {
        world.run(chapter);
    }
    wait_until("the dead letter", || world.script("tagout notifications").stdout.contains("1 dead letter"));
    world.soc.answer(|_| Answer::Take);
    assert!(world.run(chapter).stdout.contains("1 notification about to be sent again to soc"));
    assert_eq!(world.soc.hears("tagout.stop").json()["data"]["scope"], "support/agent_22");

    let chapter = "Stolen key";
    world.script("tagout stop support/agent_3 --reason r --key ops/soar # exits with 5");
    for _ in 0..4 {
        world.run(chapter);
    }
    assert!(!world.script("tagout status --json").stdout.contains("support/agent_3"));
    world.script(
        "tagout agent enroll support/agent_7 --reason stolen --out agent_7.token --key ops/alice\n\
         tagout agent enroll support/agent_8 --reason r --out agent_8.token --key ops/alice",
    );
    world.run(chapter);
    let enrolled = world.script("tagout agent list --json").json()["enrolments"].clone();
    let mut reasons: Vec<_> =
        enrolled.as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["new host", "r"]);
    std::fs::copy(world.folder.path().join("moltbook/operator.token"), world.folder.path().join("stolen"))
        .unwrap();
    world.run(chapter);
    for n in 1..=3 {
        let list = |more: &str| format!("tagout --node https://10.0.0.{n}:7470 {more} token list");
        wait_until("the new token to be known", || world.try_script(&list("")).code == Some(0));
        let stolen = world.try_script(&format!("{} # exits with 3", list("--api-token stolen"))).exits(0);
        assert!(stolen.stderr.contains("it was revoked"), "{stolen:?}");
    }
    let listed = world.run(chapter).stdout;
    assert!(listed.contains("takes 1 token; you are token operator-2"), "{listed}");

    let chapter = "Lost quorum of people";
    world.run(chapter);
    world.run(chapter);
    world.by_hand(chapter, "tagout init");

    let chapter = "Stolen node";
    world.kill("node-3");
    world.run(chapter);
    world.by_hand(chapter, "tagout serve --config tagout.toml");
    world.serve("moltbook/node-4");
    let listed = |world: &World| world.try_script("tagout node list").stdout;
    wait_until("the new node to vote", || {
        let listed = listed(&world);
        listed.contains("node-4") && !listed.contains("node-3") && listed.contains("3 answer")
    });
    world.run(chapter);

    let chapter = "Expired everything";
    for _ in 0..3 {
        world.run(chapter);
    }
    world.by_hand(chapter, "openssl x509");
    world.run(chapter);

    let chapter = "Lost quorum of nodes";
    world.kill("node-2");
    world.kill("node-4");
    world.by_hand(chapter, "systemctl start tagout");
    world.run(chapter);
    world.run(chapter);
    world.by_hand(chapter, "systemctl disable --now tagout");
    world.kill("node-1");
    world.run(chapter);
    world.by_hand(chapter, "tagout serve --config restored/node-5/tagout.toml");
    world.serve("restored/node-5");
    // By a machine that remembers nothing: the one that does the chapter has only the new profile.
    let status = "XDG_STATE_HOME=$PWD/elsewhere tagout --profile restored/profile.toml status";
    wait_until("the new node", || world.try_script(status).code == Some(0));
    world.run(chapter);
    // The stop that only the lost nodes had was sent again, and is the one lock that is left.
    let left = world.script("tagout --profile restored/profile.toml status --json").json();
    assert_eq!(left["lock_records"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left["lock_records"][0]["scope"], "support/agent_9");
    world.run(chapter);

    for (chapter, blocks) in &world.chapters {
        assert!(blocks.is_empty(), "{chapter} has blocks that nothing runs");
    }
}
