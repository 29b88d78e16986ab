//! Clocks that part: a machine that sleeps, one that its hypervisor holds, a wall clock that is set.
//!
//! No process may set the machine's clocks, and the SDK reads them where libfaketime does not reach. But a process of one
//! thread can go over to a time namespace with another CLOCK_BOOTTIME while it runs; its wall clock and CLOCK_MONOTONIC stay
//! what they are. What a client sees then is exactly what it sees of those three.

#![allow(unsafe_code)] // fork, and what moves a process between namespaces

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tagout::Reason;
use tagout::proto::lock::LockKind;

use crate::agent::{Agent, Told};
use crate::client::until;
use crate::node::*;
use crate::skip;
use crate::world::*;

/// An agent that answers `call`, that waits until it is `open` or `denied`, and whose boot clock jumps by milliseconds.
/// Between two lines its client stands still.
#[test]
fn agent_in_time_namespaces() {
    let Some(told) = Told::hear() else { return };
    // SAFETY: the test runner's thread only waits for this one, so nothing that the child needs is locked.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = catch_unwind(AssertUnwindSafe(|| answer_lines(&told)));
        // SAFETY: ends the child at once, without running anything of the test runner's.
        unsafe { libc::_exit(i32::from(ended.is_err())) }
    }
    // SAFETY: waits for our own child, and wants to know nothing of it.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

fn answer_lines(told: &Told) {
    // Its boot clock begins far from everybody else's.
    let mut ahead_ms = DAY_MS as i64;
    if set_boot_clock(ahead_ms).is_err() {
        return println!("CANNOT");
    }
    println!("SET");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = told.builder().runtime(runtime.handle().clone()).build().unwrap();
    let guard = client.guard(AGENT).unwrap();
    for line in std::io::stdin().lines() {
        let denied = match line.unwrap().as_str() {
            "call" => guard.check().err().map(|denied| denied.reason),
            "open" => runtime.block_on(until(&guard, |state| state.enabled())).denied,
            "denied" => runtime.block_on(until(&guard, |state| !state.enabled())).denied,
            jump_ms => {
                ahead_ms += jump_ms.parse::<i64>().unwrap();
                set_boot_clock(ahead_ms).unwrap();
                guard.check().err().map(|denied| denied.reason)
            }
        };
        println!(
            "{}",
            match denied {
                None => "ALLOWED".into(),
                Some(Reason::ClockJumped) => "JUMPED".into(),
                Some(Reason::Stopped(_)) => "STOPPED".into(),
                // Which of the two depends on how long it was away.
                Some(Reason::Lapsed { .. } | Reason::ClientStuck { .. }) => "LAPSED".into(),
                Some(other) => format!("{other:?}"),
            }
        );
    }
}

/// Goes over to a time namespace whose boot clock is so much ahead of the machine's. It needs root.
fn set_boot_clock(ahead_ms: i64) -> std::io::Result<()> {
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: makes a namespace for children to come; this process stays where it is.
    done(unsafe { libc::unshare(libc::CLONE_NEWTIME) })?;
    let (seconds, rest_ms) = (ahead_ms.div_euclid(1_000), ahead_ms.rem_euclid(1_000));
    fs::write("/proc/self/timens_offsets", format!("boottime {seconds} {}\n", rest_ms * 1_000_000))?;
    let namespace = File::open("/proc/self/ns/time_for_children")?;
    // SAFETY: moves this process, which has one thread, and touches no memory but the kernel's page of clocks.
    done(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWTIME) })
}

/// The agent, where this machine lets it move its boot clock.
fn start(node: &Node) -> Option<Agent> {
    let mut agent = Agent::start("clocks::agent_in_time_namespaces", node);
    (agent.line() == "SET").then_some(agent)
}

const NO_NAMESPACE: &str = "time namespaces need root";

#[tokio::test(flavor = "multi_thread")]
async fn s3_time_that_the_machine_sleeps_counts_and_the_first_check_after_it_denies() {
    let node = Node::start(60_000, 20_000).await;
    let Some(mut agent) = start(&node) else {
        skip!(
            "clocks::s3_time_that_the_machine_sleeps_counts_and_the_first_check_after_it_denies",
            NO_NAMESPACE
        )
    };
    assert_eq!(agent.ask("open"), "ALLOWED", "only its own boot clock counts for it");
    node.shared.hold_leases.send_replace(true);
    assert_eq!(agent.ask("61000"), "LAPSED", "CLOCK_MONOTONIC has not moved");
    assert_eq!(agent.ask("call"), "LAPSED");
    node.shared.hold_leases.send_replace(false);
    assert_eq!(agent.ask("open"), "ALLOWED");
    node.stop(AGENT, LockKind::Halt, true);
    assert_eq!(agent.ask("denied"), "STOPPED");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_jump_of_one_clock_against_the_other_denies_until_a_newer_lease() {
    let node = Node::start(20_000, 20_000).await;
    let Some(mut agent) = start(&node) else {
        skip!("clocks::s3_a_jump_of_one_clock_against_the_other_denies_until_a_newer_lease", NO_NAMESPACE)
    };
    // The wall clock ran on while a hypervisor held the machine, or was set forward; then it was set back.
    for jump in ["-1500", "1500"] {
        assert_eq!(agent.ask("open"), "ALLOWED");
        node.shared.hold_leases.send_replace(true);
        // No boot clock goes back behind the moment of a nonce; the namespace's must not either.
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        assert_eq!(agent.ask(jump), "ALLOWED", "its lease goes on by its own clock");
        assert_eq!(agent.ask("denied"), "JUMPED", "but who knows how old it is?");
        assert_eq!(agent.ask("call"), "JUMPED");
        node.shared.hold_leases.send_replace(false);
    }
    assert_eq!(agent.ask("open"), "ALLOWED");
}
