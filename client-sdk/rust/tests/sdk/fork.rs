//! A forked child holds its parent's guards and may not use them (S4).

#![allow(unsafe_code)] // fork itself

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use tagout::{Reason, SocketError};

use crate::node::*;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_forked_child_is_denied_by_name_and_its_parent_goes_on() {
    let node = Node::start(10_000, 20_000).await;
    let guard = node.running_guard().await;
    let essential = guard.essential("handover").unwrap();
    // SAFETY: the child only asks the guard, which takes no lock there, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(guard.check(), Err(denied) if denied.reason == Reason::ForkedChild)
            && matches!(essential.check(), Err(denied) if denied.reason == Reason::ForkedChild)
            && guard.essential("other").is_ok_and(|other| other.check().is_err());
        // SAFETY: ends the child at once, without running anything of the parent's.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child, into a place that lives as long.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
    let _permit = guard.check().unwrap();
    assert_eq!(guard.agent(), &scope(AGENT));
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_forked_child_leaves_its_parents_sockets_alone() {
    let node = Node::start(10_000, 20_000).await;
    let guard = node.running_guard().await;
    let (stream, mut peer) = UnixStream::pair().unwrap();
    let call = guard.call().unwrap();
    let guarded = call.socket(&stream).unwrap();
    // SAFETY: the child asks the call and drops it, which takes no lock there, and leaves by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(call.check(), Err(stopped) if *stopped.reason() == Reason::ForkedChild)
            && matches!(call.socket(&stream), Err(SocketError::Stopped(_)));
        drop(guarded);
        // SAFETY: ends the child at once, without running anything of the parent's.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child, into a place that lives as long.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
    (&stream).write_all(b"on").unwrap();
    let mut heard = [0; 2];
    peer.read_exact(&mut heard).unwrap();
    call.check().unwrap();
}
