//! `inspect`: what an archive holds, from its records; and what the lossy tensors' bits are for, from
//! their tiles.
//!
//! A frame is compressed as one, so no byte of it belongs to one part. Each part of a payload is
//! compressed alone, and the frame's body is divided in proportion to what comes out.

use std::ops::AddAssign;
use std::path::Path;

use crate::archive::{Archive, FORMAT_VERSION, Lost, Origin, Stored};
use crate::codec::Part;
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Encoder, HEADER_LEN};
use crate::inspect::summarise;
use crate::method::name_of;
use crate::pipeline::budget::Needs;
use crate::pipeline::decode::{DecodeStage, DecodeState, Job};
use crate::pipeline::frames::run_frames;
use crate::pipeline::options::Resources;
use crate::pipeline::spares::Spares;
use crate::report::{ArchiveSummary, BaseVectorSummary, PartBits, VariantSummary};

/// Lists the variants of an archive, or the one called `name`, from its records alone. With `tensors`
/// it lists their tensors too, and reads every tile of the lossy ones to say what their bits are for;
/// no base is needed.
///
/// # Examples
/// ```
/// use delta_stream::{Auto, CompressOptions, Method, PairShape, Silent};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # delta_stream::make_pair(dir.path(), &PairShape::small().with_sizes(64, 96, 64, 1), 1)?;
/// # let [ft, base, archive] = ["fine-tune", "base", "a.delta.zst"].map(|name| dir.path().join(name));
/// # let options = CompressOptions::new(Method::Auto(Auto::default()));
/// # delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
/// let summary = delta_stream::inspect(&archive, None, true)?;
/// for variant in &summary.variants {
///     println!("{}: {}, {} bytes of {}", variant.name, variant.method, variant.stored_bytes, summary.archive_bytes);
///     let tensors = variant.tensor_list.iter().flatten();
///     for tensor in tensors.filter(|t| t.relative_error.is_some()) {
///         let parts = tensor.parts.ok_or("lossy tensors have parts")?;
///         println!("  {}: {} bits, {} of them codes", tensor.name, tensor.bits_per_parameter, parts.codes);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible` if what is read of the archive cannot be; `InvalidArgument`
/// if there is no such variant.
pub fn inspect(archive: &Path, name: Option<&str>, tensors: bool) -> Result<ArchiveSummary> {
    let opened = Archive::open(archive)?;
    let names: Vec<String> = match name {
        Some(name) => vec![name.to_owned()],
        None => opened.index.variants().map(|v| v.name.clone()).collect(),
    };
    let variant = |name: &String| {
        let stored = opened.load(Some(name))?;
        let id = stored.head.shift.and_then(|shift| shift.vector);
        let vector = opened.index.vectors().find(|v| Some(v.id) == id);
        let mut summary = summarise(&stored, vector.map(|v| v.name.as_str()), tensors);
        let lost = opened.lost(&stored)?;
        add_lost(&stored, &lost, &mut summary);
        if tensors {
            add_parts(&opened, &stored, &lost, &mut summary)?;
        }
        Ok(summary)
    };
    let variants = names.iter().map(variant).collect::<Result<_>>()?;
    Ok(ArchiveSummary {
        format_version: FORMAT_VERSION.min(opened.footer.version),
        generation: opened.footer.generation,
        archive_bytes: opened.committed_len(),
        variants,
        base_vectors: base_vectors(&opened)?,
    })
}

/// The base vectors, and who uses them.
fn base_vectors(archive: &Archive) -> Result<Vec<BaseVectorSummary>> {
    let mut found = Vec::new();
    for entry in archive.index.vectors() {
        let stored = archive.load_entry(entry)?;
        let mut used_by = Vec::new();
        for variant in archive.index.variants() {
            let shift = archive.load_entry(variant)?.head.shift;
            if shift.is_some_and(|s| s.vector == Some(entry.id)) {
                used_by.push(variant.name.clone());
            }
        }
        found.push(BaseVectorSummary {
            name: entry.name.clone(),
            method: name_of(stored.head.method),
            stored_bytes: stored.seal.stored_bytes() + stored.record_bytes,
            used_by,
        });
    }
    Ok(found)
}

/// Stored bytes by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PartBytes {
    /// One for each of [`Part::ALL`].
    body: [u64; Part::ALL.len()],
    headers: u64,
}

impl PartBytes {
    /// One frame whose body is divided in proportion to `weights`, to the byte.
    fn of_frame(body_len: u64, weights: [u64; Part::ALL.len()]) -> Self {
        let total = weights.iter().sum::<u64>().max(1);
        let (mut before, mut weight) = (0, 0);
        let body = weights.map(|w| {
            weight += w;
            let end = body_len * weight / total;
            let share = end - before;
            before = end;
            share
        });
        Self { body, headers: HEADER_LEN as u64 }
    }

    fn bits_each(&self, n_elements: u64) -> PartBits {
        let bits = |bytes: u64| bytes as f64 * 8.0 / n_elements.max(1) as f64;
        let [codes, positions, scales] = self.body.map(bits);
        PartBits { codes, positions, scales, headers: bits(self.headers) }
    }
}

impl AddAssign for PartBytes {
    fn add_assign(&mut self, other: Self) {
        self.body.iter_mut().zip(other.body).for_each(|(sum, n)| *sum += n);
        self.headers += other.headers;
    }
}

/// What one worker reuses.
struct State {
    decode: DecodeState,
    encoder: Encoder,
    /// All bytes of one part, and what they are compressed to.
    part: Vec<u8>,
    compressed: Vec<u8>,
}

impl State {
    fn new() -> Result<Self> {
        let (decode, encoder) = (DecodeState::new()?, Encoder::new()?);
        Ok(Self { decode, encoder, part: Vec::new(), compressed: Vec::new() })
    }

    /// What the bytes of a frame are for.
    fn account(&mut self, stage: &DecodeStage<'_>, job: &Job) -> Result<PartBytes> {
        let target = stage.target(job);
        let codec = stage.payload(&mut self.decode, job, &target)?;
        let payload = &self.decode.payload;
        let parts = codec.parts(payload, &target)?;
        let mut weights = [0; Part::ALL.len()];
        for (weight, part) in weights.iter_mut().zip(Part::ALL) {
            self.part.clear();
            let mut rest = payload.as_slice();
            for (of, n) in &parts {
                let (stretch, after) = rest
                    .split_at_checked(*n)
                    .ok_or_else(|| Error::corrupt("payload is shorter than its parts"))?;
                rest = after;
                if *of == part {
                    self.part.extend_from_slice(stretch);
                }
            }
            if !self.part.is_empty() {
                *weight = self.encoder.body_len(&self.part, &mut self.compressed)? as u64;
            }
        }
        let body_len = job.frame.len() - HEADER_LEN;
        Ok(PartBytes::of_frame(body_len as u64, weights))
    }
}

/// Names what a recover could not save.
fn add_lost(stored: &Stored, lost: &Lost, summary: &mut VariantSummary) {
    for i in &lost.tensors {
        summary.lost.push(stored.tensors[*i].name.clone());
        if let Some(tensor) = summary.tensor_list.as_mut().and_then(|list| list.get_mut(*i)) {
            tensor.stored_as = "lost";
        }
    }
    let files = lost.side_files.iter().map(|i| stored.head.side_files[*i].name.clone());
    summary.lost.extend(files);
}

/// Adds to the summary of a variant with tensors what the bits of the lossy ones are for.
fn add_parts(
    archive: &Archive,
    stored: &Stored,
    lost: &Lost,
    summary: &mut VariantSummary,
) -> Result<()> {
    let is_lossy = |i: &usize| {
        let item = &stored.head.items[*i];
        item.lossy && matches!(item.origin, Origin::Base { .. }) && !lost.tensors.contains(i)
    };
    let wanted: Vec<_> = (0..stored.tensors.len()).filter(is_lossy).collect();
    let found = account(archive, stored, &wanted)?;
    let (mut all, mut n_all) = (PartBytes::default(), 0);
    for (i, bytes) in wanted.iter().zip(found) {
        let n_elements = stored.tensors[*i].n_elements();
        all += bytes;
        n_all += n_elements;
        if let Some(tensor) = summary.tensor_list.as_mut().and_then(|list| list.get_mut(*i)) {
            tensor.parts = Some(bytes.bits_each(n_elements));
        }
    }
    summary.parts = (n_all > 0).then(|| all.bits_each(n_all));
    Ok(())
}

/// What the stored bytes of these tensors are for, tensor by tensor.
fn account(archive: &Archive, stored: &Stored, wanted: &[usize]) -> Result<Vec<PartBytes>> {
    let mut found = vec![PartBytes::default(); stored.tensors.len()];
    let stage = &DecodeStage {
        archive,
        stored,
        base: None,
        shift: None,
        wanted,
        spares: Spares::default(),
    };
    let Needs { resident, tile, worker } = stage.needs();
    // A part and its compressed bytes are each about as large as a payload, at most.
    let needs = Needs { resident, tile, worker: 2 * worker };
    run_frames(
        stage,
        (needs, &Resources::default()),
        None,
        State::new,
        |state, mut job| {
            let (tensor, part, offset) = (job.tensor, job.part, job.offset);
            let place = || stage.place(tensor, part, offset);
            if let Some(error) = job.failed.take() {
                return Err(error.context(place()));
            }
            let bytes = state.account(stage, &job).context(place)?;
            Ok((tensor, bytes, job.frame))
        },
        |(tensor, bytes, frame)| {
            found[tensor] += bytes;
            stage.spares.give_frame(frame);
            Ok(())
        },
    )?;
    Ok(wanted.iter().map(|i| found[*i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_body_is_divided_to_the_byte(
            body_len in 0u64..1 << 28,
            weights in prop::array::uniform3(0u64..1 << 28),
        ) {
            prop_assume!(weights != [0; 3]);
            let bytes = PartBytes::of_frame(body_len, weights);
            prop_assert_eq!(bytes.body.iter().sum::<u64>(), body_len);
            let total: u64 = weights.iter().sum();
            for (share, weight) in bytes.body.into_iter().zip(weights) {
                prop_assert!(weight > 0 || share == 0);
                let exact = body_len as f64 * weight as f64 / total as f64;
                prop_assert!((share as f64 - exact).abs() <= 1.0, "{share} for {exact}");
            }
        }
    }
}
