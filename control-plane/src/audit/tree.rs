//! A log's tree, read from its root down: over tiles that nobody vouches for, in bounded memory.
//!
//! The partial tiles on the right edge give the root; every hash in them is the root of a full tile one level below, and so
//! on to the leaves. So with one tile of every level in memory, each hash that is given out follows from the root.

use std::io;

use tagout_proto::digest::Digest;
use tagout_proto::log::tile::{TILE_WIDTH, TileId, TileKind, hashes_at, parse_hashes, subtree_root};

use super::edge::{right_edge, root_of};

/// Where hash tiles come from: this node's folder, or a peer. Nothing of what comes is believed.
pub trait Tiles: Sync {
    /// The bytes of a tile, of any width that the log there has reached.
    fn tile(&self, id: TileId) -> impl Future<Output = io::Result<Option<Vec<u8>>>> + Send;
}

impl<T: Tiles> Tiles for &T {
    fn tile(&self, id: TileId) -> impl Future<Output = io::Result<Option<Vec<u8>>>> + Send {
        T::tile(self, id)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("it does not give tile {id}")]
    Io {
        id: TileId,
        #[source]
        source: io::Error,
    },
    #[error("its log has not reached tile {0}")]
    Missing(TileId),
    /// All tiles came, and they are of another log.
    #[error("its log of {size} entries has another root")]
    OtherRoot { size: u64 },
    #[error("its tile {0} does not hash to the root above it")]
    Differs(TileId),
}

pub struct Tree<T> {
    tiles: T,
    size: u64,
    /// By level: the partial tile on the right edge.
    edge: Vec<Vec<Digest>>,
    /// By level: the full tile that was read last, and its number.
    path: Vec<Option<(u64, Vec<Digest>)>>,
}

impl<T: Tiles> Tree<T> {
    /// Reads the right edge of the tree of `size`, which must hash to `root`.
    pub async fn open(tiles: T, size: u64, root: Digest) -> Result<Self, TreeError> {
        let mut edge = Vec::new();
        for id in right_edge(size) {
            edge.push(match id {
                Some(id) => read(&tiles, id).await?,
                None => Vec::new(),
            });
        }
        if root_of(size, &edge) != Some(root) {
            return Err(TreeError::OtherRoot { size });
        }
        let path = vec![None; edge.len()];
        Ok(Self { tiles, size, edge, path })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many levels of tiles it has.
    pub fn levels(&self) -> u8 {
        self.edge.len() as u8
    }

    /// The hashes of tile `n` of a level, as many as a tree of this size has. Reads at most one tile of each level.
    pub async fn hashes(&mut self, level: u8, n: u64) -> Result<&[Digest], TreeError> {
        for above in (level..self.levels()).rev() {
            let n = hashes_at(above - level, n);
            if self.known(above, n).is_some() {
                continue;
            }
            let id = TileId { kind: TileKind::Hashes { level: above }, n, width: TILE_WIDTH as u16 };
            let parent = self.known(above + 1, n / TILE_WIDTH);
            let expected = parent.and_then(|hashes| hashes.get((n % TILE_WIDTH) as usize)).copied();
            let expected = expected.expect("a full tile has its hash in the tile above");
            let hashes = read(&self.tiles, id).await?;
            if subtree_root(&hashes) != expected {
                return Err(TreeError::Differs(id));
            }
            self.path[usize::from(above)] = Some((n, hashes));
        }
        Ok(self.known(level, n).expect("read above"))
    }

    fn known(&self, level: u8, n: u64) -> Option<&[Digest]> {
        let at = usize::from(level);
        if n == hashes_at(level, self.size) / TILE_WIDTH {
            return self.edge.get(at).map(Vec::as_slice);
        }
        let (have, hashes) = self.path.get(at)?.as_ref()?;
        (*have == n).then_some(hashes)
    }
}

async fn read(tiles: &impl Tiles, id: TileId) -> Result<Vec<Digest>, TreeError> {
    let bytes = tiles.tile(id).await.map_err(|source| TreeError::Io { id, source })?;
    let bytes = bytes.ok_or(TreeError::Missing(id))?;
    parse_hashes(&bytes).filter(|hashes| hashes.len() == usize::from(id.width)).ok_or(TreeError::Differs(id))
}

/// The first entry at which the two logs differ, as far as the shorter one goes: one tile of each level of both is read.
pub async fn first_difference(
    shorter: &mut Tree<impl Tiles>,
    longer: &mut Tree<impl Tiles>,
) -> Result<Option<u64>, (Side, TreeError)> {
    assert!(shorter.size() <= longer.size(), "the shorter log comes first");
    let differs = |ours: &[Digest], theirs: &[Digest]| ours.iter().zip(theirs).position(|(a, b)| a != b);
    // The highest level covers the oldest entries.
    for top in (0..shorter.levels()).rev() {
        let (mut level, mut n) = (top, hashes_at(top, shorter.size()) / TILE_WIDTH);
        loop {
            let ours = shorter.hashes(level, n).await.map_err(|e| (Side::Shorter, e))?;
            if ours.is_empty() {
                break;
            }
            let theirs = longer.hashes(level, n).await.map_err(|e| (Side::Longer, e))?;
            // Below a hash that differs there is one that differs, since all follow from the roots.
            let Some(at) = differs(ours, theirs) else { break };
            n = n * TILE_WIDTH + at as u64;
            if level == 0 {
                return Ok(Some(n));
            }
            level -= 1;
        }
    }
    Ok(None)
}

/// Whose tiles could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Shorter,
    Longer,
}
