//! Asking all processes the same at once.

use std::net::SocketAddr;

/// Processes asked at once for one request, a thread each.
const MAX_PARALLEL: usize = 32;

/// Does the same for every process, many at once; in their order. `None`: there was no thread for it.
pub(super) fn for_each_process<T: Send>(
    processes: &[(u16, SocketAddr)],
    work: impl Fn(u16, SocketAddr) -> T + Sync,
) -> Vec<(u16, Option<T>)> {
    let work = &work;
    let mut done = Vec::with_capacity(processes.len());
    for some in processes.chunks(MAX_PARALLEL) {
        std::thread::scope(|scope| {
            let start = |&(process, address): &(u16, SocketAddr)| {
                let thread = std::thread::Builder::new().name(format!("srs api {process}"));
                (process, thread.spawn_scoped(scope, move || work(process, address)))
            };
            let threads: Vec<_> = some.iter().map(start).collect();
            done.extend(threads.into_iter().map(|(process, thread)| (process, thread.ok().and_then(|thread| thread.join().ok()))));
        });
    }
    done
}
