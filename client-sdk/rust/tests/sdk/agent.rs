//! Agents in processes of their own: each is a test that is nothing by itself, run as a program that answers lines.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use tagout::{Builder, Client};

use crate::node::Node;

const AGENT_OF: &str = "TAGOUT_TEST_AGENT_OF";

/// What an agent's process is told by whoever starts it.
pub(crate) struct Told(String);

impl Told {
    /// None where the process just runs the tests.
    pub(crate) fn hear() -> Option<Self> {
        let told = std::env::var(AGENT_OF).ok()?;
        // What the test runner says first has not always ended its line.
        println!("\nBEGUN");
        Some(Self(told))
    }

    pub(crate) fn builder(&self) -> Builder {
        let [url, pin, genesis] = self.0.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        Client::builder().node(url).pinned(pin).genesis_json(genesis)
    }
}

pub(crate) struct Agent {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    /// Runs `test` as an agent of `node`.
    pub(crate) fn start(test: &str, node: &Node) -> Self {
        let (genesis, pin) = {
            let world = node.shared.world.lock();
            (serde_json::to_string(&world.genesis).unwrap(), world.deployment.to_string())
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(AGENT_OF, format!("{} {pin} {genesis}", node.url))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut agent = Self { child, lines };
        while agent.line() != "BEGUN" {}
        agent
    }

    /// The next line that it says.
    pub(crate) fn line(&mut self) -> String {
        tokio::task::block_in_place(|| self.lines.next()).expect("the agent lives").unwrap()
    }

    pub(crate) fn ask(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        self.line()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
