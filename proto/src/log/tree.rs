//! The Merkle tree of RFC 6962, section 2.1: leaves, nodes, roots, and proofs of inclusion and of consistency.

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
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

fn empty_root() -> Digest {
    Digest::of(&[])
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

/// The consistency proof (RFC 6962, 2.1.2) between the tree of the first `old_size` leaves and the tree of `size`.
///
/// `perfect` is as in [`prove_inclusion`], and is asked at most twice per level of the tree. Every tree continues the empty
/// one and itself: those proofs are empty.
pub fn prove_consistency<E>(
    old_size: u64,
    size: u64,
    perfect: &mut impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    assert!(old_size <= size, "a tree of {size} does not continue one of {old_size}");
    let (mut start, mut size, mut path) = (0, size, Vec::new());
    if old_size == 0 {
        return Ok(path);
    }
    // Down to the subtree that ends where the old tree does.
    while start + size != old_size {
        let left = split(size);
        if old_size - start <= left {
            path.push(range_root(start + left, size - left, perfect)?);
            size = left;
        } else {
            path.push(range_root(start, left, perfect)?);
            start += left;
            size -= left;
        }
    }
    // At the very left it is the old tree itself, whose root the verifier has.
    if start > 0 {
        path.push(range_root(start, size, perfect)?);
    }
    path.reverse();
    Ok(path)
}

/// The root of the first `size` leaves of a tree; `perfect` is as in [`prove_inclusion`].
pub fn root_of_first<E>(
    size: u64,
    perfect: &mut impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Digest, E> {
    if size == 0 { Ok(empty_root()) } else { range_root(0, size, perfect) }
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

/// All perfect subtrees of a small tree, for the proofs above.
fn perfect_of(leaves: &[Digest]) -> impl FnMut(u32, u64) -> Result<Digest, std::convert::Infallible> {
    let mut levels = vec![leaves.to_vec()];
    while levels.last().is_some_and(|l| l.len() > 1) {
        let below = &levels[levels.len() - 1];
        levels.push(below.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
    }
    move |level, n| Ok(levels[level as usize][n as usize])
}

/// Every inclusion proof of a small tree at once: proof i is that of leaf i.
pub fn prove_all(leaves: &[Digest]) -> Vec<Vec<Digest>> {
    let mut perfect = perfect_of(leaves);
    let size = leaves.len() as u64;
    (0..size)
        .map(|index| {
            let Ok(path) = prove_inclusion(index, size, &mut perfect);
            path
        })
        .collect()
}

/// The consistency proof between the first `old_size` leaves of a small tree and all of it.
pub fn consistency_of(old_size: u64, leaves: &[Digest]) -> Vec<Digest> {
    let Ok(path) = prove_consistency(old_size, leaves.len() as u64, &mut perfect_of(leaves));
    path
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

/// Checks a consistency proof as RFC 9162, section 2.1.4.2, does.
pub fn verify_consistency(old_size: u64, size: u64, path: &[Digest], old_root: Digest, root: Digest) -> bool {
    if old_size == size {
        return path.is_empty() && old_root == root;
    }
    // Every tree continues the empty one; there is nothing that could prove it.
    if old_size == 0 {
        return path.is_empty() && old_root == empty_root();
    }
    if old_size > size {
        return false;
    }
    let (mut old_node, mut last) = (old_size - 1, size - 1);
    let up = old_node.trailing_ones();
    (old_node, last) = (old_node >> up, last >> up);
    // A whole old tree is a subtree of the new one, and its root is left out of the proof.
    let (first, rest) = match path.split_first() {
        _ if old_size.is_power_of_two() => (&old_root, path),
        Some(split) => split,
        None => return false,
    };
    let (mut old_hash, mut hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if old_node & 1 == 1 || old_node == last {
            old_hash = node_hash(sibling, &old_hash);
            hash = node_hash(sibling, &hash);
            if old_node & 1 == 0 {
                let skip = old_node.trailing_zeros().min(63);
                old_node >>= skip;
                last >>= skip;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        old_node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == old_root && hash == root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: u64) -> Vec<Digest> {
        (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// The RFC's k: the largest power of two below `n`.
    fn half(n: usize) -> usize {
        let mut k = 1;
        while 2 * k < n {
            k *= 2;
        }
        k
    }

    /// MTH as RFC 6962 defines it, by recursion.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(&[]),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(half(many.len()));
                node_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    /// PROOF as RFC 6962 defines it, by recursion over the leaves themselves.
    fn proof_by_definition(old_size: usize, leaves: &[Digest]) -> Vec<Digest> {
        fn subproof(m: usize, leaves: &[Digest], known: bool) -> Vec<Digest> {
            if m == leaves.len() {
                return if known { vec![] } else { vec![by_definition(leaves)] };
            }
            let (left, right) = leaves.split_at(half(leaves.len()));
            let (mut proof, other) = if m <= left.len() {
                (subproof(m, left, known), right)
            } else {
                (subproof(m - left.len(), right, false), left)
            };
            proof.push(by_definition(other));
            proof
        }
        subproof(old_size, leaves, true)
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

    #[test]
    fn s9_consistency_proofs_of_all_small_trees_are_those_of_the_definition_and_no_others_pass() {
        let all = leaves(70);
        let roots: Vec<_> = (0..=70).map(|size| root(&all[..size])).collect();
        for size in 0..=70 {
            for old_size in 0..=size {
                let path = consistency_of(old_size as u64, &all[..size]);
                let (old, new) = (roots[old_size], roots[size]);
                if old_size > 0 {
                    assert_eq!(path, proof_by_definition(old_size, &all[..size]), "{old_size} of {size}");
                }
                let passes = |old_size: usize, size: usize, path: &[Digest], old, new| {
                    verify_consistency(old_size as u64, size as u64, path, old, new)
                };
                assert!(passes(old_size, size, &path, old, new), "{old_size} of {size}");

                let other = leaf_hash(b"x");
                assert!(!passes(old_size, size, &path, other, new), "{old_size} of {size}: another old root");
                // Everything continues the empty tree: nothing binds the new root then.
                assert!(old_size == 0 && size > 0 || !passes(old_size, size, &path, old, other));
                for at in 0..path.len() {
                    let mut changed = path.clone();
                    changed[at] = other;
                    assert!(!passes(old_size, size, &changed, old, new), "{old_size} of {size}: hash {at}");
                    changed.remove(at);
                    assert!(
                        !passes(old_size, size, &changed, old, new),
                        "{old_size} of {size}: none at {at}"
                    );
                    for with in at + 1..path.len() {
                        let mut swapped = path.clone();
                        swapped.swap(at, with);
                        assert!(
                            !passes(old_size, size, &swapped, old, new),
                            "{old_size} of {size}: {at}, {with}"
                        );
                    }
                }
                for at in 0..=path.len() {
                    let mut longer = path.clone();
                    longer.insert(at, new);
                    assert!(
                        !passes(old_size, size, &longer, old, new),
                        "{old_size} of {size}: one more at {at}"
                    );
                }
                // Sizes are bound to their roots by the signed checkpoints, not by the proof; but a tree never shrinks.
                assert!(size == old_size || !passes(size, old_size, &path, new, old));
            }
        }
    }

    #[test]
    fn proofs_of_huge_trees_ask_for_few_subtrees() {
        // All leaves are equal, so that a perfect subtree's root follows from its level.
        let mut by_level = vec![leaf_hash(b"")];
        for level in 0..63 {
            by_level.push(node_hash(&by_level[level], &by_level[level]));
        }
        for (old_size, size) in
            [(1, u64::MAX), (u64::MAX / 3, u64::MAX), (999_999_999_999, 1 << 40), (1 << 62, (1 << 63) + 1)]
        {
            let mut asked = 0;
            let mut perfect = |level: u32, n: u64| {
                assert!((u128::from(n) + 1) << level <= size.into(), "asked only within the tree");
                asked += 1;
                Ok::<_, std::convert::Infallible>(by_level[level as usize])
            };
            let Ok(path) = prove_consistency(old_size, size, &mut perfect);
            let [Ok(old), Ok(new)] = [old_size, size].map(|size| root_of_first(size, &mut perfect));
            assert!(verify_consistency(old_size, size, &path, old, new), "{old_size} of {size}");
            assert!(path.len() <= 65 && asked <= 4 * 64, "{asked} subtrees for {} hashes", path.len());
        }
    }

    proptest! {
        #[test]
        fn every_larger_tree_continues_a_smaller_one_of_the_same_leaves_only(
            size in 2u64..600, at: prop::sample::Index, changed: prop::sample::Index,
        ) {
            let all = leaves(size);
            let old_size = 1 + at.index(size as usize - 1);
            let (old, new) = (root(&all[..old_size]), root(&all));
            let path = consistency_of(old_size as u64, &all);
            prop_assert!(verify_consistency(old_size as u64, size, &path, old, new));
            // Another history of the first leaves, honestly proven: it does not continue the old root.
            let mut forked = all;
            forked[changed.index(old_size)] = leaf_hash(b"x");
            let path = consistency_of(old_size as u64, &forked);
            prop_assert!(!verify_consistency(old_size as u64, size, &path, old, root(&forked)));
        }

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
