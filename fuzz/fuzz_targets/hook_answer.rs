#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| braidcast_fuzz_targets::run("hook_answer", input));
