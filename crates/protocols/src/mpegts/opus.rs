//! Opus as FLV carries it (an identification header, then packets) to the access units of transport streams.
//!
//! Source: RFC 7845 section 5.1 (identification header), RFC 6716, and "Carriage of Opus in MPEG-TS" (opus-codec.org, 0.1.5):
//! channel_config_code and the control header before each packet. Trimming is not signalled: what the encoder's pre-skip would
//! remove is some milliseconds once, at the very start of a publish.

/// The longest Opus packet that fits a PES packet behind its control header. Real ones have some hundred bytes.
pub(super) const MAX_PACKET_BYTES: usize = 65_000;

/// How packets of 1 to 8 channels are made up if the table of Vorbis is used (RFC 7845 section 5.1.1.2): streams, coupled
/// streams, and which decoded channel each output channel is.
const VORBIS_LAYOUTS: [(u8, u8, &[u8]); 8] = [
    (1, 0, &[0]),
    (1, 1, &[0, 1]),
    (2, 1, &[0, 2, 1]),
    (2, 2, &[0, 1, 2, 3]),
    (3, 2, &[0, 4, 1, 2, 3]),
    (4, 2, &[0, 4, 1, 2, 3, 5]),
    (4, 3, &[0, 4, 1, 2, 3, 5, 6]),
    (5, 3, &[0, 6, 1, 2, 3, 4, 5, 7]),
];

/// The channel_config_code of an identification header: the number of channels, if they are laid out as everybody does.
/// `None`: the header is cut short, of an unknown version, or says what the code cannot.
pub(super) fn channel_config(header: &[u8]) -> Option<u8> {
    let [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', version, channels, _, _, _, _, _, _, _, _, family, table @ ..] = header else {
        return None;
    };
    if version >> 4 != 0 {
        return None;
    }
    let (streams, coupled, mapping) = *VORBIS_LAYOUTS.get(usize::from(*channels).checked_sub(1)?)?;
    let usual = match family {
        0 => *channels <= 2,
        1 => table.get(..2 + mapping.len()).is_some_and(|table| table[0] == streams && table[1] == coupled && &table[2..] == mapping),
        _ => false,
    };
    usual.then_some(*channels)
}

/// Appends the control header of a packet of so many bytes, at most [`MAX_PACKET_BYTES`].
pub(super) fn write_control_header(out: &mut Vec<u8>, packet_bytes: usize) {
    // Eleven bits of prefix (0x3ff), no trimming, no extension.
    out.extend_from_slice(&[0x7f, 0xe0]);
    out.resize(out.len() + packet_bytes / 255, 0xff);
    out.push((packet_bytes % 255) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(channels: u8, family: u8, table: &[u8]) -> Vec<u8> {
        [&b"OpusHead\x01"[..], &[channels, 0x38, 1, 0x80, 0xbb, 0, 0, 0, 0, family], table].concat()
    }

    #[test]
    fn channels_as_everybody_lays_them_out() {
        assert_eq!(channel_config(&header(1, 0, &[])), Some(1));
        assert_eq!(channel_config(&header(2, 0, &[])), Some(2));
        assert_eq!(channel_config(&header(6, 1, &[4, 2, 0, 4, 1, 2, 3, 5])), Some(6));
        for (what, header) in [
            ("empty", vec![]),
            ("cut", header(2, 0, &[])[..18].to_vec()),
            ("no channels", header(0, 0, &[])),
            ("too many for family 0", header(3, 0, &[])),
            ("another layout", header(6, 1, &[4, 2, 0, 1, 2, 3, 4, 5])),
            ("a table that is cut", header(6, 1, &[4, 2, 0, 4])),
            ("ambisonics", header(4, 2, &[4, 0, 0, 1, 2, 3])),
            ("another version", [&b"OpusHead\x10"[..], &header(2, 0, &[])[9..]].concat()),
        ] {
            assert_eq!(channel_config(&header), None, "{what}");
        }
    }

    #[test]
    fn sizes_of_packets() {
        for (bytes, size) in [(0, &[0_u8][..]), (254, &[254]), (255, &[255, 0]), (600, &[255, 255, 90])] {
            let mut out = Vec::new();
            write_control_header(&mut out, bytes);
            assert_eq!(out, [&[0x7f, 0xe0], size].concat());
        }
    }
}
