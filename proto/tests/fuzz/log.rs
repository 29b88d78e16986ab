//! What the audit log is made of: entries, bundles, tiles and their paths, proofs.

use tagout_fuzz::{Answer, Target, mutate, same};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::limits::*;
use tagout_proto::log::checkpoint::Checkpoint;
use tagout_proto::log::entry::{Entry, EntryKind};
use tagout_proto::log::proof::InclusionProof;
use tagout_proto::log::tile::{self, TileId, TileKind};
use tagout_proto::log::tree;

use crate::lossy;
use crate::support::*;

/// The entries of a small log.
pub(crate) fn entries() -> Vec<Vec<u8>> {
    let mut world = World::running();
    let lock = world.stop("a", "drain");
    world.release("a", &[lock]).unwrap();
    world.start("a/b", &[lock]).unwrap();
    world.entries
}

#[test]
fn entry() {
    let mut seeds = entries();
    let kind = Entry::decode(&seeds[0]).unwrap().kind;
    let envelope = Envelope { document: String::new(), signatures: vec![String::new(); SIGNATURES_MAX] };
    seeds
        .push(Entry { kind, index: u64::MAX, time_ms: 0, prev: Digest([9; 32]), envelope }.encode().unwrap());
    let target = Target::new("entry", seeds).make(|random| {
        let envelope = Envelope {
            document: String::from_utf8_lossy(&random.garbage(300)).into_owned(),
            signatures: (0..random.below(SIGNATURES_MAX + 3))
                .map(|_| String::from_utf8_lossy(&random.garbage(20)).into_owned())
                .collect(),
        };
        let kind = random.pick(&[
            EntryKind::Command,
            EntryKind::Outcome,
            EntryKind::Restore,
            EntryKind::RuleVersion,
        ]);
        let (index, time_ms, prev) = (random.boundary(), random.boundary(), Digest(random.array()));
        Entry { kind, index, time_ms, prev, envelope }.encode().unwrap_or_default()
    });
    target.check(|bytes| {
        let decoded = same(|| Entry::decode(bytes));
        if let Ok(entry) = &decoded {
            assert_eq!(entry.encode().as_deref(), Ok(bytes), "an entry has one encoding");
            assert!(entry.envelope.signatures.len() <= SIGNATURES_MAX && bytes.len() <= ENTRY_MAX_BYTES);
        }
        Answer::of(&decoded)
    });
}

#[test]
fn bundle() {
    let bundle = |entries: &[&[u8]]| {
        let mut bundle = Vec::new();
        entries.iter().for_each(|entry| tile::push_entry(&mut bundle, entry));
        bundle
    };
    let entries = entries();
    let seeds =
        [bundle(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>()), bundle(&[b"", b"a", b""]), vec![]];
    let target = Target::new("bundle", seeds).make(|random| {
        let parts: Vec<Vec<u8>> = (0..random.below(300)).map(|_| random.garbage(4)).collect();
        bundle(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    });
    target.check(|bytes| {
        let parsed = same(|| tile::parse_bundle(bytes));
        if let Some(entries) = &parsed {
            assert_eq!(bundle(entries), bytes, "a bundle has one encoding");
        }
        Answer::taken(parsed.is_some())
    });
}

#[test]
fn hash_tile() {
    Target::new("hash-tile", [vec![7; 256 * 32], vec![1; 32], vec![]])
        .make(|random| {
            let hashes = random.below(300);
            vec![random.byte(); hashes * 32]
        })
        .check(|bytes| {
            let parsed = same(|| tile::parse_hashes(bytes));
            if let Some(hashes) = &parsed {
                assert_eq!(hashes.iter().flat_map(|h| h.0).collect::<Vec<u8>>(), bytes);
                if hashes.len().is_power_of_two() {
                    assert_eq!(tile::subtree_root(hashes), tree::root(hashes));
                }
            }
            Answer::taken(parsed.is_some())
        });
}

#[test]
fn tile_path() {
    let seeds = [
        "0/x001/x234/067.p/12",
        "entries/x001/000",
        "63/999.p/255",
        "entries/000",
        "0/x018/x446/x744/x073/x709/x551/615",
    ];
    let target = Target::new("tile-path", seeds).make(|random| {
        let kind = if random.one_in(2) {
            TileKind::Entries
        } else {
            TileKind::Hashes { level: random.below(66) as u8 }
        };
        let id = TileId { kind, n: random.boundary(), width: random.within(1..257) as u16 };
        id.to_string().into_bytes()
    });
    target.check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| TileId::parse(&text));
        if let Some(tile) = &parsed {
            assert_eq!(tile.to_string(), text, "a tile has one name");
            assert!((1..=256).contains(&tile.width));
            assert!(!text.contains("..") && !text.starts_with('/'), "it never leads out of its folder");
        }
        Answer::taken(parsed.is_some())
    });
}

#[test]
fn inclusion_proof() {
    let (entries, signer) = (entries(), node_signer());
    let (key, origin) = (signer.verifier(), deployment());
    let leaves: Vec<_> = entries.iter().map(|e| tree::leaf_hash(e)).collect();
    let checkpoint =
        Checkpoint { origin: origin.clone(), size: leaves.len() as u64, root: tree::root(&leaves) };
    let note = checkpoint.sign(&signer);
    let proofs: Vec<InclusionProof> = (tree::prove_all(&leaves).into_iter().zip(0..))
        .map(|(path, index)| InclusionProof { index, path, checkpoint: note.clone() })
        .collect();
    let seeds: Vec<String> = proofs.iter().map(InclusionProof::to_text).collect();
    let target = Target::new("proof", seeds.clone()).make(|random| {
        let seed = random.pick(&seeds);
        mutate::lines(random, &seed).into_bytes()
    });
    target.check(|bytes| {
        let text = lossy(bytes);
        let parsed = same(|| InclusionProof::parse(&text));
        if let Ok(proof) = &parsed {
            assert!(text.contains("\nextra ") || proof.to_text() == text, "a proof has one spelling");
            // What convinces is the proof of this entry: another index, path, size or root does not.
            let verified = proof.verify(&entries[1], &key, &origin);
            if let Ok(opened) = &verified {
                assert_eq!((opened, proof.index, &proof.path), (&checkpoint, 1, &proofs[1].path));
            }
            Answer::of(&verified);
        }
        Answer::of(&parsed)
    });
}
