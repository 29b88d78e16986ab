//! Any rows in the sled store, with checksums that fit. See `tests/fuzz/lib.rs` for how.

use tagout_fuzz::{Answer, Target, mutate};

use super::*;

/// A row's key and its data.
type Row = (Vec<u8>, Vec<u8>);

/// All rows as strings, each under its length as a big-endian `u32`: keys and data in turn.
fn strings(rows: &[Row]) -> Vec<Vec<u8>> {
    rows.iter().flat_map(|(key, data)| [key.clone(), data.clone()]).collect()
}

fn joined(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|s| [&(s.len() as u32).to_be_bytes(), &s[..]].concat()).collect()
}

fn rows(mut bytes: &[u8]) -> Option<Vec<Row>> {
    let mut string = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(string.to_vec())
    };
    let mut rows = Vec::new();
    while rows.len() < 64 {
        let Some(key) = string() else { break };
        rows.push((key, string()?));
    }
    // sled has no empty key, and rows are bounded.
    rows.iter().all(|(key, data)| !key.is_empty() && data.len() <= ROW_BYTES).then_some(rows)
}

/// What a store holds after an ordinary life.
fn written(disk: &SledDisk) -> Vec<Row> {
    let append = |index, bytes| Op::Append { index, entry: vec![index as u8; bytes] };
    let (identity, vote) = (Op::SaveIdentity(b"node".to_vec()), Op::SaveVote(b"vote".to_vec()));
    disk.commit(&[identity, vote, append(0, 1), append(1, 5000), append(2, 0)]).unwrap();
    disk.commit(&[Op::Purge(Purged { index: 0, id: b"id".to_vec() }), Op::SaveCommitted(Some(vec![1]))])
        .unwrap();
    let row = |row: sled::Result<(sled::IVec, sled::IVec)>| {
        let (key, value) = row.unwrap();
        (key.to_vec(), unseal(&key, &value).unwrap().to_vec())
    };
    disk.db.iter().map(row).collect()
}

#[test]
fn stored_rows() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let disk = SledDisk::open(&folder.path().join("sled")).unwrap();
    let mut seed = strings(&written(&disk));
    // Small enough to be changed often, and still in two chunks.
    seed.iter_mut().filter(|s| s.len() > 1000).for_each(|s| s.truncate(s.len().min(4092)));
    let seed_bytes = joined(&seed);
    let target = Target::new("sled-rows", [seed_bytes])
        .make(|random| mutate::strings(random, &seed))
        .extra_bytes(4 << 20);
    target.check(|bytes| {
        let Some(rows) = rows(bytes) else { return Answer::Refused };
        let mut batch = sled::Batch::default();
        disk.db.iter().keys().for_each(|key| batch.remove(key.unwrap()));
        for (key, data) in &rows {
            batch.insert(key.clone(), seal(key, data));
        }
        disk.db.apply_batch(batch).unwrap();
        let read = disk.read_all();
        if let Ok((loaded, rows)) = &read {
            assert_eq!(loaded.gap(), None);
            assert_eq!(rows.chunks.len(), loaded.entries.len());
            assert_eq!(rows.last(), loaded.entries.keys().next_back().copied());
        }
        Answer::of(&read)
    });
}
