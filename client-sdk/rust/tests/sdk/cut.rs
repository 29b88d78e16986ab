//! Calls in their caller's own hands: told of a cut, their sockets shut, and confirmed only once they are dropped.

use std::fs::File;
use std::future::pending;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use tagout::limits::SOCKETS_PER_AGENT_MAX;
use tagout::proto::lock::LockKind;
use tagout::{Reason, SocketError, Stopped};
use tokio::sync::oneshot;

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_or_cut_falls_back() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    assert_eq!(guard.run_or_else(async { 7 }, async |_| unreachable!()).await, 7);
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run_or_else(pending(), async |stopped| stopped).await }
    });
    while guard.state().calls_under_way < 1 {
        tokio::task::yield_now().await;
    }
    let lock = node.stop(AGENT, LockKind::Halt, true);
    let cut = within(call).await.unwrap();
    assert!(matches!(cut, Stopped::Cut(_)), "{cut}");
    let refused = guard.run_or_else(async { unreachable!() }, async |stopped| stopped).await;
    assert!(
        matches!(&refused, Stopped::Denied(d) if matches!(&d.reason, Reason::Stopped(l) if l.id == lock))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_call_in_its_callers_hands_hears_of_the_cut_and_is_confirmed_when_it_is_dropped() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let call = guard.call().unwrap();
    let token = call.token();
    call.token().cancel();
    assert_eq!((call.check(), token.is_cancelled()), (Ok(()), false), "it is no way to cut");
    assert_eq!(call.run(async { 7 }).await, Ok(7));
    assert_eq!(guard.state().calls_under_way, 1);

    let lock = node.stop(AGENT, LockKind::Halt, true);
    let cut = within(call.cancelled()).await;
    assert!(matches!(cut.reason(), Reason::Stopped(told) if told.id == lock), "{cut}");
    within(token.cancelled()).await;
    assert_eq!(call.check(), Err(cut.clone()));
    assert_eq!(call.run(pending::<()>()).await, Err(cut));
    assert!(guard.call().is_err());
    assert!(node.shared.confirmations.borrow().is_empty(), "it is under way until it is dropped");
    drop(call);
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == lock && c.calls_cut == 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_essential_call_goes_on_under_a_restriction() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    node.shared.world.lock().grant_with("demo", DAY_MS, serde_json::json!({"essential": ["handover"]}));
    let guard = node.running_guard().await;
    let lock = node.stop(AGENT, LockKind::Restrict, true);
    until(&guard, |state| stopped_by(state, lock)).await;
    assert!(guard.call().is_err());
    guard.essential("handover").unwrap().call().unwrap().check().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_a_halt_shuts_the_socket_that_a_thread_blocks_on() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let (stream, mut peer) = connection();
    let (blocks, blocked) = oneshot::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn({
        let guard = guard.clone();
        move || {
            let call = guard.call().unwrap();
            let _cut = call.socket(&stream).unwrap();
            blocks.send(()).unwrap();
            let read = (&stream).read(&mut [0; 8]);
            let checked = call.check();
            left.recv().unwrap();
            (read, checked)
        }
    });
    blocked.await.unwrap();
    let lock = node.stop("demo", LockKind::Halt, true);
    // What comes after the shutdown is only the peer's end of it.
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    until(&guard, |state| stopped_by(state, lock)).await;
    assert!(node.shared.confirmations.borrow().is_empty(), "the call is not dropped yet");
    leave.send(()).unwrap();
    let (read, checked) = thread.join().unwrap();
    assert_eq!(read.unwrap(), 0);
    assert!(matches!(checked.unwrap_err().reason(), Reason::Stopped(told) if told.id == lock));
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.lock == lock && c.calls_cut == 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_lapse_past_its_grace_shuts_sockets() {
    let node = Node::start(2_000, 200).await;
    let guard = node.running_guard().await;
    let call = guard.call().unwrap();
    let (stream, mut peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let _cut = call.socket(&stream).unwrap();
    node.shared.dark.send_replace(true);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    assert!(matches!(call.check().unwrap_err().reason(), Reason::Lapsed { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_cut_shuts_sockets_and_only_those_that_are_registered() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let call = guard.call().unwrap();
    let (stays, stays_peer) = connection();
    let (goes, goes_peer) = connection();
    drop(call.socket(&stays).unwrap());
    let guarded = call.socket(&goes).unwrap();
    let pause = node.stop(AGENT, LockKind::Pause, true);
    until(&guard, |state| stopped_by(state, pause)).await;
    assert!(is_open(&stays, &stays_peer) && is_open(&goes, &goes_peer));
    let halt = node.stop(AGENT, LockKind::Halt, true);
    within(call.cancelled()).await;
    assert_eq!((&goes_peer).read(&mut [0; 8]).unwrap(), 0);
    assert!(is_open(&stays, &stays_peer), "dropped, it is registered no longer");
    drop(guarded);

    // One that comes after the cut is shut where it stands, and takes no other with it.
    node.release(AGENT, pause);
    node.release(AGENT, halt);
    node.start_again(AGENT, halt);
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let next = guard.call().unwrap();
    let (other, other_peer) = connection();
    let _guarded = next.socket(&other).unwrap();
    let late = call.socket(&stays).unwrap_err();
    assert!(matches!(&late, SocketError::Stopped(Stopped::Cut(_))), "{late}");
    assert_eq!((&stays_peer).read(&mut [0; 8]).unwrap(), 0);
    assert!(is_open(&other, &other_peer));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shut_is_refused() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let guard = node.running_guard().await;
    let call = guard.call().unwrap();
    let refused = |refused: Result<_, SocketError>| refused.map(drop).unwrap_err();
    let file = File::open("/dev/null").unwrap();
    assert!(matches!(refused(call.socket(&file)), SocketError::NotConnected(_)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(refused(call.socket(&listener)), SocketError::NotConnected(_)));
    let (stream, peer) = connection();
    let mut guarded: Vec<_> = (0..SOCKETS_PER_AGENT_MAX).map(|_| call.socket(&stream).unwrap()).collect();
    assert!(matches!(refused(call.socket(&stream)), SocketError::TooMany));
    guarded.pop();
    guarded.push(call.socket(&stream).unwrap());
    drop(guarded);
    assert!(is_open(&stream, &peer), "only duplicates were closed");
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    for one in [&stream, &peer] {
        one.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (stream, peer)
}

fn is_open(mut one: &TcpStream, mut other: &TcpStream) -> bool {
    let mut heard = [0; 2];
    one.write_all(b"on").is_ok() && other.read_exact(&mut heard).is_ok()
}
