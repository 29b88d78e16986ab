//! The growing right edge of the log: what is not in full tiles yet. Pure.

use tagout_proto::digest::Digest;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, hashes_at, push_entry, subtree_root};
use tagout_proto::log::tree::{Frontier, leaf_hash};

/// The partial tile of every level, and the entries of the partial bundle.
#[derive(Clone, Debug, Default)]
pub(super) struct Edge {
    size: u64,
    /// By level: the hashes of the partial tile, fewer than 256.
    levels: Vec<Vec<Digest>>,
    entries: Vec<Vec<u8>>,
}

impl Edge {
    /// An edge at a size that is a multiple of 256, before its partial entries are pushed.
    pub(super) fn at_full_tiles(size: u64, upper_levels: Vec<Vec<Digest>>) -> Self {
        assert_eq!(size % TILE_WIDTH, 0, "only full bundles lie below the edge");
        let levels = std::iter::once(Vec::new()).chain(upper_levels).collect();
        Self { size, levels, entries: Vec::new() }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The index of the first entry that is not in a full bundle.
    pub(super) fn first_entry(&self) -> u64 {
        self.size - self.entries.len() as u64
    }

    pub(super) fn entry(&self, index: u64) -> Option<&[u8]> {
        let at = usize::try_from(index.checked_sub(self.first_entry())?).ok()?;
        self.entries.get(at).map(Vec::as_slice)
    }

    pub(super) fn hashes(&self, level: u8) -> &[Digest] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// The partial entry bundle up to `width` entries.
    pub(super) fn bundle(&self, width: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.entries.iter().take(width).for_each(|entry| push_entry(&mut bytes, entry));
        bytes
    }

    /// Adds an entry; returns the tiles that it filled, entries first.
    pub(super) fn push(&mut self, entry: Vec<u8>) -> Vec<(TileId, Vec<u8>)> {
        let mut full = Vec::new();
        let n = self.size / TILE_WIDTH;
        let mut hash = leaf_hash(&entry);
        self.entries.push(entry);
        self.size += 1;
        if self.entries.len() as u64 == TILE_WIDTH {
            let id = TileId { kind: TileKind::Entries, n, width: TILE_WIDTH as u16 };
            full.push((id, self.bundle(TILE_WIDTH as usize)));
            self.entries.clear();
        }
        let mut tile_n = n;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[level];
            hashes.push(hash);
            if (hashes.len() as u64) < TILE_WIDTH {
                break;
            }
            let bytes = hashes.iter().flat_map(|h| h.0).collect();
            let id =
                TileId { kind: TileKind::Hashes { level: level as u8 }, n: tile_n, width: TILE_WIDTH as u16 };
            full.push((id, bytes));
            hash = subtree_root(hashes);
            hashes.clear();
            tile_n /= TILE_WIDTH;
        }
        full
    }

    pub(super) fn root(&self) -> Digest {
        root_of(self.size, &self.levels).expect("one peak per one bit of the size")
    }
}

/// The partial tiles on the right edge of a tree of `size`, lowest level first: all that its root needs. Levels whose tiles
/// are all full have none.
pub(super) fn right_edge(size: u64) -> impl Iterator<Item = Option<TileId>> {
    let hashes =
        (0..).map(move |level| (level, hashes_at(level, size))).take_while(|(_, hashes)| *hashes > 0);
    hashes.map(|(level, hashes)| {
        let (n, width) = (hashes / TILE_WIDTH, (hashes % TILE_WIDTH) as u16);
        (width > 0).then_some(TileId { kind: TileKind::Hashes { level }, n, width })
    })
}

/// The root of a tree of `size`, from the partial tile of every level: each is a run of equally high subtrees on the right
/// edge. `None` where they are not those of this size.
pub(super) fn root_of(size: u64, levels: &[Vec<Digest>]) -> Option<Digest> {
    let peaks = levels.iter().rev().flat_map(|hashes| peaks(hashes)).collect();
    Some(Frontier::from_peaks(size, peaks)?.root())
}

/// The perfect subtrees of a run of hashes, largest first.
fn peaks(mut hashes: &[Digest]) -> Vec<Digest> {
    let mut peaks = Vec::new();
    while !hashes.is_empty() {
        let (left, rest) = hashes.split_at(1 << hashes.len().ilog2());
        peaks.push(subtree_root(left));
        hashes = rest;
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_root_is_the_tree_s_at_every_size() {
        let (mut edge, mut frontier) = (Edge::default(), Frontier::default());
        for i in 0..70_000u32 {
            let entry = i.to_be_bytes().to_vec();
            frontier.push(leaf_hash(&entry));
            edge.push(entry);
            if i < 600 || i % 4093 == 0 || i % 65_536 < 2 {
                assert_eq!(edge.root(), frontier.root(), "size {}", i + 1);
            }
        }
        assert_eq!((edge.hashes(0).len(), edge.hashes(1).len(), edge.hashes(2).len()), (112, 17, 1));
    }
}
