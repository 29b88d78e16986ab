//! The Merkle tree of RFC 6962, section 2.1: leaves, nodes, roots and inclusion proofs.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The hash of a leaf. The prefix keeps leaves and nodes apart (second preimages).
pub fn leaf_hash(data: &[u8]) -> Digest {
    Digest::of_parts(&[&[0], data])
}

pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts(&[&[1], &left.0, &right.0])
}

/// The right edge of a tree: all that appending needs, and the root with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredFrontier")]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect subtrees that `size` in binary calls for, largest first.
    peaks: Vec<Digest>,
}

/// A frontier as a snapshot holds it: with another number of peaks, the next `push` would end the node.
#[derive(Deserialize)]
struct StoredFrontier {
    size: u64,
    peaks: Vec<Digest>,
}

impl TryFrom<StoredFrontier> for Frontier {
    type Error = &'static str;
    fn try_from(stored: StoredFrontier) -> Result<Self, Self::Error> {
        Self::from_peaks(stored.size, stored.peaks).ok_or("a frontier has one peak per one bit of its size")
    }
}

impl Frontier {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A frontier from the roots of its perfect subtrees, largest first; `None` unless there is one per one bit of `size`.
    pub fn from_peaks(size: u64, peaks: Vec<Digest>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        // Each trailing one bit of the size is a peak of equal height that the new one merges with.
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("a peak per one bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root; for the empty tree the SHA-256 of nothing.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Digest::of(&[]),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

pub fn root(leaves: &[Digest]) -> Digest {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier.root()
}

/// The size of the left subtree of a tree of `size` > 1: the largest power of two below it.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The inclusion proof of leaf `index` in the tree of `size`, leaf's sibling first.
///
/// `perfect(level, n)` gives the root of the n-th perfect subtree of 2^level leaves, and is asked only for subtrees that
/// lie in the tree. Returns its first error.
pub fn prove_inclusion<E>(
    index: u64,
    size: u64,
    perfect: &mut impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    assert!(index < size, "leaf {index} is not in a tree of {size}");
    let (mut start, mut size, mut path) = (0, size, Vec::new());
    while size > 1 {
        let left = split(size);
        if index - start < left {
            path.push(range_root(start + left, size - left, perfect)?);
            size = left;
        } else {
            path.push(range_root(start, left, perfect)?);
            start += left;
            size -= left;
        }
    }
    path.reverse();
    Ok(path)
}

/// The root of leaves `start..start + size`, where `start` is a multiple of every power of two that `size` needs.
fn range_root<E>(
    start: u64,
    size: u64,
    perfect: &mut impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Digest, E> {
    if size.is_power_of_two() {
        let level = size.ilog2();
        return perfect(level, start >> level);
    }
    let left = split(size);
    Ok(node_hash(&range_root(start, left, perfect)?, &range_root(start + left, size - left, perfect)?))
}

/// Every inclusion proof of a small tree at once: proof i is that of leaf i.
pub fn prove_all(leaves: &[Digest]) -> Vec<Vec<Digest>> {
    let mut levels = vec![leaves.to_vec()];
    while levels.last().is_some_and(|l| l.len() > 1) {
        let below = &levels[levels.len() - 1];
        levels.push(below.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
    }
    let mut perfect =
        |level: u32, n: u64| Ok::<_, std::convert::Infallible>(levels[level as usize][n as usize]);
    let size = leaves.len() as u64;
    (0..size)
        .map(|index| match prove_inclusion(index, size, &mut perfect) {
            Ok(path) => path,
            Err(never) => match never {},
        })
        .collect()
}

/// Checks an inclusion proof as RFC 9162, section 2.1.3.2, does.
pub fn verify_inclusion(leaf: Digest, index: u64, size: u64, path: &[Digest], root: Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            if node & 1 == 0 {
                let skip = node.trailing_zeros().min(63);
                node >>= skip;
                last >>= skip;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: u64) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// MTH as RFC 6962 defines it, by recursion.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(&[]),
            [one] => *one,
            many => {
                let k = split(many.len() as u64) as usize;
                node_hash(&by_definition(&many[..k]), &by_definition(&many[k..]))
            }
        }
    }

    #[test]
    fn roots_of_the_well_known_test_tree() {
        // The eight inputs and roots that Certificate Transparency implementations share.
        let inputs = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let leaves: Vec<_> = inputs
            .iter()
            .map(|hex| leaf_hash(&data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()))
            .collect();
        for (size, expected) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(root(&leaves[..size]).to_string(), expected, "{size} leaves");
        }
    }

    #[test]
    fn roots_and_proofs_of_all_small_trees() {
        for size in 0..=70 {
            let leaves = leaves(size);
            let root = root(&leaves);
            assert_eq!(root, by_definition(&leaves));
            for (index, path) in prove_all(&leaves).iter().enumerate() {
                assert!(verify_inclusion(leaves[index], index as u64, size, path, root));
            }
        }
    }

    proptest! {
        #[test]
        fn a_proof_fits_its_leaf_index_size_and_root_only(size in 1u64..300, at: prop::sample::Index, other in 0u64..300) {
            let (all, index) = (leaves(size), at.index(size as usize));
            let (root, path) = (root(&all), &prove_all(&all)[index]);
            let index = index as u64;
            prop_assert!(verify_inclusion(all[index as usize], index, size, path, root));
            prop_assert!(other == index || !verify_inclusion(all[index as usize], other, size, path, root));
            prop_assert!(!verify_inclusion(leaf_hash(b"x"), index, size, path, root));
            prop_assert!(!verify_inclusion(all[index as usize], index, size, path, leaf_hash(b"x")));
            let longer = [&path[..], &[root]].concat();
            prop_assert!(!verify_inclusion(all[index as usize], index, size, &longer, root));
            if !path.is_empty() {
                prop_assert!(!verify_inclusion(all[index as usize], index, size, &path[1..], root));
            }
        }
    }
}
