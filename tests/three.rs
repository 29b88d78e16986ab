//! Three nodes on one machine, found by all where each of them listens.

use std::process::Command;

use serde_json::Value;

use crate::bin;
use crate::deployment::{Choice, Deployment, Seat, free_address, runtime};
use crate::process::Process;
use crate::wait::wait_for;

pub struct Three {
    // Dropped before its folder, where its output lies.
    nodes: Vec<Option<Process>>,
    seats: Vec<Seat>,
    pub deployment: Deployment,
    starts: u32,
}

impl Three {
    /// Makes them and starts them; all are ready and vote.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same, once the deployment is prepared.
    pub fn start_with(prepare: impl FnOnce(&Deployment)) -> Self {
        let seats: Vec<Seat> = (0..3)
            .map(|_| {
                let (api, peers) = (free_address(), free_address());
                Seat { api, peers, api_found_at: api, peers_found_at: peers }
            })
            .collect();
        let deployment = Deployment::make(Choice { seats: seats.clone(), ..Choice::default() });
        prepare(&deployment);
        let mut three = Self { nodes: vec![None, None, None], seats, deployment, starts: 0 };
        three.run();
        // The first one begins alone, and whoever loses it then has lost the quorum.
        for node in 0..3 {
            wait_for("all of them to vote", || {
                (three.cluster(node)?["voters"].as_array()?.len() == 3).then_some(())
            });
        }
        three
    }

    /// Starts them again, after [`Three::kill`].
    pub fn run(&mut self) {
        (0..3).for_each(|node| self.run_one(node));
        let (http, runtime) = (self.deployment.http(), runtime());
        for seat in &self.seats {
            wait_for("every node to be ready", || {
                let ready = runtime.block_on(http.get(format!("https://{}/readyz", seat.api)).send());
                ready.ok().filter(|r| r.status().is_success())
            });
        }
    }

    /// Starts one, which is not ready before another one is there.
    pub fn run_one(&mut self, node: usize) {
        self.starts += 1;
        let config = self.deployment.dir().join(format!("node-{}/tagout.toml", node + 1));
        let mut serve = Command::new(bin::tagout());
        serve.arg("serve").arg("--config").arg(config);
        let name = format!("node-{}-{}", node + 1, self.starts);
        self.nodes[node] = Some(Process::spawn(&name, self.deployment.folder(), &mut serve));
    }

    /// `kill -9` of all of them.
    pub fn kill(&mut self) {
        self.nodes.iter_mut().filter_map(Option::take).for_each(|mut node| node.kill());
    }

    /// `kill -9` of one.
    pub fn kill_one(&mut self, node: usize) {
        self.nodes[node].take().expect("it runs").kill();
    }

    /// At the node with this number, from 0 on.
    pub fn url(&self, node: usize, path: &str) -> String {
        format!("https://{}{path}", self.seats[node].api)
    }

    /// Which of them leads, by those that run.
    pub fn leader(&self) -> usize {
        wait_for("a leader", || {
            let leader = (0..3).find_map(|node| self.cluster(node)?["leader"].as_u64())?;
            Some(leader as usize - 1)
        })
    }

    fn cluster(&self, node: usize) -> Option<Value> {
        let asked = self.deployment.http().get(self.url(node, "/v1/cluster"));
        runtime().block_on(async { asked.send().await.ok()?.json().await.ok() })
    }
}
