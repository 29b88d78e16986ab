//! Faults by name: what operators fear, each told as it happens.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tagout_tests::skip;
use tagout_tests::wait::{wait_until, wait_within};

use super::cluster::{Made, TTL_MS, faketime};
use super::disk::{self, Flipped, largest};
use super::history::Answer;
use super::network::{Topology, namespaces};
use super::story::Story;
use super::workload::{Load, QUIET, stopped_by};

pub const NO_NAMESPACES: &str = "network namespaces need root";
const NO_SMALL_DISK: &str = "a small disk needs root, mount namespaces and loop devices";
/// Room for the stores to work in, and a reserve of a few MiB (see reserve.rs of the node).
const SMALL_DISK_MIB: u64 = 112;
const NO_FAKETIME: &str = "another date needs libfaketime";

const USUAL: Load = Load { operators: 4, stoppers: 1, attackers: 1 };

impl Default for Made {
    fn default() -> Self {
        Self {
            nodes: 3,
            topology: Topology::Loopback,
            clocks: false,
            failing_writes: false,
            small_disks: None,
        }
    }
}

/// Clusters at once would only take the processors from one another.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed() -> u64 {
    let given = std::env::var("TAGOUT_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| getrandom::u32().expect("randomness").into())
}

/// A cluster of this make, with the usual load, through `story`.
fn tell(name: &str, made: Made, story: impl FnOnce(&mut Story)) {
    tell_under(name, made, USUAL, story);
}

fn tell_under(name: &str, made: Made, load: Load, tell: impl FnOnce(&mut Story)) {
    let _turn = one_at_a_time();
    let mut story = Story::begin(name, seed(), made, load);
    tell(&mut story);
    story.end();
}

fn on_loopback() -> Made {
    Made::default()
}

fn in_namespaces() -> Made {
    Made { topology: Topology::Namespaces, ..Made::default() }
}

/// STORAGE.md, trap 1: a leader that is back before anybody missed it must not go on in its old term.
#[test]
fn s1_s8_a_leader_killed_and_at_once_restarted_under_32_writers_loses_nothing() {
    let load = Load { operators: 2, stoppers: 32, attackers: 0 };
    tell_under("the trap", on_loopback(), load, |story| {
        for _ in 0..8 {
            story.until_acknowledged(40);
            let leader = story.cluster.leader();
            story.cluster.kill_and_restart(leader);
        }
    });
}

#[test]
fn s1_s8_any_node_killed_and_restarted_loses_nothing() {
    tell("kill -9", on_loopback(), |story| {
        for node in [1, 2, 3, 1, 2, 3] {
            story.until_acknowledged(5);
            story.cluster.kill(node);
            story.for_ms(200);
            story.cluster.restart(node);
            story.for_ms(200);
        }
    });
}

#[test]
fn s1_s4_all_nodes_killed_at_once_come_back_with_everything() {
    tell("all killed", on_loopback(), |story| {
        story.until_acknowledged(20);
        for node in story.cluster.all() {
            story.cluster.kill(node);
        }
        // Long enough for every lease to be dead.
        story.for_ms(TTL_MS + 500);
        for node in story.cluster.all() {
            story.cluster.restart(node);
        }
        story.cluster.wait_until_ready();
        story.until_acknowledged(5);
    });
}

#[test]
fn s3_a_leader_in_the_minority_gives_no_lease() {
    if !namespaces::possible() {
        skip!("faults::scenarios::s3_a_leader_in_the_minority_gives_no_lease", NO_NAMESPACES);
    }
    tell("a leader in the minority", in_namespaces(), |story| {
        let leader = story.cluster.leader();
        story.cluster.cut_off(leader);
        story.for_ms(TTL_MS + 1_000);
        story.cluster.heal_network();
        story.for_ms(500);
    });
}

#[test]
fn s3_a_leader_that_does_not_hear_the_others_or_is_not_heard_is_replaced() {
    for topology in topologies() {
        tell("one-way partitions of the leader", Made { topology, ..Made::default() }, |story| {
            let leader = story.cluster.leader();
            story.cluster.deafen(leader);
            story.until_acknowledged(5);
            story.cluster.heal_network();
            let leader = story.cluster.leader();
            story.cluster.silence(leader);
            story.until_acknowledged(5);
        });
    }
}

fn topologies() -> Vec<Topology> {
    if namespaces::possible() {
        vec![Topology::Loopback, Topology::Namespaces]
    } else {
        vec![Topology::Loopback]
    }
}

#[test]
fn s6_s10_a_stop_at_a_node_that_is_cut_off_is_pushed_and_pending_and_commits_after_all() {
    tell("pending", on_loopback(), |story| {
        let node = story.cluster.a_follower();
        let guard = story.workload.guard_at(node, QUIET);
        story.cluster.cut_off(node);
        let (lock, answer) = story.stop(node, QUIET);
        assert!(is_pending(&answer), "a node without a quorum says {answer:?}");
        // Its own guards hear of it all the same; the others' do once it is in the log.
        wait_until("the pending stop to reach the node's guard", || stopped_by(&guard, lock));
        story.for_ms(300);
        story.cluster.heal_network();
        wait_until("the pending stop to reach every guard", || story.workload.stopped(QUIET, lock));
    });
}

#[test]
fn s10_a_pending_stop_outlives_its_node() {
    tell("pending across a restart", on_loopback(), |story| {
        let node = story.cluster.a_follower();
        story.cluster.cut_off(node);
        let (lock, answer) = story.stop(node, QUIET);
        assert!(is_pending(&answer), "a node without a quorum says {answer:?}");
        story.cluster.kill_and_restart(node);
        story.for_ms(300);
        story.cluster.heal_network();
        wait_until("the pending stop to reach every guard", || story.workload.stopped(QUIET, lock));
    });
}

/// Stops on both sides of a majority that is gone: none of the three nodes commits, and each of them takes its own.
#[test]
fn s10_with_every_node_alone_each_takes_a_stop() {
    tell("every node alone", on_loopback(), |story| {
        for node in story.cluster.all() {
            story.cluster.cut_off(node);
        }
        let taken: Vec<_> = story.cluster.all().map(|node| story.stop(node, QUIET)).collect();
        assert!(taken.iter().all(|(_, answer)| is_pending(answer)), "nodes without a quorum say {taken:?}");
        story.cluster.heal_network();
        wait_until("a pending stop to reach every guard", || {
            taken.iter().any(|(lock, _)| story.workload.stopped(QUIET, *lock))
        });
    });
}

fn is_pending(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused { status: 503, code } if code == "pending")
}

#[test]
fn s10_a_flood_of_forged_documents_refuses_no_stop() {
    let load = Load { operators: 3, stoppers: 1, attackers: 24 };
    tell_under("a flood", on_loopback(), load, |story| {
        story.for_ms(2_000);
        let leader = story.cluster.leader();
        story.cluster.kill_and_restart(leader);
        story.for_ms(1_000);
    });
}

#[test]
fn s3_a_leader_that_stood_still_gives_no_old_lease() {
    tell("SIGSTOP of the leader", on_loopback(), |story| {
        let leader = story.cluster.leader();
        story.cluster.pause(leader);
        story.until_acknowledged(10);
        story.for_ms(TTL_MS);
        story.cluster.resume(leader);
        story.for_ms(500);
    });
}

#[test]
fn s4_guards_that_reach_nobody_deny_after_a_ttl() {
    tell("clients cut off", on_loopback(), |story| {
        for node in story.cluster.all() {
            story.cluster.cut_clients_off(node);
        }
        story.for_ms(TTL_MS + 1_000);
        story.cluster.heal_network();
        story.for_ms(300);
    });
}

#[test]
fn s3_s10_a_node_with_a_wrong_clock_gives_no_lease_and_takes_stops() {
    if faketime().is_none() {
        skip!(
            "faults::scenarios::s3_s10_a_node_with_a_wrong_clock_gives_no_lease_and_takes_stops",
            NO_FAKETIME
        );
    }
    let made = Made { clocks: true, ..on_loopback() };
    tell("a wrong clock", made, |story| {
        let leader = story.cluster.leader();
        story.cluster.set_clock(leader, 10);
        let url = format!("{}/readyz", story.cluster.url(leader));
        wait_until("the node to notice its clock", || !story.cluster.answers(&url));
        wait_until("another node to lead", || story.cluster.leader() != leader);
        let (_, answer) = story.stop(leader, QUIET);
        assert!(matches!(answer, Answer::Took { .. }), "a node with a wrong clock says {answer:?}");
        story.cluster.set_clock(leader, -3_000);
        story.for_ms(500);
    });
}

#[test]
fn s10_a_node_with_a_full_disk_costs_nothing_and_all_full_still_stop() {
    if !disk::possible() {
        skip!(
            "faults::scenarios::s10_a_node_with_a_full_disk_costs_nothing_and_all_full_still_stop",
            NO_SMALL_DISK
        );
    }
    let made = Made { small_disks: Some(SMALL_DISK_MIB), ..on_loopback() };
    tell("a full disk", made, |story| {
        let node = story.cluster.a_follower();
        story.cluster.fill_disk(node);
        story.until_acknowledged(20);
        for other in story.cluster.all().filter(|other| *other != node) {
            story.cluster.fill_disk(other);
        }
        // Nothing is free anywhere, and stops are taken from what was held back for them. A node whose disk fills in the
        // middle of a write ends instead (see reserve.rs of the node); without two of them the third calls a stop pending.
        let mut up: Vec<_> = story.cluster.all().filter(|node| story.cluster.runs(*node)).collect();
        for node in up.clone() {
            let (_, answer) = story.stop(node, QUIET);
            let taken = matches!(answer, Answer::Took { .. });
            up.retain(|node| story.cluster.runs(*node));
            let honest = up.len() < 3 && (is_pending(&answer) || answer == Answer::Nothing);
            assert!(taken || honest, "with full disks and {up:?} up, node {node} says {answer:?}");
        }
        story.for_ms(500);
        for node in story.cluster.all().filter(|node| story.cluster.runs(*node)).collect::<Vec<_>>() {
            story.cluster.free_disk(node);
        }
    });
}

#[test]
fn s1_s8_a_node_whose_writes_fail_ends_and_comes_back() {
    let made = Made { failing_writes: true, ..on_loopback() };
    tell("failing writes", made, |story| {
        let node = story.cluster.a_follower();
        story.cluster.limit_files(node, 4_096);
        story.until_acknowledged(20);
        let said = story.cluster.wait_until_ended(node);
        assert!(said.contains("File too large"), "{said}");
        story.cluster.restart(node);
        story.cluster.wait_until_ready();
        let leader = story.cluster.leader();
        story.cluster.limit_files(leader, 4_096);
        story.for_ms(1_000);
    });
}

#[test]
fn s9_a_flipped_byte_in_a_nodes_store_is_refused_and_the_others_go_on() {
    tell("a flipped byte in the store", on_loopback(), |story| {
        let node = story.cluster.a_follower();
        story.until_acknowledged(20);
        story.cluster.kill(node);
        let store = largest(&story.cluster.data(node).join("raft/log"), |_| true);
        let flipped = Flipped::in_the_middle_of(&store);
        let said = story.cluster.fails_to_start(node);
        assert!(said.contains("tagout node replace"), "{said}");
        story.until_acknowledged(10);
        flipped.put_right();
    });
}

#[test]
fn s9_a_flipped_byte_in_a_sealed_tile_is_refused_and_the_others_go_on() {
    let load = Load { operators: 1, stoppers: 16, attackers: 0 };
    tell_under("a flipped byte in a tile", on_loopback(), load, |story| {
        let node = story.cluster.a_follower();
        wait_within(std::time::Duration::from_secs(60), "a sealed tile", || {
            story.cluster.data(node).join("log/tile/entries/000").exists().then_some(())
        });
        story.cluster.kill(node);
        let flipped = Flipped::in_the_middle_of(&story.cluster.data(node).join("log/tile/entries/000"));
        let said = story.cluster.fails_to_start(node);
        assert!(said.contains("tile/entries/000"), "{said}");
        story.until_acknowledged(10);
        flipped.put_right();
    });
}

#[test]
fn s1_s3_a_rolling_restart_hands_leadership_on() {
    tell("rolling restart", on_loopback(), |story| {
        for node in story.cluster.all() {
            story.cluster.end(node);
            story.until_acknowledged(3);
            story.cluster.restart(node);
            story.cluster.wait_until_ready();
        }
    });
}

#[test]
fn s1_to_s10_hold_over_a_slow_and_over_a_lossy_network() {
    tell("slow", on_loopback(), |story| {
        // Elections are timed for one site: from about 40 ms on, candidates miss one another's votes again and again.
        story.cluster.delay(10);
        story.until_acknowledged(20);
        let leader = story.cluster.leader();
        story.cluster.kill_and_restart(leader);
        story.until_acknowledged(5);
    });
    if namespaces::possible() {
        tell("lossy", in_namespaces(), |story| {
            story.cluster.lose_packets(15);
            story.until_acknowledged(20);
            let leader = story.cluster.leader();
            story.cluster.kill_and_restart(leader);
            story.until_acknowledged(5);
        });
    }
}

/// Its store is gone, so it never comes back; a new one takes its place while operators and guards go on.
#[test]
fn s8_s9_a_lost_node_is_replaced_under_load_and_the_new_ones_log_verifies() {
    tell("a node replaced", on_loopback(), |story| {
        let lost = story.cluster.a_follower();
        story.cluster.kill(lost);
        std::fs::remove_dir_all(story.cluster.data(lost)).expect("its data");
        let said = story.cluster.fails_to_start(lost);
        assert!(said.contains("tagout node replace"), "{said}");
        let new = story.cluster.replace(lost);
        story.cluster.wait_until_ready();
        story.cluster.wait_until_all_vote();
        // With it, another may fail.
        let other = story.cluster.all().find(|node| *node != new).expect("an older node");
        story.cluster.kill(other);
        story.until_acknowledged(5);
    });
}

/// Farther behind than the others keep their Raft logs: a snapshot brings the state, and peers the entries.
#[test]
fn s8_s9_a_node_that_is_far_behind_gets_a_snapshot_and_the_entries_from_its_peers() {
    if std::env::var_os("TAGOUT_LONG").is_none() {
        return; // more than ten thousand entries
    }
    let load = Load { operators: 1, stoppers: 64, attackers: 0 };
    tell_under("far behind", on_loopback(), load, |story| {
        let behind = story.cluster.a_follower();
        story.cluster.kill(behind);
        let ahead = story.cluster.leader();
        wait_within(std::time::Duration::from_secs(300), "more entries than nodes keep", || {
            story.cluster.log_size(ahead).filter(|size| *size > 16_000)
        });
        story.cluster.restart(behind);
        story.cluster.wait_until_ready();
    });
}
