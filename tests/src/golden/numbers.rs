//! Numbers for tests that try many things.

/// Numbers that look random and are the same in every run (xorshift64*).
///
/// What it holds is the seed, which must not be 0.
pub struct Numbers(pub u64);

impl Numbers {
    /// The next one.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next one, below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }
}
