//! Files of evicted blocks that are written once more, as other blocks: most of what it costs to write to a tmpfs is taking and
//! clearing its pages, and these are there.
//!
//! A file is taken only when nobody else has it open or mapped. Readers never come to bytes that are not of the block they
//! opened: these lie behind the commit word until they are overwritten, and are cut off when the block is finished. (Whoever sends
//! pages by reference, as `sendfile` does, may still hold them when the file is closed: blocks must not be sent that way.)

use braidcast_media::flv::{MAX_PAYLOAD_BYTES, RECORD_OVERHEAD_BYTES};
use braidcast_sys::{Dir, file};
use std::io;
use std::os::fd::OwnedFd;

/// The name in `log/` of a file that waits for its next block. There is one at most.
pub(crate) const SPARE: &str = "spare";
/// Longer files are not kept: one tag, of no kind, must be able to span what is left of the block before.
const MOST_BYTES: u64 = MAX_PAYLOAD_BYTES as u64;
/// Type and size of a tag: all that is needed to pass over it.
const FILLER_BYTES: usize = 11;

/// The file of a block that is being written.
#[derive(Debug)]
pub(crate) struct BlockFile {
    pub fd: OwnedFd,
    /// Where the bytes end that are of the block that had the file before; 0 if it is new.
    old_end: u64,
}

impl BlockFile {
    /// A file that holds nothing but its block.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, old_end: 0 }
    }

    /// How long the file is when its block ends there.
    pub fn bytes(&self, end: u32) -> u64 {
        self.old_end.max(end.into())
    }

    /// Cuts off what is not of the block, which ends there.
    pub fn cut(&mut self, end: u32) -> io::Result<()> {
        if self.old_end > end.into() {
            file::truncate(&self.fd, end.into())?;
        }
        self.old_end = 0;
        Ok(())
    }

    /// Appends to `staged`, which is to be written up to `end`, what lets whoever reads the file as it lies pass over the rest of it.
    pub fn write_filler(&self, staged: &mut Vec<u8>, end: u32) {
        let left = self.old_end.saturating_sub(end.into());
        let payload = u32::try_from(left.saturating_sub(RECORD_OVERHEAD_BYTES as u64)).unwrap_or(0);
        let [_, size @ ..] = payload.to_be_bytes();
        let mut filler = [0; FILLER_BYTES];
        filler[1..4].copy_from_slice(&size);
        staged.extend_from_slice(&filler[..FILLER_BYTES.min(usize::try_from(left).unwrap_or(FILLER_BYTES))]);
    }
}

/// The file that waits, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    bytes: u64,
}

impl Spare {
    /// How long it is; 0: there is none.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a file instead of removing it. False: it is still there.
    pub fn keep(&mut self, log: &Dir, name: &str, bytes: u64) -> bool {
        let kept = self.bytes == 0 && (1..=MOST_BYTES).contains(&bytes) && log.rename(name, SPARE).is_ok();
        self.bytes += if kept { bytes } else { 0 };
        kept
    }

    /// Gives the file another name, if there is one that nobody else has. In any case there is none any more.
    pub fn take(&mut self, log: &Dir, name: &str) -> Option<BlockFile> {
        if std::mem::take(&mut self.bytes) == 0 {
            return None;
        }
        let taken = log.open_regular(SPARE, true).ok().map(OwnedFd::from).filter(|fd| file::is_open_once(fd));
        let taken = taken.and_then(|fd| {
            let old_end = file::len(&fd).ok()?;
            log.rename(SPARE, name).ok()?;
            Some(BlockFile { fd, old_end })
        });
        if taken.is_none() {
            // What cannot be removed now is removed by the next recovery.
            drop(log.unlink(SPARE));
        }
        taken
    }

    /// Removes the file; false if there was none.
    pub fn give_up(&mut self, log: &Dir) -> bool {
        let was = std::mem::take(&mut self.bytes) > 0;
        if was {
            drop(log.unlink(SPARE));
        }
        was
    }
}
