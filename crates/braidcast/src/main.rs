//! The program: see the library of the same name.

#[cfg(feature = "faults")]
#[global_allocator]
static ALLOCATOR: braidcast_sys::allocation::Counting = braidcast_sys::allocation::Counting;

fn main() -> std::process::ExitCode {
    braidcast::main()
}
