//! Pipes that carry bytes from one socket to another without their passing through this process (splice(2)).

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What a pipe holds unless it is asked for another size; the kernel's own default.
pub const DEFAULT_PIPE_BYTES: usize = 64 << 10;
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// A pipe, non-blocking and close-on-exec. It knows how many bytes it holds, and so whether it may be lent to other sockets.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity_bytes: usize,
    held_bytes: usize,
}

impl Pipe {
    /// An empty pipe for about `capacity_bytes`. Where the operating system allows no such size (`fs.pipe-max-size`,
    /// `fs.pipe-user-pages-soft`), it has the one it was made with.
    pub fn new(capacity_bytes: usize) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let granted = if capacity_bytes == DEFAULT_PIPE_BYTES { Err(Errno::PERM) } else { fcntl_setpipe_size(&writer, capacity_bytes) };
        let capacity_bytes = match granted {
            Ok(granted) => granted,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&writer)?,
        };
        Ok(Self { reader, writer, capacity_bytes, held_bytes: 0 })
    }

    /// How many bytes it can hold, if they come in whole pages. Small pieces use a page each, so that it may be full much earlier.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// How many bytes it holds.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.held_bytes == 0
    }

    /// Takes from `socket` what is there, up to the pipe's capacity, and says how much; 0: the peer has ended. `WouldBlock` says
    /// that the socket has nothing, or, unless the pipe is empty, that the pipe has no room: the two cannot be told apart.
    pub fn splice_in(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = splice(socket, None, &self.writer, None, self.capacity_bytes, FLAGS)?;
        self.held_bytes += moved;
        Ok(moved)
    }

    /// Gives `socket` as much of what the pipe holds as it takes, and says how much; 0 only if the pipe is empty. `WouldBlock`: the
    /// socket takes nothing now. A socket whose peer is gone raises SIGPIPE, which Rust programs ignore.
    pub fn splice_out(&mut self, socket: impl AsFd) -> io::Result<usize> {
        if self.held_bytes == 0 {
            return Ok(0);
        }
        let moved = splice(&self.reader, None, socket, None, self.held_bytes, FLAGS)?;
        self.held_bytes -= moved;
        Ok(moved)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Two ends of a connection; the first is non-blocking.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn blocks<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn wait_readable(socket: &TcpStream) {
        socket.set_nonblocking(false).unwrap();
        socket.peek(&mut [0]).unwrap();
        socket.set_nonblocking(true).unwrap();
    }

    #[test]
    fn bytes_go_from_socket_to_socket_and_the_end_is_told() {
        let ((from, mut source), (to, mut sink)) = (pair(), pair());
        let mut pipe = Pipe::new(DEFAULT_PIPE_BYTES).unwrap();
        assert!(blocks(pipe.splice_in(&from)), "nothing has come");
        assert_eq!(pipe.splice_out(&to).unwrap(), 0, "nothing is held");
        source.write_all(b"twelve bytes").unwrap();
        wait_readable(&from);
        assert_eq!((pipe.splice_in(&from).unwrap(), pipe.held_bytes()), (12, 12));
        assert_eq!((pipe.splice_out(&to).unwrap(), pipe.is_empty()), (12, true));
        let mut got = [0; 12];
        sink.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"twelve bytes");
        drop(source);
        wait_readable(&from);
        assert_eq!(pipe.splice_in(&from).unwrap(), 0);
    }

    #[test]
    fn a_full_pipe_and_a_full_socket_block_and_nothing_is_lost() {
        let ((from, mut source), (to, mut sink)) = (pair(), pair());
        let mut pipe = Pipe::new(16 << 10).unwrap();
        assert!(pipe.capacity_bytes() >= 16 << 10);
        let sent: Vec<u8> = (0..20_000_000_u32).map(|index| (index / 7) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || source.write_all(&sent).unwrap());
        // Until neither the pipe nor the socket behind it takes anything.
        let mut moved = 0;
        loop {
            wait_readable(&from);
            let came = pipe.splice_in(&from);
            let went = pipe.splice_out(&to);
            moved += went.as_ref().map_or(0, |went| *went);
            if blocks(came) && blocks(went) {
                break;
            }
        }
        assert!(!pipe.is_empty() && moved > 0);
        let held = pipe.held_bytes();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            sink.read_to_end(&mut got).unwrap();
            got
        });
        let mut ended = false;
        while !ended || !pipe.is_empty() {
            if !ended {
                ended = matches!(pipe.splice_in(&from), Ok(0));
            }
            if pipe.splice_out(&to).is_err() {
                std::thread::yield_now();
            }
        }
        writer.join().unwrap();
        drop(to);
        assert!(reader.join().unwrap() == expected, "{held} bytes were held");
    }

    #[test]
    fn a_socket_whose_peer_is_gone_is_an_error() {
        let ((from, mut source), (to, sink)) = (pair(), pair());
        let mut pipe = Pipe::new(DEFAULT_PIPE_BYTES).unwrap();
        drop(sink);
        source.write_all(&[1; 100]).unwrap();
        let failed = loop {
            wait_readable(&from);
            pipe.splice_in(&from).unwrap();
            match pipe.splice_out(&to) {
                Ok(_) => source.write_all(&[1; 100]).unwrap(),
                Err(error) => break error,
            }
        };
        assert!(matches!(failed.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{failed}");
    }
}
