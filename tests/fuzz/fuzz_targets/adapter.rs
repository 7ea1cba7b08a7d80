#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| delta_stream_fuzz::run("adapter", data));
