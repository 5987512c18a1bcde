//! Reading single bits, most significant first, as codecs' configurations are written.

/// A place in a run of bytes.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    /// At the first bit.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `count` bits as a number, at most 32; `None` if there are fewer.
    pub fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// Leaves out bits; `None` if there are fewer.
    pub fn skip(&mut self, count: u32) -> Option<()> {
        self.at += count as usize;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// An Exp-Golomb number of at most 32 bits (`ue(v)`, H.264 section 9.1).
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.read(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_kinds_and_the_end() {
        // 1, 010, 00101, then seven bits.
        let mut bits = BitReader::new(&[0b1010_0010, 0b1000_0011]);
        assert_eq!([bits.exp_golomb(), bits.exp_golomb(), bits.exp_golomb()], [Some(0), Some(1), Some(4)]);
        assert_eq!((bits.skip(5), bits.read(2)), (Some(()), Some(3)));
        assert_eq!((bits.read(1), bits.exp_golomb(), bits.skip(1)), (None, None, None));
        assert_eq!(BitReader::new(&[0; 8]).exp_golomb(), None);
    }
}
