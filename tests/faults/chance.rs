//! Faults by chance: a seed gives the order of faults, how long each lasts, and what several at once do.
//!
//! The seed is printed, and `TAGOUT_SEED` repeats its choices; how processes and threads take turns it does not repeat.

use tagout_tests::random::Random;
use tagout_tests::skip;

use super::cluster::{Made, faketime};
use super::network::{Topology, namespaces};
use super::scenarios::{NO_NAMESPACES, one_at_a_time};
use super::story::{Story, Sum, say};
use super::workload::Load;

/// Kept so that forty scenarios, with those in `scenarios.rs`, take less than five minutes.
const QUICK_ROUNDS: u64 = 12;
const LONG_ROUNDS: u64 = 150;
/// The fault phase.
const STEPS: u64 = 6;
const STEP_MS: u64 = 700;

#[test]
fn s1_to_s10_hold_whatever_happens_on_loopback() {
    rounds("chance on loopback", Topology::Loopback);
}

#[test]
fn s1_to_s10_hold_whatever_happens_in_namespaces() {
    if !namespaces::possible() {
        skip!("faults::chance::s1_to_s10_hold_whatever_happens_in_namespaces", NO_NAMESPACES);
    }
    rounds("chance in namespaces", Topology::Namespaces);
}

fn rounds(name: &str, topology: Topology) {
    let given =
        std::env::var("TAGOUT_SEED").ok().map(|seed| seed.parse::<u64>().expect("TAGOUT_SEED is a number"));
    let long = std::env::var_os("TAGOUT_LONG").is_some();
    let rounds = match (given, long) {
        (Some(_), _) => 1,
        (None, true) => LONG_ROUNDS,
        (None, false) => QUICK_ROUNDS,
    };
    let first = given.unwrap_or_else(|| getrandom::u32().expect("randomness").into());
    let mut sum = Sum::default();
    for seed in (first..).take(rounds as usize) {
        println!("{name}: TAGOUT_SEED={seed}");
        let _turn = one_at_a_time();
        sum = sum + round(name, seed, topology);
    }
    say(&format!("FAULTED {name}: {sum}"));
}

fn round(name: &str, seed: u64, topology: Topology) -> Sum {
    let mut random = Random::new(seed, 1);
    let clocks = faketime().is_some() && random.below(3) == 0;
    let failing_writes = random.below(3) == 0;
    let made = Made { topology, clocks, failing_writes, ..Made::default() };
    let load =
        Load { operators: 3 + random.below(4) as usize, stoppers: random.below(3) as usize, attackers: 1 };
    let mut story = Story::begin(name, seed, made, load);
    for _ in 0..STEPS {
        step(&mut story, &mut random);
        story.for_ms(50 + random.below(STEP_MS));
        if random.below(3) == 0 {
            story.cluster.heal_network();
        }
    }
    story.end()
}

/// One more fault. A node that is down or still may be brought back instead.
fn step(story: &mut Story, random: &mut Random) {
    let cluster = &mut story.cluster;
    let node = 1 + random.below(cluster.all().count() as u64) as usize;
    if !cluster.runs(node) {
        return cluster.revive(node);
    }
    match random.below(12) {
        0 => cluster.kill(node),
        1 | 2 => cluster.kill_and_restart(node),
        3 => {
            for node in cluster.all() {
                cluster.kill_and_restart(node);
            }
        }
        4 => cluster.pause(node),
        5 => cluster.cut_off(node),
        6 => cluster.deafen(node),
        7 => cluster.silence(node),
        8 => cluster.cut_clients_off(node),
        9 if cluster.made().clocks => {
            let seconds = random.below(7200) as i64 - 3600;
            cluster.set_clock(node, seconds);
        }
        10 if cluster.made().failing_writes => cluster.limit_files(node, 1 << random.below(21)),
        11 if cluster.topology() == Topology::Namespaces => cluster.lose_packets(5 + random.below(30) as u32),
        11 => cluster.delay(5 + random.below(100)),
        _ => cluster.kill_and_restart(node),
    }
}
