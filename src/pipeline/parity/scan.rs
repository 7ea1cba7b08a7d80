//! An archive held to its parity file, group by group.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::archive::parity::{Coder, Group, Layout, Look, ParityFile, Window};
use crate::error::{Error, Result};
use crate::pipeline::options::{Observer, Resources};
use crate::pipeline::ordered::run_ordered;
use crate::pipeline::parity::{done, width, windows};
use crate::pipeline::spares::Spares;
use crate::report::Span;

/// What a parity file says of an archive.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Damaged blocks of the archive, and where they are.
    pub(crate) bad_blocks: u64,
    pub(crate) damaged: Spans,
    /// Of these, the blocks that cannot be rebuilt.
    pub(crate) beyond: Spans,
    /// Groups of which nothing can be said, since both copies of their table are damaged.
    pub(crate) unknown_groups: u64,
    /// Damaged blocks and tables of the parity file, as far as they were looked at.
    pub(crate) bad_parity: u64,
}

impl Scan {
    fn add(&mut self, layout: &Layout, found: &Group) {
        self.bad_parity += (found.bad_parity + found.bad_tables) as u64;
        self.unknown_groups += u64::from(found.table.is_none());
        for row in &found.bad {
            self.bad_blocks += 1;
            let at = *row as u64 * layout.row() + found.group * u64::from(layout.block);
            let end = (at + u64::from(layout.block)).min(layout.len);
            self.damaged.add(at, end);
            if !found.can_be_mended {
                self.beyond.add(at, end);
            }
        }
    }

    /// Whether every damaged block can be rebuilt, as far as is known.
    pub(crate) fn can_be_mended(&self) -> bool {
        self.beyond.is_empty() && self.unknown_groups == 0
    }
}

/// Ranges of bytes, joined where they touch; beyond a number of them only those that touch others are kept.
#[derive(Debug, Default)]
pub(crate) struct Spans(BTreeMap<u64, u64>);

impl Spans {
    /// Ranges kept at most.
    const MOST: usize = 100_000;

    fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((at, to)) = self.0.range(..=start).next_back().filter(|(_, to)| **to >= start) {
            (start, end) = (*at, end.max(*to));
        }
        while let Some((at, to)) = self.0.range(start..=end).next().map(|(at, to)| (*at, *to)) {
            self.0.remove(&at);
            end = end.max(to);
        }
        if self.0.len() < Self::MOST {
            self.0.insert(start, end);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first so many.
    pub(crate) fn first(&self, n: usize) -> Vec<Span> {
        self.0.iter().take(n).map(|(start, end)| Span { start: *start, end: *end }).collect()
    }
}

/// Holds the covered bytes of `file` to a parity file. `each` hears of every group in its order.
///
/// # Errors
/// `Corrupt` if the parity file contradicts itself or is of a longer archive than it can rebuild; what `each`
/// says; `Interrupted`.
pub(crate) fn scan(
    file: &File,
    parity: &ParityFile,
    look: Look,
    (resources, observer): (&Resources, &dyn Observer),
    mut each: impl FnMut(&Group) -> Result<()>,
) -> Result<Scan> {
    let layout = &parity.header.layout;
    let failed = |e| Error::io("examine", Path::new("the archive"), e);
    let there = file.metadata().map_err(failed)?.len();
    // What is nowhere cannot be rebuilt, and a header may name any number of bytes.
    if there.saturating_add(parity.len) < layout.len {
        let text = "most of what the parity file covers is missing, or it is of another archive";
        return Err(Error::truncated(text));
    }
    let (width, n) = width(layout, resources)?;
    let (spares, mut windows, mut out) = (Spares::default(), windows(layout, n), Scan::default());
    let mut root = Xxh3::new();
    observer.stage("scan");
    out.bad_parity = u64::from(look.at_parity && !parity.has_whole_ends);
    run_ordered(
        width,
        || {
            let groups = windows.next()?;
            let path = Path::new("the archive");
            Some(Window::read(file, path, layout, groups, spares.tile(0), true))
        },
        || Ok(Coder::new(*layout)),
        |coder, window: Window| {
            let found = window.examine(parity, coder, look)?;
            spares.give_tile(window.into_buffer());
            Ok(found)
        },
        |found| {
            observer.check()?;
            for group in &found {
                group.table.iter().for_each(|table| root.update(table.bytes()));
                out.add(layout, group);
                each(group)?;
            }
            let groups = found.last().map_or(0, |group| group.group + 1);
            observer.progress(done(layout, groups), layout.len);
            Ok(())
        },
    )?;
    if out.unknown_groups == 0 && root.digest128() != parity.header.root {
        return Err(Error::corrupt("the tables of the parity file do not belong together"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut spans = Spans::default();
        for (start, end) in
            [(10, 20), (30, 40), (0, 5), (20, 25), (24, 31), (5, 5), (50, 60), (41, 49)]
        {
            spans.add(start, end);
        }
        let found: Vec<_> = spans.first(9).iter().map(|s| (s.start, s.end)).collect();
        assert_eq!(found, [(0, 5), (10, 40), (41, 49), (50, 60)]);
        spans.add(0, 100);
        assert_eq!((spans.len(), spans.first(1)[0].end), (1, 100));
    }
}
