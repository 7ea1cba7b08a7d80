//! A bounded fan-out that keeps order: one reader, some workers, a sink on the calling thread, and whoever works
//! beside them.
//!
//! Three rules keep it from hanging, each tested below. Channels live inside the scope and are moved
//! into their users, so an early return drops them and everybody ends. A panic travels as a result,
//! so the sequence has no holes. A permit is taken before an item is read and given back after the
//! sink is done with it, so memory is bounded and the lowest outstanding item always owns one.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::error::Result;

/// How wide a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width {
    /// Threads that work; at least 1.
    pub(crate) workers: usize,
    /// Items alive at once; at least 1.
    pub(crate) permits: usize,
}

enum Outcome<T> {
    Done(Result<T>),
    Panicked(Box<dyn Any + Send>),
}

/// Reads items with `next`, works on them in parallel with one `S` a worker, and hands the results to
/// `sink` in the order they were read.
///
/// # Errors
/// The error of the lowest-numbered item that failed, or of the sink. A panic is passed on.
pub(crate) fn run_ordered<I: Send, T: Send, S>(
    width: Width,
    next: impl FnMut() -> Option<Result<I>> + Send,
    scratch: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, I) -> Result<T> + Sync,
    sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    run_beside(width, (0, &|| ()), next, scratch, work, sink)
}

/// As [`run_ordered`], with so many threads beside that run something which ends once `next` is dropped.
///
/// # Errors
/// As there.
pub(crate) fn run_beside<I: Send, T: Send, S>(
    width: Width,
    (n_beside, beside): (usize, &(dyn Fn() + Sync)),
    next: impl FnMut() -> Option<Result<I>> + Send,
    scratch: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, I) -> Result<T> + Sync,
    sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (scratch, work) = (&scratch, &work);
    std::thread::scope(|scope| {
        let permits = width.permits.max(1);
        let (permit_tx, permit_rx) = bounded(permits);
        let (job_tx, job_rx) = bounded(permits);
        let (result_tx, result_rx) = bounded(permits);
        for _ in 0..permits {
            // The channel holds exactly this many, so it cannot be full or closed.
            let _ = permit_tx.send(());
        }
        for _ in 0..width.workers.max(1) {
            let (jobs, results) = (job_rx.clone(), result_tx.clone());
            scope.spawn(move || run_worker(&jobs, &results, scratch, work));
        }
        drop(job_rx);
        for _ in 0..n_beside {
            scope.spawn(beside);
        }
        scope.spawn(move || run_reader(&permit_rx, &job_tx, &result_tx, next));
        drain(&result_rx, &permit_tx, sink)
    })
}

/// Works on a list in parallel and hands the results to `sink` in its order.
///
/// # Errors
/// What the sink says.
pub(crate) fn run_parallel<I: Sync, T: Send>(
    threads: usize,
    items: &[I],
    work: impl Fn(&I) -> T + Sync,
    sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut items = items.iter();
    let width = Width { workers: threads, permits: 2 * threads + 1 };
    run_ordered(width, move || items.next().map(Ok), || Ok(()), |(), i| Ok(work(i)), sink)
}

fn run_reader<I, T>(
    permits: &Receiver<()>,
    jobs: &Sender<(u64, I)>,
    results: &Sender<(u64, Outcome<T>)>,
    mut next: impl FnMut() -> Option<Result<I>>,
) {
    for seq in 0.. {
        if permits.recv().is_err() {
            return;
        }
        let failed = match catch_unwind(AssertUnwindSafe(&mut next)) {
            Ok(None) => return,
            Ok(Some(Ok(item))) => {
                if jobs.send((seq, item)).is_err() {
                    return;
                }
                continue;
            }
            Ok(Some(Err(e))) => Outcome::Done(Err(e)),
            Err(panic) => Outcome::Panicked(panic),
        };
        // If nobody listens, the run has already failed for an earlier reason.
        let _ = results.send((seq, failed));
        return;
    }
}

fn run_worker<I, T, S>(
    jobs: &Receiver<(u64, I)>,
    results: &Sender<(u64, Outcome<T>)>,
    scratch: &impl Fn() -> Result<S>,
    work: &impl Fn(&mut S, I) -> Result<T>,
) {
    let mut state = None;
    for (seq, item) in jobs {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let state = match &mut state {
                Some(state) => state,
                empty => empty.insert(scratch()?),
            };
            work(state, item)
        }));
        let outcome = outcome.map_or_else(Outcome::Panicked, Outcome::Done);
        if results.send((seq, outcome)).is_err() {
            return;
        }
    }
}

/// Takes the sink by value: when it returns, everything the sink holds is dropped too, among it the
/// senders that the reader may be waiting on.
fn drain<T>(
    results: &Receiver<(u64, Outcome<T>)>,
    permits: &Sender<()>,
    mut sink: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    let mut expected = 0;
    for (seq, outcome) in results {
        waiting.insert(seq, outcome);
        while let Some(outcome) = waiting.remove(&expected) {
            match outcome {
                Outcome::Done(result) => sink(result?)?,
                Outcome::Panicked(panic) => resume_unwind(panic),
            }
            expected += 1;
            // The reader is gone once it has read everything; then nobody needs the permit.
            let _ = permits.send(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn run(
        width: Width,
        n: usize,
        work: impl Fn(usize) -> Result<usize> + Sync,
        sink: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut items = 0..n;
        run_ordered(width, move || items.next().map(Ok), || Ok(()), |(), i| work(i), sink)
    }

    const WIDTHS: [Width; 3] = [
        Width { workers: 1, permits: 1 },
        Width { workers: 3, permits: 2 },
        Width { workers: 4, permits: 9 },
    ];

    #[test]
    fn order_is_kept_and_items_alive_are_bounded() {
        for width in WIDTHS {
            let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let mut seen = Vec::new();
            let mut items = 0..200;
            run_ordered(
                width,
                || {
                    most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    items.next().map(Ok)
                },
                || Ok(()),
                |(), i: usize| {
                    if i.is_multiple_of(7) {
                        std::thread::yield_now();
                    }
                    Ok(i)
                },
                |i| {
                    seen.push(i);
                    alive.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..200).collect::<Vec<_>>());
            assert!(most.load(Ordering::SeqCst) <= width.permits);
        }
    }

    #[test]
    fn the_lowest_numbered_error_wins() {
        for width in WIDTHS {
            let work = |i: usize| match i {
                5 | 6 | 9 => Err(Error::corrupt(format!("item {i}"))),
                _ => Ok(i),
            };
            assert_eq!(run(width, 50, work, |_| Ok(())).unwrap_err().to_string(), "item 5");
        }
    }

    #[test]
    fn an_error_of_the_sink_ends_a_reader_that_waits_for_it() {
        for width in WIDTHS {
            let (tx, rx) = crossbeam::channel::unbounded::<()>();
            let mut n = 0;
            let next = move || {
                n += 1;
                // From the third item on the reader waits for word from the sink.
                if n > 2 && rx.recv().is_err() {
                    return None;
                }
                Some(Ok(n))
            };
            let sink = move |_: usize| {
                let _keep = &tx;
                Err(Error::corrupt("sink"))
            };
            let result = run_ordered(width, next, || Ok(()), |(), i| Ok(i), sink);
            assert_eq!(result.unwrap_err().to_string(), "sink");
        }
    }

    #[test]
    fn panics_of_workers_and_reader_are_passed_on() {
        for width in WIDTHS {
            let work = |i: usize| if i == 3 { panic!("worker") } else { Ok(i) };
            let ran = catch_unwind(AssertUnwindSafe(|| run(width, 20, work, |_| Ok(()))));
            assert!(ran.is_err());
            let next = || -> Option<Result<usize>> { panic!("reader") };
            let ran = catch_unwind(AssertUnwindSafe(|| {
                run_ordered(width, next, || Ok(()), |(), i| Ok(i), |_| Ok(()))
            }));
            assert!(ran.is_err());
        }
    }

    #[test]
    fn who_works_beside_ends_with_the_reader() {
        for fails in [false, true] {
            let (tx, rx) = crossbeam::channel::unbounded();
            let (sum, mut items) = (AtomicUsize::new(0), 0..20usize);
            let beside = || rx.iter().for_each(|i| _ = sum.fetch_add(i, Ordering::SeqCst));
            let next = move || {
                let item = items.next()?;
                tx.send(item).unwrap();
                Some(Ok(item))
            };
            let work = |(): &mut (), i| Ok(i);
            let sink = |i| if fails && i == 3 { Err(Error::corrupt("sink")) } else { Ok(()) };
            let result = run_beside(WIDTHS[1], (2, &beside), next, || Ok(()), work, sink);
            assert_eq!((result.is_err(), fails || sum.into_inner() == 190), (fails, true));
        }
    }

    #[test]
    fn an_error_while_reading_comes_after_the_items_before_it() {
        let mut n = 0;
        let mut seen = 0;
        let next = || {
            n += 1;
            Some(if n > 4 { Err(Error::corrupt("reader")) } else { Ok(n) })
        };
        let result = run_ordered(
            WIDTHS[2],
            next,
            || Ok(()),
            |(), i: usize| Ok(i),
            |_| {
                seen += 1;
                Ok(())
            },
        );
        assert_eq!((result.unwrap_err().to_string().as_str(), seen), ("reader", 4));
    }
}
