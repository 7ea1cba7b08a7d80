//! BitDelta as hanzo-ml has it: `encode BASE FINE_TUNE OUT`, `decode BASE DELTA OUT`, all files; or `--version`.

use std::path::Path;

use hanzo_ml::model_delta::{decode_apply, encode};

fn main() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (run, files): (fn(&Path, &Path, &Path) -> hanzo_ml::Result<()>, _) = match args.as_slice() {
        ["--version"] => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        ["encode", files @ ..] => (encode, files),
        ["decode", files @ ..] => (decode_apply, files),
        _ => return Err("encode, decode or --version".into()),
    };
    let [base, given, out] = files else {
        return Err("a base, a fine-tune or a delta, and a file to write".into());
    };
    run(Path::new(base), Path::new(given), Path::new(out)).map_err(|error| {
        // A backtrace follows the first line.
        error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .to_string()
    })
}
