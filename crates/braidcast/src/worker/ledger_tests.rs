#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// Blocks of messages of `MESSAGE` bytes; each block starts with a prefix of one message.
struct Model {
    blocks: Vec<Vec<u8>>,
    available: Vec<usize>,
}

const MESSAGE: usize = 10;

impl Model {
    fn new(sizes: &[usize]) -> Self {
        let blocks: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(number, messages)| (0..(messages + 1) * MESSAGE).map(|i| (number * 50 + i / MESSAGE) as u8).collect())
            .collect();
        Self { available: vec![0; blocks.len()], blocks }
    }

    /// Makes one more message visible; false when all are.
    fn grow(&mut self) -> bool {
        for (available, block) in self.available.iter_mut().zip(&self.blocks) {
            if *available < block.len() {
                *available += MESSAGE;
                return true;
            }
        }
        false
    }
}

impl Blocks for Model {
    fn available(&self, block: u32) -> Option<Available> {
        let bytes = *self.available.get(block as usize)? as u32;
        let complete = self.available.get(block as usize + 1).is_some_and(|next| *next > 0);
        Some(Available { bytes, complete })
    }
    fn bytes(&self, block: u32, from: u32, to: u32) -> &[u8] {
        assert!(to as usize <= self.available[block as usize]);
        &self.blocks[block as usize][from as usize..to as usize]
    }
    fn after(&self, block: u32) -> Option<(u32, u32)> {
        (*self.available.get(block as usize + 1)? > 0).then_some((block + 1, MESSAGE as u32))
    }
    fn boundary(&self, _: u32, offset: u32) -> u32 {
        offset.next_multiple_of(MESSAGE as u32)
    }
    fn records_start(&self, _: u32) -> u32 {
        MESSAGE as u32
    }
}

fn send(ledger: &mut Ledger, model: &Model, control: &mut Vec<u8>, most: usize, out: &mut Vec<u8>) -> usize {
    let Next::Slices(slices) = ledger.gather(model, control) else { return 0 };
    let all: Vec<u8> = slices.as_slice().iter().flat_map(|slice| slice.to_vec()).collect();
    let sent = all.len().min(most);
    out.extend_from_slice(&all[..sent]);
    let used = ledger.advance(sent);
    control.drain(..used);
    sent
}

proptest! {
    /// However the stream grows and however little the socket takes: first the greeting, then each message once, in order,
    /// no prefix but the first, and control messages only between media messages.
    #[test]
    fn every_byte_once_and_in_order(sizes in prop::collection::vec(1usize..6, 1..6), steps in prop::collection::vec((0usize..4, 1usize..40), 1..200)) {
        let mut model = Model::new(&sizes);
        let (mut ledger, mut control, mut out) = (Ledger::default(), b"hello".to_vec(), Vec::new());
        ledger.push(Source::Control { bytes: 5 }).unwrap();
        ledger.push(Source::Run { block: 0, offset: 0, end: OPEN }).unwrap();
        for (action, most) in steps {
            match action {
                0 => { model.grow(); }
                1 => if let Ok(Some((block, offset))) = ledger.cut(&model, 2) {
                    control.extend_from_slice(&[255; 3]);
                    ledger.push(Source::Control { bytes: 3 }).unwrap();
                    ledger.push(Source::Run { block, offset, end: OPEN }).unwrap();
                },
                _ => { send(&mut ledger, &model, &mut control, most, &mut out); }
            }
        }
        while model.grow() || send(&mut ledger, &model, &mut control, usize::MAX, &mut out) > 0 {}
        prop_assert_eq!(&out[..5], b"hello");
        let mut media = Vec::new();
        let mut rest = &out[5..];
        while !rest.is_empty() {
            if rest[0] == 255 {
                prop_assert_eq!(&rest[..3], &[255; 3][..]);
                rest = &rest[3..];
            } else {
                media.extend_from_slice(&rest[..MESSAGE]);
                rest = &rest[MESSAGE..];
            }
        }
        let mut want = model.blocks[0].clone();
        for block in &model.blocks[1..] {
            want.extend_from_slice(&block[MESSAGE..]);
        }
        prop_assert_eq!(media, want);
        prop_assert!(control.is_empty());
        prop_assert_eq!(ledger.sent, out.len() as u64);
    }
}

#[test]
fn a_full_ledger_that_cannot_cross_changes_nothing() {
    let mut model = Model::new(&[2; 10]);
    while model.grow() {}
    let mut ledger = Ledger::default();
    ledger.push(Source::Run { block: 0, offset: 0, end: OPEN }).unwrap();
    let _ = ledger.gather(&model, &[]);
    assert_eq!(ledger.extents().len(), MAX_EXTENTS);
    let changes = ledger.changes();
    assert!(matches!(ledger.gather(&model, &[]), Next::Slices(slices) if slices.as_slice().len() == MAX_EXTENTS));
    assert_eq!(ledger.changes(), changes, "who saves changes and gathers again would do so for ever");
    let (mut control, mut out) = (Vec::new(), Vec::new());
    while send(&mut ledger, &model, &mut control, usize::MAX, &mut out) > 0 {}
    assert_eq!(out.len(), (3 + 9 * 2) * MESSAGE);
}

/// All that a ledger still gives, as long as it gives something.
fn rest(ledger: &mut Ledger, model: &Model, control: &mut Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    while send(ledger, model, control, usize::MAX, &mut out) > 0 {}
    out
}

proptest! {
    /// Wherever a viewer stands, what it is owed ends with a whole message when it is given up, and it can be sent elsewhere.
    #[test]
    fn what_is_given_up_ends_at_a_message(sizes in prop::collection::vec(1usize..6, 2..8), takes in prop::collection::vec(1usize..25, 0..20), answers in any::<bool>()) {
        let mut model = Model::new(&sizes);
        while model.grow() {}
        let (mut ledger, mut control, mut out) = (Ledger::default(), b"hello".to_vec(), Vec::new());
        ledger.push(Source::Control { bytes: 5 }).unwrap();
        ledger.push(Source::Run { block: 0, offset: 0, end: OPEN }).unwrap();
        for most in takes {
            send(&mut ledger, &model, &mut control, most, &mut out);
        }
        if answers && let Ok(Some((block, offset))) = ledger.cut(&model, 2) {
            control.extend_from_slice(&[255; 10]);
            ledger.push(Source::Control { bytes: 10 }).unwrap();
            ledger.push(Source::Run { block, offset, end: OPEN }).unwrap();
        }
        let begun = out.len() > 5 && (out.len() - 5) % MESSAGE != 0;
        ledger.abandon(&model);
        // Once more, and again from the place it was sent to.
        ledger.push(Source::Run { block: 1, offset: MESSAGE as u32, end: OPEN }).unwrap();
        prop_assert_eq!(ledger.pace(), Some((1, MESSAGE as u32)));
        ledger.abandon(&model);
        let owed = ledger.owed_bytes().unwrap();
        let last = sizes.len() as u32 - 1;
        ledger.push(Source::Run { block: last, offset: 0, end: MESSAGE as u32 }).unwrap();
        ledger.push(Source::Run { block: last, offset: MESSAGE as u32, end: OPEN }).unwrap();
        let before = out.len();
        out.extend(rest(&mut ledger, &model, &mut control));
        prop_assert_eq!(&out[..5], b"hello");
        prop_assert_eq!((out.len() - 5) % MESSAGE, 0);
        for message in out[5..].chunks(MESSAGE) {
            prop_assert!(message.iter().all(|byte| *byte == message[0]), "a message in pieces");
        }
        prop_assert!(out[5..].chunks(MESSAGE).any(|message| message[0] == 0), "the first prefix is lost");
        prop_assert!(out.ends_with(model.blocks.last().unwrap()));
        prop_assert_eq!((out.len() - before) as u64, owed + model.blocks.last().unwrap().len() as u64);
        prop_assert!(!begun || owed > 0);
        prop_assert!(control.is_empty());
    }
}

#[test]
fn a_run_that_is_cut_when_all_of_it_was_sent_owes_nothing() {
    let mut model = Model::new(&[2]);
    let mut ledger = Ledger::default();
    ledger.push(Source::Run { block: 0, offset: 0, end: OPEN }).unwrap();
    while model.grow() {}
    assert_eq!(send(&mut ledger, &model, &mut Vec::new(), usize::MAX, &mut Vec::new()), 3 * MESSAGE);
    assert_eq!(ledger.cut(&model, 1), Ok(Some((0, 3 * MESSAGE as u32))));
    assert!(ledger.is_empty(), "the session would wait for a send that never comes");
    ledger.push(Source::Control { bytes: 1 }).unwrap();
    assert_eq!(ledger.extents()[0].from, 3 * MESSAGE as u64);
}

#[test]
fn what_a_new_block_begins_with_is_sent_at_once_to_who_has_all_of_the_old_one() {
    let mut model = Model::new(&[1, 1]);
    let mut ledger = Ledger::default();
    ledger.push(Source::Run { block: 0, offset: 0, end: OPEN }).unwrap();
    for messages in [2, 1] {
        (0..2).for_each(|_| assert!(model.grow()));
        assert_eq!(send(&mut ledger, &model, &mut Vec::new(), usize::MAX, &mut Vec::new()), messages * MESSAGE);
    }
}

#[test]
fn a_body_waits_for_the_head_before_it() {
    let model = Model::new(&[1]);
    let mut ledger = Ledger::default();
    ledger.push(Source::Control { bytes: 4 }).unwrap();
    ledger.push(Source::Body { offset: 0, end: 100 }).unwrap();
    let Next::Slices(slices) = ledger.gather(&model, b"head") else { panic!("the head comes first") };
    assert!(slices.total() == 4 && slices.are_before_body());
    assert_eq!(ledger.advance(4), 4);
    assert!(matches!(ledger.gather(&model, b""), Next::Body(0, 100)));
    assert_eq!(ledger.advance(30), 0);
    assert!(matches!(ledger.gather(&model, b""), Next::Body(30, 70)) && ledger.owes_body());
    ledger.advance(70);
    assert!(ledger.is_empty() && !ledger.owes_body());
    ledger.push(Source::Control { bytes: 2 }).unwrap();
    let Next::Slices(slices) = ledger.gather(&model, b"ok") else { panic!("there is something to send") };
    assert!(!slices.are_before_body());
}
