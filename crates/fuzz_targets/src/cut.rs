//! How a run is disturbed: where its input is cut, and when its machine is saved and restored. All of it follows from a seed.

/// splitmix64: any seed is a good one.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }
}

/// A disturbance of a run; `Cuts::none` is none.
#[derive(Clone, Debug)]
pub struct Cuts {
    random: Random,
    longest: usize,
}

impl Cuts {
    /// The input comes in one piece, and nothing is restored.
    pub fn none() -> Self {
        Self { random: Random(0), longest: usize::MAX }
    }

    /// Short or long pieces, as the input's own bytes say, so that a fuzzer decides about them too.
    pub fn of(input: &[u8]) -> Self {
        let seed = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let mut random = Random(seed);
        let longest = [3, 40, 700, 5_000][random.below(4)];
        Self { random, longest }
    }

    /// How long the next piece of `rest` bytes is; at least 1 if there are any.
    pub fn piece(&mut self, rest: usize) -> usize {
        if self.longest == usize::MAX { rest } else { (1 + self.random.below(self.longest)).min(rest) }
    }

    /// Whether the machine is saved and restored now.
    pub fn restores(&mut self) -> bool {
        self.longest != usize::MAX && self.random.below(3) == 0
    }
}
