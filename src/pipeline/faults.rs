//! A damaged place of an archive, named as people know it.

use crate::archive::Stored;
use crate::error::Error;
use crate::report::Fault;

/// Whose frame is damaged.
pub(crate) enum Whose<'a> {
    /// No variant's.
    Nobody,
    /// A variant's record, by the variant's name.
    Variant(&'a str),
    /// A tile of a tensor of a variant, by position and number.
    Tensor(&'a Stored, usize, u64),
    /// A piece of a side file likewise.
    SideFile(&'a Stored, usize, u64),
}

impl Whose<'_> {
    /// The fault of its frame at `offset`.
    pub(crate) fn fault(self, offset: u64, error: &Error) -> Fault {
        let (variant, tensor, side_file, part) = match self {
            Whose::Nobody => (None, None, None, None),
            Whose::Variant(name) => (Some(name), None, None, None),
            Whose::Tensor(stored, i, part) => {
                (Some(&*stored.head.name), Some(&stored.tensors[i].name), None, Some(part))
            }
            Whose::SideFile(stored, i, part) => {
                let file = &stored.head.side_files[i].name;
                (Some(&*stored.head.name), None, Some(file), Some(part))
            }
        };
        Fault {
            variant: variant.map(str::to_owned),
            tensor: tensor.cloned(),
            side_file: side_file.cloned(),
            part,
            offset,
            what: error.to_string(),
            kind: error.kind(),
        }
    }
}
