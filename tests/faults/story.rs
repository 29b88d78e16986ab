//! A scenario: a cluster under load, what is done to it, and the end in which everything must be live again and every
//! property is checked.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tagout_proto::digest::Digest;
use tagout_proto::lock::LockKind;
use tagout_tests::deployment::PEOPLE;
use tagout_tests::ran::Ran;
use tagout_tests::random::Random;
use tagout_tests::wait::{wait_until, wait_within};

use super::cluster::{Cluster, Made, TTL_MS};
use super::history::{Answer, By, What};
use super::properties::{Run, violations};
use super::workload::{AGENTS, FLEET, Load, QUIET, Workload};

/// How long until everything that was begun has taken its course once the cluster is well.
const SETTLED_WITHIN: Duration = Duration::from_secs(45);

pub struct Story {
    pub cluster: Cluster,
    pub workload: Workload,
    name: String,
    seed: u64,
    began: Instant,
}

/// What was seen in runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub rounds: usize,
    pub faults: usize,
    pub operations: usize,
    pub acknowledged: usize,
    pub leases: usize,
    pub decisions: usize,
    pub violations: usize,
}

impl Story {
    /// A cluster that is ready, with guards that allow calls and a load on it.
    pub fn begin(name: &str, seed: u64, made: Made, load: Load) -> Self {
        let mut random = Random::new(seed, 0);
        let cluster = Cluster::start(made);
        let workload = Workload::start(&cluster, load, &mut random);
        Self { cluster, workload, name: name.into(), seed, began: Instant::now() }
    }

    /// Lets it go on as it is.
    pub fn for_ms(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// An operator stops `scope` at `node`; what the node says.
    pub fn stop(&self, node: usize, scope: &str) -> (Digest, Answer) {
        let (what, stop) = self.workload.field.lock("alice", scope, LockKind::Halt);
        (stop.digest(), self.send(node, what, stop))
    }

    pub fn send(&self, node: usize, what: What, envelope: tagout_proto::envelope::Envelope) -> Answer {
        let field = self.workload.field.another();
        self.cluster.in_clients(async move { field.send(node, By::Operators, what, &envelope).await })
    }

    /// Two people bring `scope` back, whatever holds it.
    pub fn bring_back(&self, scope: &'static str) {
        wait_within(SETTLED_WITHIN, "everything to be released and started", || {
            let field = self.workload.field.another();
            self.cluster.in_clients(async move { field.bring_back(1, scope).await }).then_some(())
        });
    }

    /// Waits for acknowledgements of the load.
    pub fn until_acknowledged(&self, more: usize) {
        let from = self.cluster.history.acknowledged();
        wait_until("the load to be acknowledged", || self.cluster.history.acknowledged() >= from + more);
    }

    /// The heal phase and the checks. Panics at a violation, with the seed that may repeat it.
    pub fn end(mut self) -> Sum {
        self.cluster.heal();
        self.cluster.history.healed();
        // The load meets a cluster that is well, and ends.
        self.for_ms(300);
        self.workload.end();
        self.wait_for_pending();
        self.bring_back(FLEET);
        wait_within(SETTLED_WITHIN, "every guard to allow calls again", || {
            let allowed = AGENTS.iter().all(|agent| self.workload.allowed(agent));
            if !allowed {
                // A stop that only guards still held is committed once they have told a node of it (S6).
                self.bring_back(FLEET);
            }
            allowed.then_some(())
        });
        self.everything_is_live();
        self.workload.end_of_watch();
        let endings = self.cluster.endings();
        let run = Run {
            record: self.cluster.history.record(),
            nodes: self.cluster.all().collect(),
            endings,
            ttl_ms: TTL_MS,
        };
        let mut found = violations(&run);
        found.extend(self.cluster.all().filter_map(|node| self.refused_by_a_verifier(node)));

        let record = &run.record;
        let sum = Sum {
            rounds: 1,
            faults: record.faults.len(),
            operations: record.attempts.len(),
            acknowledged: record.acknowledged().count(),
            leases: record.leases.len(),
            decisions: record.decisions.len(),
            violations: found.len(),
        };
        say(&format!("FAULTS {} (seed {}, {:?}): {sum}", self.name, self.seed, self.began.elapsed()));
        assert!(
            found.is_empty(),
            "{}: {} violations with TAGOUT_SEED={}:\n  {}",
            self.name,
            found.len(),
            self.seed,
            found.iter().take(40).cloned().collect::<Vec<_>>().join("\n  ")
        );
        sum
    }

    /// A stop through every node commits and reaches every guard, and its end does too.
    fn everything_is_live(&self) {
        for node in self.cluster.all() {
            let (lock, answer) = self.stop(node, QUIET);
            match answer {
                Answer::Took { .. } => {}
                // It took longer than a second, on a busy machine.
                Answer::Refused { status: 503, ref code } if code == "pending" => {
                    let lock = format!("{}/v1/locks/{lock}", self.cluster.url(node));
                    wait_until("a pending stop to be committed", || self.cluster.answers(&lock));
                }
                answer => panic!("node {node} is well again and says {answer:?}"),
            }
            wait_until("the stop to reach every guard", || self.workload.stopped(QUIET, lock));
            let field = &self.workload.field;
            let (what, release) = field.release(&PEOPLE, QUIET, vec![lock]);
            let answer = self.send(node, what, release);
            assert!(matches!(answer, Answer::Took { .. }), "node {node} says {answer:?} to a release");
            let (what, start) = field.start_of(&PEOPLE, QUIET, vec![lock]);
            let answer = self.send(node, what, start);
            assert!(matches!(answer, Answer::Took { .. }), "node {node} says {answer:?} to a start");
        }
    }

    /// What a node called pending it has to commit, now that it can.
    fn wait_for_pending(&self) {
        let record = self.cluster.history.record();
        let pending: Vec<Digest> = (record.attempts.iter())
            .filter(|attempt| matches!(&attempt.answer, Answer::Refused { code, .. } if code == "pending"))
            .map(|attempt| attempt.digest)
            .collect();
        if pending.is_empty() {
            return;
        }
        wait_within(SETTLED_WITHIN, "what was pending to be committed", || {
            let ending = self.cluster.endings().swap_remove(0);
            let log: std::collections::BTreeSet<Digest> =
                ending.decoded().map(|entry| entry.envelope.digest()).collect();
            pending.iter().all(|digest| log.contains(digest)).then_some(())
        });
    }

    /// S9, by two verifiers that share no code.
    fn refused_by_a_verifier(&self, node: usize) -> Option<String> {
        let url = self.cluster.url(node);
        let ours = self.cluster.deployment.command(&["log", "verify", "--from-start", "--node", &url]);
        let mut theirs = Command::new(outsider());
        theirs.arg("-key").arg(self.cluster.node_key(node).to_string());
        theirs.arg("-token").arg(self.cluster.deployment.token_file()).arg(format!("{url}/log"));
        theirs.env("SSL_CERT_FILE", self.cluster.deployment.dir().join("ca.pem"));
        [ours, theirs].into_iter().find_map(|verifier| {
            let ran = Ran::of(&mut self.cluster.command_of_client(verifier));
            (ran.code != Some(0))
                .then(|| format!("S9: the log of node {node} is refused: {}{}", ran.stdout, ran.stderr))
        })
    }
}

/// Everybody's program in Go (verifier/main.go), built once.
fn outsider() -> &'static Path {
    static BUILT: OnceLock<(PathBuf, tempfile::TempDir)> = OnceLock::new();
    &BUILT
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let program = folder.path().join("verifier");
            let mut go = Command::new("go");
            go.args(["build", "-o"]).arg(&program).arg("main.go");
            go.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/verifier"));
            go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOPROXY", "off");
            go.env("GOFLAGS", "").env("GOCACHE", folder.path().join("go-cache"));
            Ran::of(&mut go).exits(0);
            (program, folder)
        })
        .0
}

/// Shown also when the test passes; `tests/run` adds these lines up.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "\n{line}");
}

impl std::ops::Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            faults: self.faults + other.faults,
            operations: self.operations + other.operations,
            acknowledged: self.acknowledged + other.acknowledged,
            leases: self.leases + other.leases,
            decisions: self.decisions + other.decisions,
            violations: self.violations + other.violations,
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, faults, operations, acknowledged, leases, decisions, violations } = self;
        write!(
            f,
            "rounds {rounds}, faults {faults}, operations {operations}, acknowledged {acknowledged}, leases {leases}, \
             decisions of guards {decisions}, violations {violations}"
        )
    }
}
