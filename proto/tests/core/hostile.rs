//! Hostile bytes: no parser panics, and what parses is written back as it was.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use tagout_proto::authority::{Authority, PrincipalKind};
use tagout_proto::command::{Command, Deployment};
use tagout_proto::digest::Digest;
use tagout_proto::lease::{Lease, LeaseRequest, LeaseResponse};
use tagout_proto::ledger::Ledger;
use tagout_proto::lock::{Trip, parse_placing};
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::Entry;
use tagout_proto::log::proof::InclusionProof;
use tagout_proto::log::tile::{self, TileId};
use tagout_proto::log::tree;
use tagout_proto::note::VerifierKey;
use tagout_proto::restore::Restore;
use tagout_proto::scope::Scope;
use tagout_proto::sshsig::{NAMESPACE, PublicKey, SshSignature};
use tagout_proto::strict::{format_instant_ms, parse_instant_ms};

use crate::support::*;
use crate::token::Token;

/// One change to valid bytes.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Put(Index, u8),
    /// A character that means something in one of the formats.
    PutSpecial(Index, Index),
    Cut(Index),
    Delete(Index, usize),
    Double(Index, usize),
    Swap(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, 1 << bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (at(), at()).prop_map(|(at, which)| Edit::PutSpecial(at, which)),
        at().prop_map(Edit::Cut),
        (at(), 1..40usize).prop_map(|(at, len)| Edit::Delete(at, len)),
        (at(), 1..40usize).prop_map(|(at, len)| Edit::Double(at, len)),
        (at(), at()).prop_map(|(a, b)| Edit::Swap(a, b)),
    ]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 1..4)
}

fn mutated(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        match edit {
            Edit::Flip(at, mask) => bytes[at.index(len)] ^= mask,
            Edit::Put(at, byte) => bytes[at.index(len)] = *byte,
            Edit::PutSpecial(at, which) => {
                bytes.insert(at.index(len), *which.get(b"\0\n\r \"{}[]:,+-./=019xTZ\\"))
            }
            Edit::Cut(at) => bytes.truncate(at.index(len)),
            Edit::Delete(at, count) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + count));
            }
            Edit::Double(at, count) => {
                let at = at.index(len);
                let part = bytes[at..len.min(at + count)].to_vec();
                bytes.splice(at..at, part);
            }
            Edit::Swap(a, b) => bytes.swap(a.index(len), b.index(len)),
        }
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every parser of text, on anything.
fn read_all(text: &str) {
    let key = node_signer().verifier();
    let _ = Command::parse(text.as_bytes());
    let _ = parse_placing(text.as_bytes());
    let _ = Authority::parse(text.as_bytes());
    let _ = SshSignature::parse(text).map(|s| s.verify(b"x"));
    let _ = Lease::open(text, &key);
    let _ = Checkpoint::open(text, &key, "demo:00");
    let _ = serde_json::from_str::<LeaseRequest>(text);
    let _ = serde_json::from_str::<LeaseResponse>(text);
    if let Ok(authority) = Authority::parse_genesis(text) {
        // S7 holds for whatever is taken.
        for role in authority.roles.iter().filter(|r| r.actions.iter().any(|a| a.loosens())) {
            assert!((1..=role.principals.len() as u64).contains(&role.threshold));
            for name in &role.principals {
                let principal = authority.principals.iter().find(|p| &p.name == name).unwrap();
                assert_eq!(principal.kind, PrincipalKind::Person);
            }
        }
    }
    if let Ok(scope) = Scope::parse(text) {
        assert_eq!(scope.as_str(), text);
        assert!(
            scope.upward().all(|above| above.covers(&scope) && Scope::parse(above.as_str()) == Ok(above))
        );
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(deployment) = text.parse::<Deployment>() {
        assert_eq!(deployment.to_string(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = PublicKey::parse_openssh(text) {
        assert_eq!(PublicKey::parse_openssh(&key.to_openssh()), Ok(key));
    }
    if let Some(tile) = TileId::parse(text) {
        assert_eq!(tile.to_string(), text);
    }
    if let Some(at_ms) = parse_instant_ms(text) {
        assert_eq!(parse_instant_ms(&format_instant_ms(at_ms)), Some(at_ms));
    }
    if let Ok(proof) = InclusionProof::parse(text) {
        assert!(text.contains("\nextra ") || proof.to_text() == text, "{text:?}");
        let _ = proof.verify(b"x", &key, "demo:00");
    }
}

fn lease() -> Lease {
    Lease {
        deployment: deployment().parse().unwrap(),
        epoch_number: 1,
        epoch: Digest([2; 32]),
        authority_version: 1,
        authority: Digest([1; 32]),
        log_size: 12,
        log_root: Digest([3; 32]),
        time_ms: T0,
        ttl_ms: 10_000,
        lapse_grace_ms: 20_000,
        rule_version: 1,
        batch_size: 3,
        batch_root: Digest([4; 32]),
    }
}

static PROOF: LazyLock<String> = LazyLock::new(|| {
    let leaves: Vec<_> = (0..5u8).map(|i| tree::leaf_hash(&[i])).collect();
    let checkpoint = Checkpoint { origin: "demo:00".into(), size: 5, root: tree::root(&leaves) };
    let path = tree::prove_all(&leaves).swap_remove(1);
    InclusionProof { index: 1, path, checkpoint: checkpoint.sign(&node_signer()) }.to_text()
});

/// Whatever a node's key signed, `open` may take it only if it is what `sign` would have written.
fn notes_have_one_spelling(valid_note: &str, edits: &[Edit], reopen: impl Fn(&str) -> Option<String>) {
    let (body, _) = valid_note.split_once("\n\n").unwrap();
    let changed = text(&mutated(format!("{body}\n").into_bytes(), edits));
    let lines: Vec<_> = changed.split('\n').filter(|l| !l.is_empty()).collect();
    if lines.is_empty() {
        return;
    }
    let note = node_signer().sign(&(lines.join("\n") + "\n"));
    if let Some(written) = reopen(&note) {
        assert_eq!(written, note);
    }
}

fn genesis_entry() -> Vec<u8> {
    static ENTRY: LazyLock<Vec<u8>> = LazyLock::new(|| World::new().entries.remove(0));
    ENTRY.clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage(bytes in prop::collection::vec(any::<u8>(), 0..300), printable in "[ -~\n]{0,300}") {
        read_all(&text(&bytes));
        read_all(&printable);
        let _ = tile::parse_hashes(&bytes);
        let _ = postcard::from_bytes::<Ledger>(&bytes);
        if let Some(entries) = tile::parse_bundle(&bytes) {
            let mut again = Vec::new();
            entries.iter().for_each(|entry| tile::push_entry(&mut again, entry));
            prop_assert_eq!(again, bytes.clone());
        }
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn mutated_short_texts(which in any::<Index>(), edits in edits()) {
        let public = public_key(ALICE).to_openssh();
        let texts = [
            "moltbook/support/agent_22", "*", "a/b/c/d/e/f/g/h", &deployment(), &"a1".repeat(32), &public,
            &node_signer().verifier().to_string(), "0/x001/x234/067.p/12", "entries/x001/000", "63/999.p/255",
            "2026-11-22T15:00:00Z", "2026-11-22T15:00:00.123456789Z", "2026-11-22T15:00:00.5+00:00",
        ];
        read_all(&text(&mutated(which.get(&texts).as_bytes().to_vec(), &edits)));
    }

    #[test]
    fn mutated_signatures(edits in edits(), inside: bool, by_token: bool) {
        let token = Token::of(ALICE);
        let (key, armored) = match by_token {
            true => (token.public_key(), token.sign(b"x")),
            false => (public_key(ALICE), sign(ALICE, "x")),
        };
        let good = |signature: &str| SshSignature::parse(signature).and_then(|s| s.verify(b"x")).map(|p| p.key);
        prop_assert_eq!(good(&armored), Ok(key.clone()));
        let changed = if inside {
            let body: String = armored.lines().filter(|l| !l.starts_with('-')).collect();
            let blob = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
            let body = data_encoding::BASE64.encode(&mutated(blob, &edits));
            format!("-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n")
        } else {
            text(&mutated(armored.clone().into_bytes(), &edits))
        };
        let bare = |armored: &str| armored.replace(['\r', '\n'], "");
        if let Ok(proven) = good(&changed) {
            // S5: only line ends may differ.
            prop_assert_eq!(proven, key);
            prop_assert_eq!(bare(&changed), bare(&armored));
        }
        prop_assert!(NAMESPACE == "tagout-command");
    }

    #[test]
    fn mutated_notes(edits in edits()) {
        let signer = node_signer();
        let key = signer.verifier();
        let (lease, checkpoint) = (lease().sign(&signer), PROOF.split_once("\n\n").unwrap().1);
        for note in [&*lease, checkpoint, &PROOF] {
            read_all(&text(&mutated(note.as_bytes().to_vec(), &edits)));
        }
        notes_have_one_spelling(&lease, &edits, |note| Some(Lease::open(note, &key).ok()?.sign(&signer)));
        notes_have_one_spelling(checkpoint, &edits, |note| {
            let checkpoint = Checkpoint::open(note, &key, "demo:00").ok()?;
            // Lines after the root are extensions, which a reader leaves out.
            Some(if note.lines().count() > 5 { note.into() } else { checkpoint.sign(&signer) })
        });
    }

    #[test]
    fn mutated_entries_and_bundles(edits in edits()) {
        let entry = genesis_entry();
        let changed = mutated(entry.clone(), &edits);
        if let Ok(read) = Entry::decode(&changed) {
            prop_assert_eq!(read.encode().unwrap(), changed.clone());
        }
        let mut bundle = Vec::new();
        [&entry[..], b"", &changed].iter().for_each(|e| tile::push_entry(&mut bundle, e));
        prop_assert_eq!(tile::parse_bundle(&bundle).unwrap(), [&entry[..], b"", &changed]);
        let _ = tile::parse_bundle(&mutated(bundle, &edits));
        let _ = tile::parse_hashes(&changed);
    }

    #[test]
    fn mutated_documents(which in any::<Index>(), edits in edits()) {
        let head = r#""tagout":1,"deployment":"demo:DD","id":"c","issued_at":"2026-11-22T15:00:00Z","scope":"a/b","reason":"r""#;
        let documents = [
            format!(r#"{{{head},"action":"stop","mode":"drain","drain_ms":60000,"case":"INC-4711"}}"#),
            format!(r#"{{{head},"action":"throttle","limits":{{"calls_per_minute":5}}}}"#),
            format!(r#"{{{head},"action":"isolate"}}"#),
            format!(r#"{{{head},"action":"revoke","grants":["DD"]}}"#),
            format!(r#"{{{head},"action":"release","locks":["DD"],"lost_from":7}}"#),
            format!(r#"{{{head},"action":"release","locks":{{"count":9,"root":"DD","before":7,"by":"bot"}}}}"#),
            format!(r#"{{{head},"action":"start","locks":["DD"]}}"#),
            format!(r#"{{{head},"action":"enroll","token":"DD","expires_at":"2026-11-23T15:00:00Z"}}"#),
            format!(r#"{{{head},"action":"grant","expires_at":"2026-11-23T15:00:00Z","seen":{{"epoch":"DD","size":7,"authority":1}}}}"#),
        ];
        let document = which.get(&documents).replace("DD", &"d0".repeat(32));
        prop_assert!(Command::parse(document.as_bytes()).is_ok());
        prop_assert_eq!(parse_placing(document.as_bytes()).is_ok(), which.index(documents.len()) < 3);
        let changed = mutated(document.into_bytes(), &edits);
        let _ = Command::parse(&changed);
        read_all(&text(&changed));
        read_all(&text(&mutated(genesis_json().to_string().into_bytes(), &edits)));
    }

    /// What places a lock without being a command, and what succeeds the genesis.
    #[test]
    fn mutated_trips_restores_and_authorities(edits in edits()) {
        static DOCUMENTS: LazyLock<[String; 3]> = LazyLock::new(|| {
            let mut world = World::new();
            [world.trip_document("a").document, world.restore_of().to_document(), world.successor(|_| ())]
        });
        for document in DOCUMENTS.iter() {
            let changed = mutated(document.clone().into_bytes(), &edits);
            read_all(&text(&changed));
            // Whatever is read, one document is of one kind only.
            let kinds = [Trip::parse(&changed).is_ok(), Restore::parse(&changed).is_ok(), Command::parse(&changed).is_ok()];
            prop_assert!(kinds.into_iter().filter(|is| *is).count() <= 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// S5, S8: a signed command with any change to it, sent by anybody, leaves no trace.
    #[test]
    fn s5_mutated_commands_change_nothing(edits in edits(), in_signature: bool) {
        let mut world = World::running();
        let lock = world.stop("a", "halt");
        let good = world.release_document("a", &[lock]);
        let mut bad = good.clone();
        let part = if in_signature { &mut bad.signatures[0] } else { &mut bad.document };
        *part = text(&mutated(part.clone().into_bytes(), &edits));
        let bare = |s: &str| s.replace(['\r', '\n'], "");
        if in_signature && bare(&bad.signatures[0]) == bare(&good.signatures[0]) || bad == good {
            return Ok(());
        }
        prop_assert!(world.send(bad).is_err());
        prop_assert_eq!(world.ledger.lock(&lock).map(|r| r.lock.released), Some(false));
    }
}
