//! The reader against a writer that was written from the specification alone, and against hostile bytes.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// What a writer must remember of a chunk stream.
#[derive(Clone)]
struct Sent {
    timestamp_ms: u32,
    field: u32,
    bytes: usize,
    message_type: u8,
    message_stream: u32,
}

struct Active {
    message: Message,
    written: usize,
    extended: bool,
}

/// Writes random messages in random chunks. All its choices come from one seed.
struct Writer {
    random: u64,
    out: Vec<u8>,
    chunk_bytes: usize,
    sent: HashMap<u32, Sent>,
    active: Vec<Active>,
    whole: Vec<Message>,
    omits_extended: bool,
}

impl Writer {
    fn new(seed: u64, omits_extended: bool) -> Self {
        let (out, sent, active, whole) = (Vec::new(), HashMap::new(), Vec::new(), Vec::new());
        Self { random: seed, out, chunk_bytes: 128, sent, active, whole, omits_extended }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn basic(&mut self, format: u8, id: u32) {
        let top = format << 6;
        match id {
            2..64 => self.out.push(top | id as u8),
            // Both longer forms can say these: use either.
            64..320 if self.below(2) == 0 => self.out.extend([top, (id - 64) as u8]),
            _ => self.out.extend([top | 1, ((id - 64) % 256) as u8, ((id - 64) / 256) as u8]),
        }
    }

    fn start(&mut self, message: Message, forced: Option<u8>) {
        let id = message.chunk_stream;
        let mut formats = vec![0];
        let mut delta = 0;
        if let Some(sent) = self.sent.get(&id).cloned() {
            delta = message.timestamp_ms.wrapping_sub(sent.timestamp_ms);
            if message.message_stream == sent.message_stream {
                formats.push(1);
                if message.message_type == sent.message_type && message.payload.len() == sent.bytes {
                    formats.push(2);
                    if delta == sent.field && !(self.omits_extended && delta >= 0xff_ffff) {
                        formats.push(3);
                    }
                }
            }
        }
        let format = forced.unwrap_or_else(|| *formats.last().unwrap().min(&(self.below(9) as u8)));
        let field = if format == 0 { message.timestamp_ms } else { delta };
        let extended = field >= 0xff_ffff;
        self.basic(format, id);
        if format < 3 {
            self.out.extend(&field.min(0xff_ffff).to_be_bytes()[1..]);
        }
        if format < 2 {
            self.out.extend(&(message.payload.len() as u32).to_be_bytes()[1..]);
            self.out.push(message.message_type);
        }
        if format == 0 {
            self.out.extend(message.message_stream.to_le_bytes());
        }
        if extended {
            self.out.extend(field.to_be_bytes());
        }
        let (bytes, message_type, message_stream) = (message.payload.len(), message.message_type, message.message_stream);
        self.sent.insert(id, Sent { timestamp_ms: message.timestamp_ms, field, bytes, message_type, message_stream });
        self.active.push(Active { message, written: 0, extended });
        self.chunk_payload(self.active.len() - 1);
    }

    fn chunk_payload(&mut self, index: usize) {
        let active = &mut self.active[index];
        let end = active.message.payload.len().min(active.written + self.chunk_bytes);
        self.out.extend(&active.message.payload[active.written..end]);
        active.written = end;
        if end == active.message.payload.len() {
            let done = self.active.remove(index);
            self.whole.push(done.message);
        }
    }

    fn go_on(&mut self, index: usize) {
        let (id, extended) = (self.active[index].message.chunk_stream, self.active[index].extended);
        self.basic(3, id);
        if extended && !self.omits_extended {
            let field = self.sent[&id].field;
            self.out.extend(field.to_be_bytes());
        }
        self.chunk_payload(index);
    }

    /// A control message, whole, on chunk stream 2.
    fn control(&mut self, message_type: u8, value: u32) {
        let payload = value.to_be_bytes().to_vec();
        self.start(Message { message_type, chunk_stream: 2, message_stream: 0, timestamp_ms: 0, payload }, Some(0));
        while let Some(index) = self.active.iter().position(|active| active.message.chunk_stream == 2) {
            self.go_on(index);
        }
        self.whole.pop();
    }

    fn random_message(&mut self, id: u32) -> Message {
        let before = self.sent.get(&id).cloned();
        let timestamp_ms = match before {
            Some(ref sent) => {
                let step = self.pick(&[0, 23, 40, sent.field, 0xff_fffe, 0xff_ffff, 0x100_0000, u32::MAX]);
                sent.timestamp_ms.wrapping_add(step)
            }
            None => self.pick(&[0, 1, 1000, 0xff_fffe, 0xff_ffff, 0x0102_0304, u32::MAX]),
        };
        let bytes = match before {
            Some(ref sent) if self.below(2) == 0 => sent.bytes,
            _ => self.pick(&[0, 1, 2, 3, 4, 127, 128, 129, 300, 1000]),
        };
        let (message_type, message_stream) = (self.pick(&[8, 9, 18, 20]), self.pick(&[1, 1, 1, 0, 0x0102_0304]));
        let payload = (0..bytes).map(|_| self.below(256) as u8).collect();
        Message { message_type, chunk_stream: id, message_stream, timestamp_ms, payload }
    }

    fn step(&mut self) {
        let ids = [3, 4, 6, 63, 64, 319, 320, 65_599];
        let choice = self.below(20);
        if choice == 0 {
            let bytes = self.pick(&[1u32, 2, 3, 5, 128, 129, 4096, 65_536, 16 << 20, i32::MAX as u32]);
            self.control(message_type::SET_CHUNK_SIZE, bytes);
            self.chunk_bytes = bytes as usize;
        } else if choice == 1 && !self.active.is_empty() {
            let dropped = self.active.remove(0);
            self.control(message_type::ABORT, dropped.message.chunk_stream);
        } else if choice == 2 && !self.active.is_empty() {
            // A restart in the middle: format 0, another length.
            let dropped = self.active.remove(0);
            let message = self.random_message(dropped.message.chunk_stream);
            self.start(message, Some(0));
        } else if choice < 12 && !self.active.is_empty() {
            let index = self.below(self.active.len() as u64) as usize;
            self.go_on(index);
        } else {
            let id = self.pick(&ids);
            if self.active.iter().all(|active| active.message.chunk_stream != id) {
                let message = self.random_message(id);
                self.start(message, None);
            }
        }
    }

    fn finish(&mut self) {
        while !self.active.is_empty() {
            self.go_on(0);
        }
        // What looks like the start of an extended timestamp is only told apart by bytes that follow.
        let payload = vec![0xa5; 8];
        self.start(Message { message_type: 9, chunk_stream: 40, message_stream: 1, timestamp_ms: 7, payload }, Some(0));
        while !self.active.is_empty() {
            self.go_on(0);
        }
    }
}

fn limits() -> ChunkLimits {
    ChunkLimits::default()
}

/// Reads everything, in pieces of at most `cut` bytes, saving and restoring the reader between them.
fn read_all(bytes: &[u8], cut: usize, limits: ChunkLimits) -> Result<Vec<Message>, RtmpError> {
    let mut reader = ChunkReader::new(limits, 0);
    let mut messages = Vec::new();
    for piece in bytes.chunks(cut) {
        let mut used = 0;
        loop {
            let (step, message) = reader.read(&piece[used..])?;
            used += step;
            let Some(message) = message else { break };
            messages.push(message);
        }
        assert_eq!(used, piece.len());
        let saved = postcard::to_stdvec(&reader).unwrap();
        reader = postcard::from_bytes(&saved).unwrap();
        assert!(reader.is_sound());
    }
    assert_eq!(reader.position() + u64::from(reader.again.filled), bytes.len() as u64);
    Ok(messages)
}

/// Single bytes, small pieces, everything at once.
fn any_cut() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1usize..40, Just(1 << 20)]
}

proptest! {
    #[test]
    fn what_any_writer_writes_is_read(seed: u64, steps in 1usize..120, omits: bool, cut in any_cut()) {
        let mut writer = Writer::new(seed, omits);
        (0..steps).for_each(|_| writer.step());
        writer.finish();
        prop_assert_eq!(read_all(&writer.out, cut, limits()).unwrap(), writer.whole);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..100) {
        let _ = read_all(&bytes, cut, limits());
    }

    #[test]
    fn damaged_streams_do_not_panic(seed: u64, place in any::<prop::sample::Index>(), byte: u8) {
        let mut writer = Writer::new(seed, seed % 2 == 0);
        (0..60).for_each(|_| writer.step());
        let place = place.index(writer.out.len().max(1));
        if let Some(damaged) = writer.out.get_mut(place) {
            *damaged = byte;
        }
        let _ = read_all(&writer.out, 50, limits());
    }
}

fn format_0(id: u8, timestamp: u32, declared: u32, message_type: u8) -> Vec<u8> {
    let mut out = vec![id];
    out.extend(&timestamp.to_be_bytes()[1..]);
    out.extend(&declared.to_be_bytes()[1..]);
    out.extend([message_type, 1, 0, 0, 0]);
    out
}

#[test]
fn an_audio_chunk_inside_a_video_message_is_read() {
    let mut bytes = format_0(6, 10, 200, 9);
    bytes.extend([1; 128]);
    bytes.extend(format_0(4, 12, 3, 8));
    bytes.extend([2; 3]);
    bytes.push(0xc6);
    bytes.extend([3; 72]);
    let read = read_all(&bytes, 7, limits()).unwrap();
    let seen: Vec<_> = read.iter().map(|message| (message.message_type, message.timestamp_ms, message.payload.len())).collect();
    assert_eq!(seen, [(8, 12, 3), (9, 10, 200)]);
}

#[test]
fn a_format_3_that_starts_a_message_repeats_the_delta() {
    let mut bytes = format_0(4, 1000, 1, 8);
    bytes.push(1);
    bytes.extend(b"\x84\0\0\x17\x02\xc4\x03\xc4\x04");
    let times: Vec<_> = read_all(&bytes, 1, limits()).unwrap().iter().map(|message| message.timestamp_ms).collect();
    assert_eq!(times, [1000, 1023, 1046, 1069]);
}

#[test]
fn a_format_0_in_mid_message_starts_another_that_may_be_shorter() {
    let mut bytes = format_0(6, 0, 300, 9);
    bytes.extend([1; 128]);
    bytes.extend(format_0(6, 40, 2, 9));
    bytes.extend([9, 9]);
    let read = read_all(&bytes, 50, limits()).unwrap();
    assert_eq!(read.len(), 1);
    assert_eq!((read[0].timestamp_ms, read[0].payload.as_slice()), (40, &[9, 9][..]));
}

#[test]
fn sixty_thousand_chunk_streams_are_refused_at_the_limit() {
    let mut reader = ChunkReader::new(limits(), 0);
    let mut bytes = Vec::new();
    for id in 64..60_064u32 {
        bytes.extend([1, ((id - 64) % 256) as u8, ((id - 64) / 256) as u8, 0, 0, 0, 0, 0, 2, 9, 1, 0, 0, 0, 7, 7]);
    }
    let mut used = 0;
    let error = loop {
        match reader.read(&bytes[used..]) {
            Ok((step, _)) => used += step,
            Err(error) => break error,
        }
    };
    assert_eq!((error.limit, error.chunk_stream), (Limit::ChunkStreams, Some(128)));
    assert_eq!(error.position, 64 * 16 + 14, "where the header ended that went too far");
    assert_eq!(reader.streams.len(), 64);
}

#[test]
fn declared_lengths_cost_nothing_and_are_bounded_together() {
    let mut bytes = Vec::new();
    for id in 3..64u8 {
        bytes.extend(format_0(id, 0, 0xff_ffff, 9));
        bytes.extend([0; 128]);
    }
    let mut reader = ChunkReader::new(limits(), 0);
    let error = reader.read(&bytes).unwrap_err();
    assert_eq!((error.limit, error.chunk_stream), (Limit::UnfinishedBytes, Some(5)), "two of 16 MiB fit, not a third");
    let held: usize = reader.streams.iter().map(|stream| stream.payload.capacity()).sum();
    assert!(held <= 2 * FIRST_ROOM_BYTES, "{held} bytes are held for two messages of which 256 bytes came");

    let small = ChunkLimits { message_bytes: 1000, ..limits() };
    assert_eq!(read_all(&format_0(3, 0, 1001, 9), 99, small).unwrap_err().limit, Limit::MessageBytes);
}

#[test]
fn aborted_and_restarted_messages_no_longer_count() {
    let mut bytes = Vec::new();
    for _ in 0..10 {
        bytes.extend(format_0(6, 0, 0xff_ffff, 9));
        bytes.extend([0; 128]);
        bytes.extend(format_0(2, 0, 4, message_type::ABORT));
        bytes.extend(6u32.to_be_bytes());
        bytes.extend(format_0(7, 0, 0xff_ffff, 9));
        bytes.extend([0; 128]);
    }
    assert_eq!(read_all(&bytes, 4096, limits()).unwrap(), []);
}

#[test]
fn chunk_sizes_and_first_chunks_that_cannot_be_are_refused() {
    for size in [0, 0x8000_0000, u32::MAX] {
        let bytes = [format_0(2, 0, 4, message_type::SET_CHUNK_SIZE), size.to_be_bytes().to_vec()].concat();
        assert_eq!(read_all(&bytes, 99, limits()).unwrap_err().limit, Limit::Protocol);
    }
    assert_eq!(read_all(&[0xc4], 1, limits()).unwrap_err().limit, Limit::Protocol);
    assert_eq!(read_all(&[0x84, 0, 0, 1], 1, limits()).unwrap_err().limit, Limit::Protocol);
}

/// Guards against work that grows with the square: a message of 16 MB in chunks of 1 and of 128 bytes, with input in small
/// and large pieces.
#[test]
fn sixteen_megabytes_in_tiny_chunks_take_linear_time() {
    for (chunk_bytes, total, cut) in [(1usize, 1 << 21, 1 << 16), (128, 16_000_000, 1 << 16), (128, 16_000_000, 1460), (128, 1 << 21, 1)] {
        let mut bytes = format_0(2, 0, 4, message_type::SET_CHUNK_SIZE);
        bytes.extend((chunk_bytes as u32).to_be_bytes());
        bytes.extend(format_0(6, 0, total as u32, 9));
        for (index, chunk) in vec![5u8; total].chunks(chunk_bytes).enumerate() {
            if index > 0 {
                bytes.push(0xc6);
            }
            bytes.extend(chunk);
        }
        let start = std::time::Instant::now();
        let mut reader = ChunkReader::new(limits(), 0);
        let mut whole = 0;
        for mut piece in bytes.chunks(cut) {
            while !piece.is_empty() {
                let (used, message) = reader.read(piece).unwrap();
                piece = &piece[used..];
                whole += message.map_or(0, |message| message.payload.len());
            }
        }
        assert_eq!(whole, total);
        let took = start.elapsed();
        eprintln!("chunk {chunk_bytes} B, {total} B, pieces of {cut} B: {took:?}");
        // Quadratic work took 15 s for a quarter of this; linear work is some milliseconds, even on a busy machine.
        assert!(took.as_secs() < 4, "{took:?} for chunks of {chunk_bytes} B");
    }
}
