//! How nodes and clients reach one another, and how that fails.
//!
//! Two ways: network namespaces, where the kernel loses the packets, and loopback addresses for whoever is not root, where
//! a proxy of ours stands between any two.

mod loopback;
pub mod namespaces;

use std::collections::BTreeSet;
use std::process::Command;

use tagout_tests::deployment::Seat;

pub use self::loopback::Loopback;
pub use self::namespaces::Namespaces;

/// Who talks to whom. Nodes are counted from 1, as in their names; all clients (operators, guards, attackers) are in one
/// place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(usize),
    Clients,
}

/// All that is wrong with the network now. What is not named here works.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trouble {
    /// What the first sends to the second never arrives.
    pub cut: BTreeSet<(Place, Place)>,
    /// Of a hundred packets that arrive anywhere, so many are lost.
    pub loss_percent: u32,
    /// What one node sends to another arrives so much later.
    pub delay_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    Loopback,
    Namespaces,
}

pub enum Network {
    Loopback(Loopback),
    Namespaces(Namespaces),
}

impl Network {
    pub fn new(topology: Topology, nodes: usize) -> Self {
        match topology {
            Topology::Loopback => Self::Loopback(Loopback::new(nodes)),
            Topology::Namespaces => Self::Namespaces(Namespaces::new(nodes)),
        }
    }

    pub fn seats(&self) -> &[Seat] {
        match self {
            Self::Loopback(loopback) => loopback.seats(),
            Self::Namespaces(namespaces) => namespaces.seats(),
        }
    }

    /// Makes the network exactly as bad as `trouble` says.
    pub fn set(&self, trouble: &Trouble) {
        match self {
            Self::Loopback(loopback) => loopback.set(trouble),
            Self::Namespaces(namespaces) => namespaces.set(trouble),
        }
    }

    /// `command`, to be run at `place`. It keeps its process id.
    pub fn at(&self, place: Place, command: Command) -> Command {
        match self {
            Self::Loopback(_) => command,
            Self::Namespaces(namespaces) => namespaces.at(place, command),
        }
    }

    /// A node has a new process.
    pub fn started(&self, node: usize, pid: u32) {
        match self {
            Self::Loopback(loopback) => loopback.started(node, pid),
            Self::Namespaces(_) => {}
        }
    }

    /// A runtime whose connections are the clients'.
    pub fn client_runtime(&self) -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all();
        match self {
            Self::Loopback(_) => {}
            Self::Namespaces(namespaces) => {
                let enter = namespaces.entrance(Place::Clients);
                builder.on_thread_start(enter);
            }
        }
        builder.build().expect("a runtime")
    }
}

impl Trouble {
    /// Neither hears the other.
    pub fn part(&mut self, one: Place, other: Place) {
        self.cut.extend([(one, other), (other, one)]);
    }

    pub fn talk(&self, one: Place, other: Place) -> bool {
        !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one))
    }
}
