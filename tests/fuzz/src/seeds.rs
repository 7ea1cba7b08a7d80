//! Writes first inputs for every target into `work`: what the committed archives hold, and tiles of small models
//! by every method. No target; it is linked like one, since all of this package is built for a fuzzer.
#![no_main]

use std::fs;
use std::path::Path;

libfuzzer_sys::fuzz_target!(init: write_seeds(), |_data: &[u8]| {});

fn write_seeds() {
    for (target, inputs) in delta_stream_fuzz::seeds() {
        let dir = Path::new("work").join(target);
        fs::create_dir_all(&dir).expect("a directory");
        for (i, input) in inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{i:03}")), input).expect("a file");
        }
    }
}
