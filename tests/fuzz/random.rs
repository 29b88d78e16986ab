//! Random numbers that a seed repeats.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// SplitMix64: small, quick, and even enough to choose inputs by.
pub struct Random(u64);

/// The seed that `TAGOUT_FUZZ_SEED` names, or one of its own for each run.
pub fn seed() -> u64 {
    match std::env::var("TAGOUT_FUZZ_SEED") {
        Ok(text) => {
            let digits = text
                .strip_prefix("0x")
                .expect("TAGOUT_FUZZ_SEED is 0x and hex digits, as a failure shows it");
            u64::from_str_radix(digits, 16).expect("TAGOUT_FUZZ_SEED is 0x and hex digits")
        }
        Err(_) => RandomState::new().hash_one(0),
    }
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub fn byte(&mut self) -> u8 {
        self.number() as u8
    }

    /// A number where parsers go wrong: at the ends of types and around powers of two.
    pub fn boundary(&mut self) -> u64 {
        let near = self.below(3) as u64;
        match self.below(4) {
            0 => self.below(300) as u64,
            1 => u64::MAX - near,
            2 => self.number(),
            _ => (1u64 << self.below(64)).wrapping_add(near).wrapping_sub(1),
        }
    }

    /// Up to `max` bytes of anything.
    pub fn garbage(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.byte()).collect()
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }
}
