//! Entries, the tree and its tiles, notes, checkpoints and proofs.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tagout_proto::digest::Digest;
use tagout_proto::envelope::Envelope;
use tagout_proto::log::checkpoint::{Checkpoint, CheckpointError};
use tagout_proto::log::entry::{Entry, EntryError};
use tagout_proto::log::proof::{InclusionProof, ProofError};
use tagout_proto::log::tile::{TileId, TileKind, parse_bundle, parse_hashes, push_entry};
use tagout_proto::log::tree::{leaf_hash, prove_all, root, verify_inclusion};
use tagout_proto::note::{NoteError, VerifierKey};

use crate::cases::{Answer, digest, document, hex, list, number, read, run, text};

#[test]
fn entries() {
    run("entry", |case| {
        if let Some(fields) = case.get("entry") {
            return encoded(fields);
        }
        if let Some(chain) = case.get("chain") {
            return chained(list(chain));
        }
        let bytes = hex(&case["hex"]);
        let entry = Entry::decode(&bytes).map_err(entry_code)?;
        assert_eq!(entry.encode().as_ref(), Ok(&bytes), "whatever decodes has this encoding");
        Ok(json!({
            "kind": entry.kind, "index": entry.index, "time_ms": entry.time_ms, "prev": entry.prev,
            "document": entry.envelope.document, "signatures": entry.envelope.signatures,
        }))
    });
}

fn entry_code(error: EntryError) -> String {
    match error {
        EntryError::Format(_) => "format",
        EntryError::Kind(_) => "kind",
        EntryError::Malformed(_) => "malformed",
        EntryError::TooLarge(_) => "too-large",
    }
    .into()
}

fn encoded(fields: &Value) -> Answer {
    let entry = Entry {
        kind: read(&fields["kind"]),
        index: number(&fields["index"]),
        time_ms: number(&fields["time_ms"]),
        prev: digest(&fields["prev"]),
        envelope: Envelope {
            document: document(&fields["document"]),
            signatures: read(&fields["signatures"]),
        },
    };
    let bytes = entry.encode().map_err(entry_code)?;
    let mut found = json!({"sha256": Digest::of(&bytes)});
    if fields["document"].is_string() {
        found["hex"] = HEXLOWER.encode(&bytes).into();
    }
    assert_eq!(Entry::decode(&bytes), Ok(entry));
    Ok(found)
}

/// M141, as a person with `sha256sum` does it.
fn chained(entries: &[Value]) -> Answer {
    let mut prev = Digest::default();
    let entries: Vec<Vec<u8>> = entries.iter().map(hex).collect();
    for (at, bytes) in entries.iter().enumerate() {
        let entry = Entry::decode(bytes).map_err(entry_code)?;
        if entry.prev != prev || entry.index != at as u64 {
            return Err(format!("broken-at-{at}"));
        }
        prev = Digest::of(bytes);
    }
    let leaves: Vec<_> = entries.iter().map(|bytes| leaf_hash(bytes)).collect();
    Ok(json!({"prev": prev, "root": root(&leaves)}))
}

#[test]
fn the_tree_and_its_tiles() {
    run("tree", |case| {
        if let Some(entries) = case.get("entries") {
            let leaves: Vec<_> = list(entries).iter().map(|entry| leaf_hash(&hex(entry))).collect();
            let root = root(&leaves);
            for (index, path) in prove_all(&leaves).iter().enumerate() {
                assert!(verify_inclusion(leaves[index], index as u64, leaves.len() as u64, path, root));
            }
            return Ok(json!(root));
        }
        if let Some(leaf) = case.get("leaf") {
            let (index, size) = (number(&case["index"]), number(&case["size"]));
            let path: Vec<Digest> = read(&case["path"]);
            let included = verify_inclusion(digest(leaf), index, size, &path, digest(&case["root"]));
            return if included { Ok(json!(true)) } else { Err("not-included".into()) };
        }
        if let Some(path) = case.get("tile") {
            let tile = TileId::parse(text(path)).ok_or("bad-tile")?;
            assert_eq!(tile.to_string(), text(path));
            let level = match tile.kind {
                TileKind::Hashes { level } => json!(level),
                TileKind::Entries => json!("entries"),
            };
            return Ok(json!({"level": level, "n": tile.n, "width": tile.width}));
        }
        if let Some(bundle) = case.get("bundle") {
            let bytes = hex(bundle);
            let entries = parse_bundle(&bytes).ok_or("bad-tile")?;
            let mut again = Vec::new();
            entries.iter().for_each(|entry| push_entry(&mut again, entry));
            assert_eq!(again, bytes);
            return Ok(json!(entries.iter().map(|entry| HEXLOWER.encode(entry)).collect::<Vec<_>>()));
        }
        Ok(json!(parse_hashes(&hex(&case["hash_tile"])).ok_or("bad-tile")?))
    });
}

pub(crate) fn note_code(error: &NoteError) -> String {
    match error {
        NoteError::VerifierKey => "verifier-key",
        NoteError::Malformed(_) => "malformed",
        NoteError::NotSigned(_) => "not-signed",
        NoteError::BadSignature(_) => "bad-signature",
    }
    .into()
}

pub(crate) fn key(value: &Value) -> VerifierKey {
    text(value).parse().expect("a verifier key")
}

#[test]
fn notes() {
    run("note", |case| match case.get("verifier_key") {
        Some(line) => {
            let key: VerifierKey = text(line).parse().map_err(|e| note_code(&e))?;
            assert_eq!(key.to_string(), text(line));
            Ok(json!({"name": key.name, "key": HEXLOWER.encode(&key.key)}))
        }
        None => {
            key(&case["key"]).open(text(&case["note"])).map(|text| json!(text)).map_err(|e| note_code(&e))
        }
    });
}

fn checkpoint_code(error: &CheckpointError) -> String {
    match error {
        CheckpointError::Note(error) => note_code(error),
        CheckpointError::Malformed(_) => "malformed".into(),
        CheckpointError::Origin { .. } => "origin".into(),
    }
}

#[test]
fn checkpoints_and_proofs() {
    run("checkpoint", |case| {
        let (key, origin) = (key(&case["key"]), text(&case["origin"]));
        let proof_code = |error: ProofError| match error {
            ProofError::Malformed(_) => "malformed".into(),
            ProofError::Checkpoint(error) => checkpoint_code(&error),
            ProofError::NotIncluded { .. } => "not-included".into(),
            ProofError::OtherSize { .. } => "other-size".into(),
            ProofError::NotContinued { .. } => "not-continued".into(),
        };
        if let Some(proof) = case.get("proof") {
            let proof = InclusionProof::parse(text(proof)).map_err(proof_code)?;
            let checkpoint = proof.verify(&hex(&case["entry"]), &key, origin).map_err(proof_code)?;
            return Ok(json!({"index": proof.index, "size": checkpoint.size}));
        }
        let Checkpoint { origin, size, root } =
            Checkpoint::open(text(&case["note"]), &key, origin).map_err(|e| checkpoint_code(&e))?;
        Ok(json!({"origin": origin, "size": size, "root": root}))
    });
}
