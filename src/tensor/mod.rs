//! What a tensor is: dtype, shape and the tiles it is cut into. Pure data; no bytes are read here.

mod dtype;
mod tile;

pub use dtype::DType;
pub use tile::Shape;
pub(crate) use tile::{Tile, Tiling};
