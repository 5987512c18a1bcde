//! How a run is disturbed: where its input is cut, and when its machine is saved and restored. All of it follows from a seed.

pub use braidcast_protocols::random::Random;

/// A disturbance of a run; `Cuts::none` is none.
#[derive(Clone, Debug)]
pub struct Cuts {
    random: Random,
    longest: usize,
    /// After how many pieces, on average, the machine is restored.
    restores_every: usize,
}

/// Saving costs what a machine holds: so often in a run, not after each of thousands of pieces.
const RESTORES: usize = 60;

impl Cuts {
    /// The input comes in one piece, and nothing is restored.
    pub fn none() -> Self {
        Self { random: Random(0), longest: usize::MAX, restores_every: usize::MAX }
    }

    /// Short or long pieces, as the input's own bytes say, so that a fuzzer decides about them too.
    pub fn of(input: &[u8]) -> Self {
        let seed = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let mut random = Random(seed);
        let longest = [3, 40, 700, 5_000][random.below(4)];
        let pieces = 2 * input.len() / longest;
        Self { random, longest, restores_every: (pieces / RESTORES).max(3) }
    }

    /// How long the next piece of `rest` bytes is; at least 1 if there are any.
    pub fn piece(&mut self, rest: usize) -> usize {
        if self.longest == usize::MAX { rest } else { (1 + self.random.below(self.longest)).min(rest) }
    }

    /// Whether the machine is saved and restored now.
    pub fn restores(&mut self) -> bool {
        self.longest != usize::MAX && self.random.below(self.restores_every) == 0
    }
}
