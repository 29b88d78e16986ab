//! Roots of earlier sizes, what peers are given, and the search for the first difference.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use proptest::prelude::*;
use tagout_proto::digest::Digest;
use tagout_proto::log::tile::TileId;

use super::super::{Side, Tiles, Tree, TreeError, first_difference};
use super::gap::Memory;
use super::{entries, run};

#[test]
fn s8_the_root_of_every_earlier_size_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(3000);
    let log = Memory::new(&all);
    let reader = run(dir.path(), &all, 0).unwrap();
    for size in 0..=3000 {
        let root = Some(log.root(size));
        assert_eq!(reader.root_at(size).unwrap(), root, "size {size}");
        assert_eq!(reader.tree_root(size).unwrap(), root, "size {size}");
    }
    assert_eq!(reader.root_at(3001).unwrap(), None);
    assert_eq!(reader.root_at(u64::MAX).unwrap(), None);
}

#[test]
fn what_a_peer_is_given_are_the_entries_and_never_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries(700);
    let reader = run(dir.path(), &all, 0).unwrap();
    for (from, max) in [(0, 1), (0, 256), (100, 300), (511, 2), (512, 200), (690, 100), (700, 5), (900, 5)] {
        let end = (from + max).min(700);
        let expected = all.get(from..end).unwrap_or_default();
        assert_eq!(reader.entries(from as u64, max as u64).unwrap(), expected, "{max} from {from}");
    }
    let large: Vec<_> = (0..40u8).map(|n| vec![n; 60_000]).collect();
    let dir = tempfile::tempdir().unwrap();
    let reader = run(dir.path(), &large, 0).unwrap();
    assert_eq!(reader.entries(0, 256).unwrap().len(), 4);
}

/// Counts what is read of it.
struct Counted<'a>(&'a Memory, AtomicU64);

impl Tiles for Counted<'_> {
    async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(self.0.tile(id))
    }
}

fn opened<T: Tiles>(tiles: T, size: u64, root: Digest) -> Result<Tree<T>, TreeError> {
    Tree::open(tiles, size, root).now_or_never().expect("it waits for nothing")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of two logs that differ from some entry on, it is found, in two tiles of each level; of the same log, none.
    #[test]
    fn s8_the_first_entry_that_differs_is_found(
        size in 1u64..2000,
        more in 0u64..2000,
        at in any::<prop::sample::Index>(),
        only_one in any::<bool>(),
        times in 1u64..40,
    ) {
        // Short entries, so that logs may be long.
        let all: Vec<_> = (0..(size + more) * times).map(|n| n.to_be_bytes().to_vec()).collect();
        let (size, at) = (size * times, at.index(all.len()));
        let mut other = all.clone();
        let changed = if only_one { at..at + 1 } else { at..all.len() };
        other[changed].iter_mut().for_each(|entry| entry.push(1));
        let (ours, theirs) = (Memory::new(&all), Memory::new(&other));
        let (ours_read, theirs_read) = (Counted(&ours, 0.into()), Counted(&theirs, 0.into()));
        let mut shorter = opened(&ours_read, size, ours.root(size)).unwrap();
        let mut longer = opened(&theirs_read, all.len() as u64, theirs.root(all.len() as u64)).unwrap();
        let found = first_difference(&mut shorter, &mut longer).now_or_never().unwrap().unwrap();
        prop_assert_eq!(found, (at < size as usize).then_some(at as u64));
        for read in [&ours_read, &theirs_read] {
            prop_assert!(read.1.load(Ordering::Relaxed) <= 3 * 3, "one tile or two of each level");
        }
        let mut same = opened(&ours_read, all.len() as u64, ours.root(all.len() as u64)).unwrap();
        prop_assert_eq!(first_difference(&mut shorter, &mut same).now_or_never().unwrap().unwrap(), None);
    }
}

#[test]
fn s8_a_node_that_gives_other_tiles_than_its_root_is_not_believed() {
    struct Lying<'a>(&'a Memory, fn(TileId) -> bool);
    impl Tiles for Lying<'_> {
        async fn tile(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
            let mut tile = self.0.tile(id);
            if let Some(tile) = tile.as_mut().filter(|_| (self.1)(id)) {
                tile[5] ^= 1;
            }
            Ok(tile)
        }
    }
    let ours = Memory::new(&entries(700));
    let theirs = Memory::new(&[&ours.entries[..10], &entries(701)[11..]].concat());
    let (size, root) = (700, theirs.root(700));
    assert!(matches!(
        opened(Lying(&theirs, |id| !id.is_full()), size, root).err().unwrap(),
        TreeError::OtherRoot { size: 700 }
    ));
    let mut shorter = opened(Lying(&ours, |_| false), size, ours.root(size)).unwrap();
    let mut longer = opened(Lying(&theirs, |id| id.is_full()), size, root).unwrap();
    let (side, error) = first_difference(&mut shorter, &mut longer).now_or_never().unwrap().err().unwrap();
    assert!(side == Side::Longer && matches!(error, TreeError::Differs(_)), "{error}");
    assert!(matches!(opened(Lying(&ours, |_| false), 701, root).err().unwrap(), TreeError::Missing(_)));
}
