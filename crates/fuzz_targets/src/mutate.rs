//! Mutations for `make test`: what a fuzzer without coverage can do, the same for the same seed.

pub use crate::cut::Random;

/// Values at which lengths and counters turn.
const TURNS: [u64; 12] = [0, 1, 2, 127, 128, 255, 256, 0x7fff_ffff, 0xffff_ffff, 0x00ff_ffff, 65_535, u64::MAX];

/// An input made of one of the corpus, with parts of another.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>], longest: usize) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(6) {
        mutate(random, &mut input, corpus);
    }
    input.truncate(longest);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let length = 1 + random.below(16);
    let end = (at + length).min(input.len());
    match random.below(9) {
        0 if at < end => input[at] ^= 1 << random.below(8),
        1 if at < end => input[at] = random.number() as u8,
        2 if at < end => write_turn(random, &mut input[at..end]),
        3 => drop(input.drain(at..end)),
        4 => drop(input.splice(at..at, (0..length).map(|_| random.number() as u8))),
        5 => {
            let again = input[at..end].to_vec();
            let times = 1 + random.below(8);
            drop(input.splice(at..at, again.repeat(times)));
        }
        6 => input.truncate(at),
        7 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let to = (from + 1 + random.below(200)).min(other.len());
            drop(input.splice(at..end, other[from..to].iter().copied()));
        }
        _ => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
    }
}

fn write_turn(random: &mut Random, place: &mut [u8]) {
    let bytes = TURNS[random.below(TURNS.len())].to_be_bytes();
    let width = [1, 2, 3, 4, 8][random.below(5)].min(place.len());
    place[..width].copy_from_slice(&bytes[8 - width..]);
}
