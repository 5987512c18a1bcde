//! The only room with unsafe code and raw system calls: polling, doorbells, descriptor passing, mappings, sockets,
//! children, clocks and limits of the operating system (Linux).
//!
//! Everything here is a thin, safe wrapper: no policy, no retry loops, no logging, no state beyond the descriptor or
//! mapping that a type owns. Every descriptor it creates is close-on-exec; every socket is non-blocking too.

#![allow(unsafe_code)]

pub mod allocation;
pub mod child;
pub mod clock;
pub mod dir;
pub mod eventfd;
pub mod fault;
pub mod fd_passing;
pub mod features;
pub mod file;
pub mod limits;
pub mod mapping;
pub mod memory;
pub mod net;
pub mod page;
pub mod poller;
pub mod privileges;
pub mod process;
pub mod splice;
pub mod syscalls;

pub use dir::Dir;
pub use eventfd::EventFd;
pub use mapping::Mapping;
pub use memory::SharedMemory;
pub use page::SharedPage;
pub use poller::{Event, Events, Interest, Poller};
pub use process::PidFd;
pub use splice::Pipe;
