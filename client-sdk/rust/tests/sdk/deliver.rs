//! Stops that come past the service: brought by the program, or dropped as files on its host (S6).

use std::path::{Path, PathBuf};

use tagout::proto::digest::Digest;
use tagout::proto::envelope::Envelope;
use tagout::proto::lock::LockKind;
use tagout::proto::wire::StopPath;
use tagout::trusted::PushRefused;
use tagout::{Client, DeliverError, Found, Gone, Guard, Reason, StopFileError, StopFolder};

use crate::client::{stopped_by, until};
use crate::node::*;
use crate::world::*;

const TTL_MS: u64 = 10_000;
const GRACE_MS: u64 = 20_000;

/// A stop that was signed and sent to no node.
fn signed(node: &Node, scope: &str) -> Envelope {
    let document = node.shared.world.lock().stop_document(scope, LockKind::Halt);
    envelope(&document, &[Who::Bot])
}

fn json(stop: &Envelope) -> Vec<u8> {
    serde_json::to_vec(stop).unwrap()
}

async fn open(client: &Client, agent: &str) -> Guard {
    let guard = client.guard(agent).unwrap();
    let _permit = within(guard.wait_enabled()).await.unwrap();
    guard
}

/// Whether the service has it in its log.
fn committed(node: &Node, lock: Digest) -> bool {
    let world = node.shared.world.lock();
    world.ledger.lock_status(&lock, &scope(AGENT)) != tagout::proto::ledger::LockStatus::Unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_brought_stop_holds_at_once_and_is_handed_on_to_the_service() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let guard = open(&client, AGENT).await;
    let call = tokio::spawn({
        let guard = guard.clone();
        async move { guard.run(std::future::pending::<()>()).await }
    });
    while guard.state().calls_under_way == 0 {
        tokio::task::yield_now().await;
    }
    // Signed long ago, and no node can be asked.
    node.shared.hold_leases.send_replace(true);
    let stop = signed(&node, "demo");
    let delivered = within(client.deliver(&json(&stop))).await.unwrap();
    assert_eq!((delivered.document, delivered.agents), (stop.digest(), vec![scope(AGENT)]));
    assert!(stopped_by(&guard.state(), stop.digest()), "{:?}", guard.state());
    assert_eq!(guard.last_change().unwrap().by, Some(StopPath::Deliver));
    assert!(within(call).await.unwrap().is_err(), "the call is cut");
    assert!(!committed(&node, stop.digest()));

    let counted = client.counters();
    assert_eq!((counted.stops, counted.calls_cut), (1, 1), "{counted:?}");
    let (leases, state) = (counted.leases, guard.state());
    assert!(
        leases > 0 && state.left.is_zero() && !state.lease_left.is_zero(),
        "stopped, with a lease: {state:?}"
    );
    assert_eq!(state.log_size, node.shared.world.lock().ledger.size());

    node.shared.hold_leases.send_replace(false);
    reached(&node.shared.confirmations, |all| all.iter().any(|c| c.by == StopPath::Deliver)).await;
    reached(&node.shared.leases, |_| committed(&node, stop.digest())).await;
    // Twice is once.
    assert_eq!(within(client.deliver(&json(&stop))).await.unwrap().agents, [scope(AGENT)]);

    // It ends as every other, and then its bytes are worth nothing.
    node.release("demo", stop.digest());
    node.start_again("demo", stop.digest());
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let again = within(client.deliver(&json(&stop))).await;
    assert_eq!(again, Err(DeliverError::Used { lock: stop.digest() }));
    assert!(guard.check().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_agents_that_come_later_are_under_a_brought_stop() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let other = open(&client, "demo/agent_3").await;
    let stop = signed(&node, AGENT);
    assert_eq!(within(client.deliver(&json(&stop))).await.unwrap().agents, []);
    assert!(other.check().is_ok(), "it is not for this one");
    let guard = client.guard(AGENT).unwrap();
    until(&guard, |state| stopped_by(state, stop.digest())).await;
    reached(&node.shared.leases, |_| committed(&node, stop.digest())).await;
    assert!(stopped_by(&guard.state(), stop.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stop_is_refused_and_changes_nothing() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let client = node.client();
    let guard = open(&client, AGENT).await;
    let stop = signed(&node, AGENT);
    let grant = {
        let mut world = node.shared.world.lock();
        let document = world.grant_document("demo", DAY_MS);
        envelope(&document, &PEOPLE)
    };
    let forged = Envelope { document: stop.document.replace("test", "tost"), ..stop.clone() };
    let unsigned = Envelope { signatures: Vec::new(), ..stop.clone() };
    for (bytes, wanted) in [
        (b"stop".to_vec(), "no JSON"),
        (vec![b' '; tagout::limits::DELIVERY_MAX_BYTES + 1], "at most 65536"),
        (json(&unsigned), "no signature"),
        (json(&forged), "signature"),
        (json(&grant), "takes nothing away"),
    ] {
        let refused = within(client.deliver(&bytes)).await.unwrap_err();
        assert!(refused.to_string().contains(wanted), "{refused}");
    }
    assert!(guard.check().is_ok(), "unlike a push it need not come from a node, so nobody is denied for it");
    drop(within(client.deliver(&json(&stop))).await.unwrap());
    assert!(guard.check().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_nothing_is_delivered_to_a_client_whose_thread_has_ended() {
    let node = Node::start(TTL_MS, GRACE_MS).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = node.builder().node(&node.url).runtime(runtime.handle().clone()).build().unwrap();
    let guard = open(&client, AGENT).await;
    runtime.shutdown_background();
    until(&guard, |state| state.denied == Some(Reason::ClientGone { why: Gone::RuntimeEnded })).await;
    let delivered = within(client.deliver(&json(&signed(&node, AGENT)))).await;
    assert_eq!(delivered, Err(DeliverError::ClientGone));
}

/// A folder of stops, and how to write to it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn drop_stop(&self, name: &str, stop: &Envelope) -> PathBuf {
        self.write(&format!("{name}.sig"), stop.signatures[0].as_bytes());
        self.write(name, stop.document.as_bytes())
    }

    fn client(&self, node: &Node) -> Client {
        node.builder().node(&node.url).stop_folder(self.path()).build().unwrap()
    }
}

async fn found(client: &Client, wanted: impl Fn(&StopFolder) -> bool) -> StopFolder {
    within(async {
        loop {
            let folder = client.stop_folder().unwrap();
            if wanted(&folder) {
                return folder;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_stop_that_is_dropped_as_a_file_stops_and_is_told_once_it_is_used() {
    let (node, folder) = (Node::start(TTL_MS, GRACE_MS).await, Folder::new());
    let client = folder.client(&node);
    let guard = open(&client, AGENT).await;
    let stop = signed(&node, "demo");
    let file = folder.drop_stop("stop-0001.json", &stop);
    let state = until(&guard, |state| stopped_by(state, stop.digest())).await;
    assert_eq!(state.last_change.unwrap().by, Some(StopPath::File));
    let taken = |found: &Found| matches!(found, Found::Taken { document, agents } if *document == stop.digest() && agents.len() == 1);
    let known = found(&client, |folder| folder.files.len() == 1).await;
    assert!(known.files[0].path == file && taken(&known.files[0].found), "{known:?}");
    reached(&node.shared.leases, |_| committed(&node, stop.digest())).await;

    node.release("demo", stop.digest());
    node.start_again("demo", stop.digest());
    let _permit = within(guard.wait_enabled()).await.unwrap();
    let used = |found: &Found| matches!(found, Found::Used { lock } if *lock == stop.digest());
    found(&client, |folder| folder.files.iter().any(|file| used(&file.found))).await;

    // A process that starts anew does not know that yet: it is stopped until the service has proven the end.
    let again = folder.client(&node);
    let guard = open(&again, AGENT).await;
    found(&again, |folder| folder.files.iter().any(|file| used(&file.found))).await;
    assert!(guard.check().is_ok());
    std::fs::remove_file(&file).unwrap();
    found(&again, |folder| folder.files.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_taking_the_file_away_lifts_nothing() {
    let (node, folder) = (Node::start(TTL_MS, GRACE_MS).await, Folder::new());
    let client = folder.client(&node);
    let guard = open(&client, AGENT).await;
    let stop = signed(&node, AGENT);
    let file = folder.drop_stop("stop.json", &stop);
    until(&guard, |state| stopped_by(state, stop.digest())).await;
    std::fs::remove_file(&file).unwrap();
    found(&client, |folder| folder.files.is_empty()).await;
    let leases = *node.shared.leases.borrow();
    node.renew(false);
    reached(&node.shared.leases, |now| *now > leases).await;
    assert!(stopped_by(&guard.state(), stop.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_stops_are_told_and_keep_none_from_being_read() {
    let (node, folder) = (Node::start(TTL_MS, GRACE_MS).await, Folder::new());
    std::fs::remove_dir(folder.path()).unwrap();
    let client = folder.client(&node);
    let guard = open(&client, AGENT).await;
    found(&client, |folder| folder.problem.is_some()).await;
    std::fs::create_dir(folder.path()).unwrap();
    found(&client, |folder| folder.problem.is_none()).await;

    let stop = signed(&node, AGENT);
    folder.write("README.txt", b"no stop, and nobody's concern");
    folder.write("a-unsigned.json", stop.document.as_bytes());
    folder.drop_stop(
        "b-forged.json",
        &Envelope { document: stop.document.replace("test", "tost"), ..stop.clone() },
    );
    folder.write("c-large.json", &[b' '; 40_000]);
    folder.write("d-bytes.json", b"\xff");
    std::fs::create_dir(folder.path().join("e-folder.json")).unwrap();
    let known = found(&client, |folder| folder.files.len() == 5).await;
    let why = |at: usize| match &known.files[at].found {
        Found::Refused(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(matches!(**why(0), StopFileError::Unsigned), "{:?}", why(0));
    assert!(matches!(&**why(1), StopFileError::Deliver(DeliverError::Refused(PushRefused::Unauthorised(_)))));
    assert!(matches!(**why(2), StopFileError::TooLarge(32_768)), "{:?}", why(2));
    assert!(matches!(**why(3), StopFileError::NoText), "{:?}", why(3));
    assert!(matches!(**why(4), StopFileError::NoFile), "{:?}", why(4));
    assert!(guard.check().is_ok());

    // The signature comes at last, and the same file is a stop.
    folder.write("a-unsigned.json.sig", stop.signatures[0].as_bytes());
    until(&guard, |state| stopped_by(state, stop.digest())).await;
}
