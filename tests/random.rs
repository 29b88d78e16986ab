//! Repeatable random numbers (splitmix64): the same seed gives the same run, today and in years.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, round: u64) -> Self {
        let mut of_seed = Self(seed);
        Self(of_seed.number() ^ round.wrapping_mul(0xd129_0d3b_3c9a_ca5b))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// Between 1 and 2^bits, small numbers as likely as large ones.
    pub fn magnitude(&mut self, bits: u64) -> u64 {
        let high = 1 << self.below(bits);
        high + self.below(high)
    }

    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.number().to_le_bytes());
        words.take(length as usize).collect()
    }
}
