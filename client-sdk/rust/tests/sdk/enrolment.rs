//! Enrolment, as a guard sees it: what a node says of it denies, and touches no other agent.

use tagout::proto::lease::Unenrolled;
use tagout::proto::token::Token;
use tagout::{BuildError, Client, Reason};

use crate::node::*;
use crate::world::*;

const OTHER: &str = "demo/agent_3";

fn refusal(guard: &Believer, agent: &str) -> Option<Reason> {
    guard.trusted.judge(&scope(agent), guard.now).refusal
}

/// As a node answers that does not know this process as the agent.
fn refuse(reply: &mut Reply) {
    reply.unenrolled.push(Unenrolled { agent: scope(AGENT), why: "the token is another's".into() });
    for view in reply.views.iter_mut().filter(|view| view.agent == scope(AGENT)) {
        view.grants.clear();
    }
}

#[test]
fn s4_an_agent_that_is_not_enrolled_is_denied_and_others_are_not() {
    let world = World::running();
    let mut guard = Believer::of(&world, &[AGENT, OTHER]);
    guard.renew_with(&world, refuse).unwrap();
    let why = Some(Reason::NotEnrolled { why: "the token is another's".into() });
    assert_eq!((refusal(&guard, AGENT), refusal(&guard, OTHER)), (why.clone(), None));
    assert!(guard.judge().cut, "it never had a lease");
    assert!(guard.trusted.answered(&scope(AGENT)), "that is an answer");
    guard.renew(&world);
    assert_eq!(refusal(&guard, AGENT), None, "once it is enrolled it opens");

    // What was allowed is denied at once, and its calls are cut as by a lapse.
    guard.pass(3_000);
    guard.renew_with(&world, refuse).unwrap();
    assert_eq!(refusal(&guard, AGENT), why);
    assert!(!guard.judge().cut);
    guard.pass(27_000);
    guard.renew_with(&world, refuse).unwrap();
    assert!(guard.judge().cut, "10 s and the grace of 20 s after its last lease");
    assert_eq!(refusal(&guard, OTHER), None);

    // Grants beside the refusal change nothing.
    guard.renew(&world);
    guard
        .renew_with(&world, |reply| {
            reply.unenrolled.push(Unenrolled { agent: scope(AGENT), why: "no".into() })
        })
        .unwrap();
    assert_eq!(refusal(&guard, AGENT), Some(Reason::NotEnrolled { why: "no".into() }));
    assert!(!guard.allowed());
}

#[test]
fn s4_a_refused_request_denies_at_once_until_the_next_lease() {
    let world = World::running();
    let mut guard = Believer::of(&world, &[AGENT, OTHER]);
    guard.renew(&world);
    guard.trusted.unenrolled(&[scope(AGENT)], "it was revoked");
    assert_eq!(refusal(&guard, AGENT), Some(Reason::NotEnrolled { why: "it was revoked".into() }));
    assert_eq!(refusal(&guard, OTHER), None);
    let says = refusal(&guard, AGENT).unwrap().to_string();
    assert_eq!(says, "this process is not enrolled for it: it was revoked");
    assert!(!refusal(&guard, AGENT).unwrap().is_lapse(), "a person decides");
    guard.renew(&world);
    assert!(guard.allowed());
}

/// A stop is the reason that people are told, since it is what they have to lift.
#[test]
fn a_lock_comes_before_a_missing_enrolment() {
    let mut world = World::running();
    let mut guard = Believer::new(&world);
    let stop = world.stop(AGENT, tagout::proto::lock::LockKind::Halt);
    guard.push(&stop);
    guard.renew_with(&world, refuse).unwrap();
    assert!(matches!(guard.judge().refusal, Some(Reason::Stopped(_))));
}

#[test]
fn a_token_that_is_none_is_said_when_the_client_is_built_and_never_shown() {
    let world = World::running();
    let build = |builder: tagout::Builder| {
        builder
            .genesis_json(serde_json::to_vec(&world.genesis).unwrap())
            .pinned(world.deployment.to_string())
            .node("http://127.0.0.1:1")
            .build()
    };
    let error = build(Client::builder().token("tagout_secret")).unwrap_err();
    assert!(matches!(error, BuildError::Token(_)));
    assert!(!error.to_string().contains("secret"), "{error}");

    let folder = std::env::temp_dir().join(format!("tagout-token-{}", std::process::id()));
    std::fs::write(&folder, format!("{}\n", Token::of_random([7; 32]).reveal())).unwrap();
    let built = build(Client::builder().token_file(&folder));
    std::fs::remove_file(&folder).unwrap();
    built.unwrap();
    assert!(matches!(build(Client::builder().token_file(&folder)), Err(BuildError::Read { .. })));
}

/// A client with guards of several agents goes on for those that it is enrolled for.
#[tokio::test]
async fn the_client_says_who_is_not_enrolled_and_goes_on_for_the_others() {
    let node = Node::start(10_000, 20_000).await;
    *node.shared.lie.lock() = Some(Box::new(|_, reply| refuse(reply)));
    let client = node.client();
    let (refused, other) = (client.guard(AGENT).unwrap(), client.guard(OTHER).unwrap());
    client.ready(PATIENCE).await.unwrap();
    let _permit = within(other.wait_enabled()).await.unwrap();
    assert!(matches!(refused.check().unwrap_err().reason, Reason::NotEnrolled { .. }));
    *node.shared.lie.lock() = None;
    node.renew(false);
    let _permit = within(refused.wait_enabled()).await.unwrap();
}
