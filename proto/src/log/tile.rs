//! Tiles (c2sp.org/tlog-tiles): the log's hashes and entries as files of 256, named by level and number.

use std::fmt;

use crate::digest::Digest;
use crate::log::tree::node_hash;

/// Hashes or entries in a full tile; each level of tiles spans 8 levels of the tree.
pub const TILE_WIDTH: u64 = 256;
pub const TILE_HEIGHT: u32 = 8;

/// Where a tile is, under `tile/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    pub kind: TileKind,
    pub n: u64,
    /// 256 for a full tile, 1 to 255 for a partial one.
    pub width: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    Hashes { level: u8 },
    Entries,
}

impl TileId {
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// Reads a path below `tile/`, such as `0/x001/x234/067.p/12` or `entries/000`.
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes { level: decimal(level, 63)? as u8 },
        };
        let (number, width) = match rest.split_once(".p/") {
            None => (rest, TILE_WIDTH as u16),
            Some((number, width)) => (number, decimal(width, 255).filter(|w| *w > 0)? as u16),
        };
        let mut elements: Vec<&str> = number.split('/').collect();
        let last = elements.pop()?;
        let mut n = three_digits(last)?;
        let mut scale = 1u64;
        for element in elements.iter().rev() {
            scale = scale.checked_mul(1000)?;
            n = three_digits(element.strip_prefix('x')?)?.checked_mul(scale)?.checked_add(n)?;
        }
        // One name per tile: no leading x000.
        if elements.first() == Some(&"x000") {
            return None;
        }
        Some(Self { kind, n, width })
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes { level } => write!(f, "{level}/")?,
            TileKind::Entries => f.write_str("entries/")?,
        }
        let mut elements = vec![format!("{:03}", self.n % 1000)];
        let mut n = self.n / 1000;
        while n > 0 {
            elements.push(format!("x{:03}", n % 1000));
            n /= 1000;
        }
        elements.reverse();
        f.write_str(&elements.join("/"))?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

fn decimal(text: &str, max: u64) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| canonical && digits && *n <= max)
}

fn three_digits(text: &str) -> Option<u64> {
    (text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// How many hashes the tiles of `level` hold in a tree of `size`.
pub fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(TILE_HEIGHT * u32::from(level)).unwrap_or(0)
}

/// The root of a full or aligned part of a tile: of 2^k hashes.
pub fn subtree_root(hashes: &[Digest]) -> Digest {
    assert!(hashes.len().is_power_of_two(), "a perfect subtree has a power of two leaves");
    match hashes {
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            node_hash(&subtree_root(left), &subtree_root(right))
        }
    }
}

/// Reads the hashes of a hash tile's bytes.
pub fn parse_hashes(bytes: &[u8]) -> Option<Vec<Digest>> {
    let (chunks, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| chunks.iter().map(|c| Digest(*c)).collect())
}

/// Appends an entry to a bundle's bytes, under its 16-bit length.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let len = u16::try_from(entry.len()).expect("an entry is bounded by ENTRY_MAX_BYTES when it is made");
    bundle.extend(len.to_be_bytes());
    bundle.extend(entry);
}

/// Splits a bundle's bytes into its entries; `None` where they do not add up.
pub fn parse_bundle(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (entries, torn) = split_bundle(bytes);
    (!torn).then_some(entries)
}

/// A bundle's entries as far as they go, and whether something is left over that is no entry: whoever looks for the one
/// that was tampered with reads up to it.
pub fn split_bundle(bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let (mut rest, mut entries) = (bytes, Vec::new());
    while let Some((entry, tail)) = split_entry(rest) {
        entries.push(entry);
        rest = tail;
    }
    (entries, !rest.is_empty())
}

fn split_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bundle.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*len).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tree;

    fn id(kind: TileKind, n: u64, width: u16) -> TileId {
        TileId { kind, n, width }
    }

    #[test]
    fn paths_as_the_specification_writes_them() {
        for (tile, path) in [
            (id(TileKind::Hashes { level: 0 }, 1_234_067, 256), "0/x001/x234/067"),
            (id(TileKind::Hashes { level: 1 }, 0, 1), "1/000.p/1"),
            (id(TileKind::Hashes { level: 63 }, 999, 255), "63/999.p/255"),
            (id(TileKind::Entries, 1000, 256), "entries/x001/000"),
            (id(TileKind::Entries, 273, 112), "entries/273.p/112"),
        ] {
            assert_eq!(tile.to_string(), path);
            assert_eq!(TileId::parse(path), Some(tile));
        }
    }

    #[test]
    fn every_tile_has_one_name() {
        for bad in [
            "",
            "0",
            "0/",
            "0/1",
            "0/0001",
            "64/000",
            "00/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/x000/000",
            "0/001/000",
            "0/x001",
            "x/000",
            "entries/000.p/",
            "../000",
            "0/x999/x999/x999/x999/x999/x999/x999/999",
            "0/+01",
        ] {
            assert_eq!(TileId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn widths_for_the_sizes_that_the_specification_works_out() {
        let partial = |level, size| hashes_at(level, size) % TILE_WIDTH;
        assert_eq!((hashes_at(0, 70_000) / 256, partial(0, 70_000)), (273, 112));
        assert_eq!((hashes_at(1, 70_000) / 256, partial(1, 70_000)), (1, 17));
        assert_eq!((hashes_at(2, 70_000) / 256, partial(2, 70_000)), (0, 1));
        assert_eq!((hashes_at(0, 256) / 256, partial(0, 256), partial(1, 256)), (1, 0, 1));
        assert_eq!(hashes_at(63, u64::MAX), 0);
    }

    #[test]
    fn a_full_tile_hashes_to_the_tree_over_it() {
        let leaves: Vec<_> = (0..256u32).map(|i| tree::leaf_hash(&i.to_be_bytes())).collect();
        assert_eq!(subtree_root(&leaves), tree::root(&leaves));
    }

    #[test]
    fn bundles_round_trip_and_refuse_a_torn_end() {
        let mut bundle = Vec::new();
        for entry in [&b"a"[..], b"", b"ccc"] {
            push_entry(&mut bundle, entry);
        }
        assert_eq!(parse_bundle(&bundle).unwrap(), [&b"a"[..], b"", b"ccc"]);
        let torn = &bundle[..bundle.len() - 1];
        assert_eq!((parse_bundle(torn), split_bundle(torn)), (None, (vec![&b"a"[..], b""], true)));
    }
}
