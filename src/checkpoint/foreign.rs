//! Weights in other formats: told by their names or first bytes, and refused with the way to safetensors.

use std::path::Path;

use crate::checkpoint::discover::SINGLE_NAME;
use crate::error::Error;

/// A format of weights that is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    Torch,
    Gguf,
    /// Of other frameworks, which transformers reads.
    Other,
    /// A web page or a pointer: not weights at all.
    LfsPointer,
    WebPage,
}

/// Endings of names; lower case.
const SUFFIXES: &[(&str, Foreign)] = &[
    (".bin", Foreign::Torch),
    (".pt", Foreign::Torch),
    (".pth", Foreign::Torch),
    (".ckpt", Foreign::Torch),
    (".gguf", Foreign::Gguf),
    (".h5", Foreign::Other),
    (".msgpack", Foreign::Other),
    (".onnx", Foreign::Other),
];

/// First bytes of files.
const SIGNATURES: &[(&[u8], Foreign)] = &[
    (b"version ", Foreign::LfsPointer),
    (b"GGUF", Foreign::Gguf),
    (b"PK\x03\x04", Foreign::Torch),
    (b"\x80\x02", Foreign::Torch),
    (b"<!", Foreign::WebPage),
    (b"<html", Foreign::WebPage),
];

impl Foreign {
    /// The format that a file's name promises; an index is of the format that it lists.
    pub(super) fn by_name(name: &str) -> Option<Foreign> {
        let lower = name.to_ascii_lowercase();
        let lower = lower.strip_suffix(".index.json").unwrap_or(&lower);
        SUFFIXES.iter().find(|(suffix, _)| lower.ends_with(suffix)).map(|row| row.1)
    }

    /// The format that a file of another name begins like.
    pub(super) fn by_start(start: &[u8]) -> Option<Foreign> {
        SIGNATURES.iter().find(|(signature, _)| start.starts_with(signature)).map(|row| row.1)
    }

    /// Why the file at `path` is not read, and what to do.
    pub(super) fn refusal(self, path: &Path) -> Error {
        let what = path.display();
        Error::invalid_checkpoint(match self {
            Foreign::Torch if path.extension().is_some_and(|e| e == "json") => format!(
                "{what} is not a safetensors file but lists PyTorch ones; {}",
                by_transformers(path.parent().unwrap_or(path))
            ),
            Foreign::Torch => format!(
                "{what} is not a safetensors file but a PyTorch one, which may run code when it is \
                 loaded; convert it: {}",
                by_torch(path)
            ),
            Foreign::Gguf => format!(
                "{what} is not a safetensors file but a GGUF one, whose weights are mostly quantised; \
                 give the safetensors checkpoint that it was made from (its page on the Hub names it; \
                 hf download ORG/NAME)"
            ),
            Foreign::Other => format!(
                "{what} is not a safetensors file; {}",
                by_transformers(path.parent().unwrap_or(path))
            ),
            Foreign::LfsPointer => format!(
                "{what}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`"
            ),
            Foreign::WebPage => {
                format!("{what}: this is a web page, not the file; download it again")
            }
        })
    }
}

/// Why a directory that has `name`, and no safetensors, is not read. Files of `name`'s format make the
/// checkpoint, `n_alike` of them.
pub(super) fn directory_refusal(dir: &Path, name: &str, foreign: Foreign, n_alike: usize) -> Error {
    let file = dir.join(name);
    let error = match foreign {
        // A loader finds parts by an index, which a conversion file by file would lack.
        Foreign::Torch if n_alike > 1 => Error::invalid_checkpoint(format!(
            "{} and {} more are PyTorch files, which may run code when they are loaded; {}",
            file.display(),
            n_alike - 1,
            by_transformers(dir)
        )),
        other => other.refusal(&file),
    };
    error.context(format!("{} has no .safetensors file", dir.display()))
}

/// The command that writes one PyTorch file as safetensors, bit for bit.
fn by_torch(path: &Path) -> String {
    let is_model = path.file_name().is_some_and(|name| name == "pytorch_model.bin");
    let to = if is_model {
        path.with_file_name(SINGLE_NAME)
    } else {
        path.with_extension("safetensors")
    };
    // One that bears the name of what it is to become goes out of its way first.
    let aside = path.with_added_extension("pt");
    let (first, from) = match to == path {
        true => (format!("mv -n {} {} && ", quoted(path), quoted(&aside)), aside.as_path()),
        false => (String::new(), path),
    };
    format!(
        "{first}python3 -c 'import sys, torch; from safetensors.torch import save_file; s = torch.load(sys.argv[1], \
         map_location=\"cpu\", weights_only=True); save_file({{k: v.clone().contiguous() for k, v in s.items()}}, \
         sys.argv[2], {{\"format\": \"pt\"}})' {} {}",
        quoted(from),
        quoted(&to)
    )
}

/// The command that loads a directory and saves it as safetensors beside it.
fn by_transformers(dir: &Path) -> String {
    let mut to = dir.as_os_str().to_owned();
    to.push("-safetensors");
    format!(
        "convert it: python3 -c 'import sys; from transformers import AutoModelForCausalLM as Model; \
         Model.from_pretrained(sys.argv[1], torch_dtype=\"auto\").save_pretrained(sys.argv[2])' {} {} \
         (with the model's own class, if it is no causal language model)",
        quoted(dir),
        quoted(Path::new(&to))
    )
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-1.bin")), "/a/b-1.bin");
        assert_eq!(quoted(Path::new("it's here")), "'it'\\''s here'");
    }

    #[test]
    fn a_conversion_never_writes_onto_its_input() {
        for (path, end) in [
            ("m/pytorch_model.bin", "' m/pytorch_model.bin m/model.safetensors"),
            ("m/a.pt", "' m/a.pt m/a.safetensors"),
            ("m/model.safetensors", "' m/model.safetensors.pt m/model.safetensors"),
        ] {
            let command = by_torch(Path::new(path));
            assert!(command.ends_with(end), "{command}");
            assert_eq!(command.starts_with("mv "), path.ends_with(".safetensors"), "{command}");
        }
        let moved = "mv -n m/model.safetensors m/model.safetensors.pt && python3";
        assert!(by_torch(Path::new("m/model.safetensors")).starts_with(moved));
    }

    #[test]
    fn a_name_and_a_start_tell_the_format() {
        let of = |name| Foreign::by_name(name);
        assert_eq!(of("pytorch_model.bin.index.json"), Some(Foreign::Torch));
        assert_eq!(of("Model.Q4_K_M.GGUF"), Some(Foreign::Gguf));
        assert_eq!(of("model.safetensors"), None);
        assert_eq!(Foreign::by_start(b"GGUF\x03\0\0\0"), Some(Foreign::Gguf));
        assert_eq!(Foreign::by_start(b"\x08\0\0\0\0\0\0\0"), None);
    }
}
