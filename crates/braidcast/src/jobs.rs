//! Work that blocks, done in a few threads that are started when they are needed. What comes of it is announced by a doorbell.

use braidcast_sys::EventFd;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job<T> = Box<dyn FnOnce(&Outlet<T>) + Send>;

/// Where a job's results go.
pub struct Outlet<T> {
    results: Sender<T>,
    bell: EventFd,
}

impl<T> Outlet<T> {
    /// Whoever is gone does not wait for results.
    pub fn send(&self, result: T) {
        let _ = self.results.send(result);
        let _ = self.bell.ring();
    }

    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { results: self.results.clone(), bell: self.bell.try_clone()? })
    }
}

/// See the module's head. The threads end with it.
pub struct Jobs<T> {
    outlet: Outlet<T>,
    results: Receiver<T>,
    jobs: Sender<Job<T>>,
    queue: Arc<Mutex<Receiver<Job<T>>>>,
    threads: usize,
    max_threads: usize,
}

impl<T: Send + 'static> Jobs<T> {
    /// So many threads at most; none yet.
    pub fn new(max_threads: usize) -> io::Result<Self> {
        let ((results_in, results), (jobs, queue)) = (channel(), channel());
        let outlet = Outlet { results: results_in, bell: EventFd::new()? };
        Ok(Self { outlet, results, jobs, queue: Arc::new(Mutex::new(queue)), threads: 0, max_threads })
    }

    /// Has a job done, as the one of this number that are under way; how many may be is the caller's to say. False: there is no thread for it.
    pub fn start(&mut self, under_way: usize, job: impl FnOnce(&Outlet<T>) + Send + 'static) -> bool {
        if self.threads < under_way.min(self.max_threads) {
            match self.start_thread() {
                Ok(()) => self.threads += 1,
                Err(error) if self.threads == 0 => {
                    tracing::warn!(%error, "no thread can be started");
                    return false;
                }
                Err(_) => {}
            }
        }
        self.jobs.send(Box::new(job)).is_ok()
    }

    fn start_thread(&self) -> io::Result<()> {
        let (queue, outlet) = (self.queue.clone(), self.outlet.try_clone()?);
        let work = move || {
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                job(&outlet);
            }
        };
        std::thread::Builder::new().name("job".into()).spawn(work).map(drop)
    }

    /// The next result. The doorbell is silent from then on: take all.
    pub fn poll(&mut self) -> Option<T> {
        let _ = self.outlet.bell.drain();
        self.results.try_recv().ok()
    }
}

impl<T> AsFd for Jobs<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.outlet.bell.as_fd()
    }
}
