//! A method of the caller's own: it changes the delta's values, and what these come to is stored bit for bit.
//! So a restore, and every reader there ever was, needs to know nothing of it.
//!
//! Reads its input once.

use std::fmt;
use std::sync::Arc;

use crate::codec::{Codec, CodecId, Operand, Scratch, Target, planes};
use crate::error::{Error, Result};
use crate::kernel::convert;
use crate::method::{LossyMethod, TileAt};

/// Settings that the program adds itself.
const TAKEN: &[&str] = &["name", "include", "exclude", "rest"];
/// Most bytes of a name or a value.
const MAX_LEN: usize = 255;

/// A method of one's own: decides what becomes of a delta's values, and nothing about how they are stored.
///
/// Each tile of a tensor that is stored with loss is given to [`change`](Self::change) once, as the delta of
/// fine-tune and base. What is left of it is added to the base, rounded once to the tensor's dtype, and stored
/// without further loss as a difference against the base, so zeros cost next to nothing. Which tensors these are
/// is the [`Policy`](crate::Policy)'s to say.
///
/// The archive's bytes are a function of the inputs only if `change` is one too: of the tile, its delta and the
/// settings, never of time, of threads, or of which tile came before. Tiles come in any order and from several
/// threads at once.
///
/// # Examples
/// A pruner that keeps the largest entries of each row:
/// ```
/// use delta_stream::{
///     CompressOptions, Custom, CustomMethod, CustomTile, Method, PairShape, Silent,
/// };
///
/// struct Prune {
///     keep: f64,
/// }
///
/// impl CustomMethod for Prune {
///     fn name(&self) -> &str {
///         "prune"
///     }
///
///     fn settings(&self) -> Vec<(String, String)> {
///         vec![("keep".into(), self.keep.to_string())]
///     }
///
///     fn change(&self, tile: &CustomTile<'_>, delta: &mut [f32]) {
///         let n_kept = (tile.n_cols as f64 * self.keep) as usize;
///         for row in delta.chunks_mut(tile.n_cols) {
///             let mut sizes: Vec<f32> = row.iter().map(|v| v.abs()).collect();
///             sizes.sort_by(|a, b| b.total_cmp(a));
///             let largest_dropped = sizes.get(n_kept).copied().unwrap_or(-1.0);
///             row.iter_mut().filter(|v| v.abs() <= largest_dropped).for_each(|v| *v = 0.0);
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// delta_stream::make_pair(dir.path(), &PairShape::small().with_sizes(32, 48, 64, 1), 1)?;
/// let [ft, base, archive] = ["fine-tune", "base", "a.delta.zst"].map(|name| dir.path().join(name));
/// let options = CompressOptions::new(Method::Custom(Custom::new(Prune { keep: 0.1 })));
/// let report = delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
/// assert!(report.relative_error.is_some_and(|error| error > 0.0 && error < 1.0));
///
/// // Whoever reads the archive needs no `Prune`.
/// let variant = &delta_stream::inspect(&archive, None, false)?.variants[0];
/// assert_eq!(variant.method, "custom");
/// assert_eq!(variant.settings[0], ("name".into(), "prune".into()));
/// delta_stream::restore(&archive, &base, &dir.path().join("back"), &Default::default(), &Silent)?;
/// # Ok(())
/// # }
/// ```
pub trait CustomMethod: Send + Sync {
    /// Its name, 1 to 255 bytes without control characters. Stored, as the setting `name`.
    fn name(&self) -> &str;

    /// What else readers should be told of it: pairs of a name and a value, each 1 to 255 bytes without control
    /// characters. `name`, `include`, `exclude` and `rest` are taken. Stored, and shown as they are. None unless
    /// a method says otherwise.
    fn settings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Changes the delta of one tile in place: `n_rows` rows of `n_cols` values, one after the other, all finite
    /// when they come. A tile that has a value which is not finite, before or after, is kept bit for bit.
    fn change(&self, tile: &CustomTile<'_>, delta: &mut [f32]);
}

/// Which tile a [`CustomMethod`] is given: whole rows of one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CustomTile<'a> {
    /// Name of the tensor.
    pub tensor: &'a str,
    /// The tile's first row, counted over all matrices of a stacked tensor.
    pub first_row: u64,
    /// Rows of the tile, 1 or more. How a tensor is cut depends on its shape and dtype alone; a tile has about a
    /// million elements at most, or one row.
    pub n_rows: usize,
    /// Columns of the matrix, 1 or more.
    pub n_cols: usize,
    /// A number of the tensor's name and the run's seed, for methods that draw. The same for all tiles of a tensor.
    pub key: u64,
}

/// A [`CustomMethod`] as [`Method::Custom`](crate::Method::Custom) takes it.
#[derive(Clone)]
pub struct Custom(Arc<dyn CustomMethod>);

impl Custom {
    /// Wraps a method.
    pub fn new(method: impl CustomMethod + 'static) -> Self {
        Self(Arc::new(method))
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let fits =
            |text: &str| (1..=MAX_LEN).contains(&text.len()) && !text.chars().any(char::is_control);
        let wrong = |what: &str, text: &str| {
            let text = format!(
                "{what} {text:?} of a custom method is not 1 to {MAX_LEN} bytes without control characters"
            );
            Err(Error::invalid_argument(text))
        };
        if !fits(self.0.name()) {
            return wrong("name", self.0.name());
        }
        let settings = self.0.settings();
        for (i, (key, value)) in settings.iter().enumerate() {
            if !fits(key) || !fits(value) {
                return wrong("setting", if fits(key) { value } else { key });
            }
            if TAKEN.contains(&key.as_str()) || settings[..i].iter().any(|(other, _)| other == key)
            {
                let text = format!("setting {key:?} of custom method {:?} is taken", self.0.name());
                return Err(Error::invalid_argument(text));
            }
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let mut settings = vec![("name".to_owned(), self.0.name().to_owned())];
        settings.extend(self.0.settings());
        settings
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.settings()).finish()
    }
}

/// By name and settings: code cannot be compared.
impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        self.settings() == other.settings()
    }
}

impl LossyMethod for Custom {
    fn patch(&self) -> u16 {
        1
    }

    /// The delta of a whole tile as values, and what it restores to in the widest dtype.
    fn worker_bytes(&self, n_elements: u64) -> u64 {
        (4 + 8) * n_elements
    }

    fn leaves_values(&self) -> bool {
        true
    }

    fn encode(&self, at: &TileAt<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> Option<CodecId> {
        let Scratch { strip, kept, bytes, sorted, .. } = scratch;
        let delta = at.delta.all(strip);
        let is_finite = |delta: &[f32]| delta.iter().all(|v| v.is_finite());
        if !is_finite(delta) {
            return None;
        }
        let (n_rows, n_cols) = (at.delta.n_rows, at.delta.n_cols);
        let (tensor, first_row, key) = (at.tensor, at.place.first_row, at.place.key);
        self.0.change(&CustomTile { tensor, first_row, n_rows, n_cols, key }, delta);
        if !is_finite(delta) {
            return None;
        }
        let (dtype, base) = (at.delta.ft.dtype, at.delta.base);
        kept.resize(at.delta.ft.bytes.len(), 0);
        convert::add((base.dtype, base.bytes), delta, dtype, kept);
        let base = planes::base_as(base, dtype, bytes);
        let tile = Operand { dtype, bytes: kept };
        if tile.bytes == base {
            planes::encode_equal(out);
        } else {
            planes::encode_difference(tile, base, sorted, out);
        }
        Some(CodecId::Planes)
    }

    fn max_len(&self, target: &Target) -> usize {
        planes::Planes.max_len(target)
    }

    fn paper_bits(&self) -> (f64, &'static str) {
        (0.0, "none: the method is the caller's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str, &'static [(&'static str, &'static str)]);

    impl CustomMethod for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn settings(&self) -> Vec<(String, String)> {
            self.1.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        }

        fn change(&self, _tile: &CustomTile<'_>, _delta: &mut [f32]) {}
    }

    #[test]
    fn names_and_settings_can_be_stored_and_shown() {
        let check = |name, settings| Custom::new(Named(name, settings)).validate();
        assert!(check("prune", &[("keep", "0.1"), ("by", "row")]).is_ok());
        for (name, settings) in [
            ("", &[][..]),
            ("a\nb", &[]),
            ("a", &[("", "1")]),
            ("a", &[("k", "")]),
            ("a", &[("k", "\u{1b}[2J")]),
            ("a", &[("name", "b")]),
            ("a", &[("rest", "base")]),
            ("a", &[("k", "1"), ("k", "2")]),
        ] {
            assert!(check(name, settings).is_err(), "{name:?} {settings:?}");
        }
        let long = "x".repeat(MAX_LEN + 1);
        assert!(check(long.leak(), &[]).is_err());
    }

    #[test]
    fn methods_are_the_same_if_they_say_so() {
        let named = |name| Custom::new(Named(name, &[("k", "1")]));
        assert_eq!(named("a"), named("a"));
        assert_ne!(named("a"), named("b"));
        assert_eq!(named("a").settings()[0], ("name".into(), "a".into()));
    }
}
