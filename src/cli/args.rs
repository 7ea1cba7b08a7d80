//! What was typed, and nothing more: no file is touched and no environment read here. A doc comment
//! of a field is its text in `--help`.

mod choice;
mod export;
mod make_pair;
mod parts;
mod report;
mod shell;

use std::path::PathBuf;

pub(crate) use crate::cli::args::choice::{
    Choice, EtaRuleName, IndexName, MethodName, QualityName, RatesName, RestName, ScaleName,
    Switch, TraceOfName, TuneName,
};
pub(crate) use crate::cli::args::export::{Export, FormatName};
pub(crate) use crate::cli::args::make_pair::MakePair;
pub(crate) use crate::cli::args::parts::{Join, Part};
pub(crate) use crate::cli::args::report::Report;
pub(crate) use crate::cli::args::shell::{Completions, Man};
use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand, ValueEnum};

use delta_stream::Parity;

use crate::cli::values::{Share, parity, share, size};

/// Fine-tuned checkpoints stored as compressed deltas against their base, in one appendable archive.
#[derive(Debug, Parser)]
#[command(
    name = "delta-stream",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = AFTER_HELP
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const AFTER_HELP: &str = "\
A checkpoint is a local Hugging Face directory, one .safetensors file, an index.json, or the name of a
model in the Hugging Face Hub's local cache: org/name or org/name@revision. A fine-tune may also be the
directory of a LoRA adapter. Their files must not change during a run; one that does ends it, and
nothing is written.

Exit codes: 0 done; 1 verify or compare found a difference, recover lost something, or a repair would
help; 2 usage; 3 a checkpoint is invalid; 4 the archive is damaged; 5 wrong base; 6 input/output; 130 interrupted.";

/// What every verb takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Most memory to use, mapped pages included, as in 512MiB or 2GB
    #[arg(long, global = true, value_name = "SIZE", default_value = "512MiB", value_parser = size)]
    pub(crate) max_memory: u64,

    /// Worker threads; never changes what is written [default: one a core]
    #[arg(long, global = true, value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,

    /// Seed of whatever a method draws [default: 0]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// How checkpoints are read: mapped (their files must not change during the run), copied, past the
    /// system's cache (direct; restored ones are written so too), or as suits them
    #[arg(long, global = true, value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,

    /// Print one JSON object instead of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// No progress and no notes; errors are still printed
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Replace an output that exists
    #[arg(long, global = true)]
    pub(crate) force: bool,

    /// Only the plain kernels, to check that results do not depend on the machine
    #[arg(long, global = true, hide = true)]
    pub(crate) no_simd: bool,
}

/// How checkpoints are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Io {
    Auto,
    Mmap,
    Read,
    Direct,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Store a fine-tune as a delta against its base in a new archive
    Compress(Compress),
    /// Add a fine-tune to an archive
    Append(Append),
    /// Write a stored fine-tune as a loadable checkpoint
    Restore(Restore),
    /// Write a stored fine-tune in a form that other tools read
    Export(Export),
    /// List what an archive holds
    Inspect(Inspect),
    /// Write what an archive holds as one HTML page
    Report(Report),
    /// Name every fault of an archive: its structure, every checksum, or with --base every tensor
    Verify(Verify),
    /// Show the error of each tensor between two checkpoints
    Compare(Compare),
    /// Take a variant off an archive; its bytes stay in the file until a compact
    Remove(Remove),
    /// Write an archive anew without what removed variants left in it
    Compact(Compact),
    /// Write what is whole of a damaged archive as a new one
    Recover(Recover),
    /// Rebuild what is damaged of an archive that has a parity file
    Repair(Repair),
    /// Forecast size, time and memory of a compress, or share one out among machines
    Plan(Plan),
    /// Make an archive of the parts that compress --part made of it
    Join(Join),
    /// Make a small sharded pair and run the whole tour on it
    Demo(Demo),
    /// Print completions for a shell
    Completions(Completions),
    /// Print a manual page, or write them all
    Man(Man),
    /// Make up a pair of checkpoints of any size
    #[command(hide = true)]
    MakePair(MakePair),
}

/// Both sides of a delta.
#[derive(Debug, clap::Args)]
pub(crate) struct Pair {
    /// The fine-tune: a directory, a .safetensors file, an index.json, a name on the Hub, or a LoRA adapter
    #[arg(long = "shards", value_name = "FT")]
    pub(crate) fine_tune: PathBuf,

    /// The base it was tuned from
    #[arg(long, value_name = "BASE")]
    pub(crate) base: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compress {
    #[command(flatten)]
    pub(crate) pair: Pair,

    /// The archive to write, usually NAME.delta.zst
    #[arg(short, long, value_name = "ARCHIVE")]
    pub(crate) output: PathBuf,

    /// Name of the variant [default: the name of the fine-tune's directory, file or model]
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,

    /// Go on with what a run that was cut off left, and leave what is done if this one is cut off too
    #[arg(long)]
    pub(crate) resume: bool,

    /// Write a parity file beside the archive, of this share of it: repair can rebuild what is burnt
    #[arg(long, value_name = "N%", value_parser = parity)]
    pub(crate) parity: Option<Parity>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) part: Part,

    #[command(flatten)]
    pub(crate) choice: Choice,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    #[command(flatten)]
    pub(crate) pair: Pair,

    /// The archive to add to
    #[arg(long, value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,

    /// Name of the variant
    #[arg(long, value_name = "V")]
    pub(crate) name: String,

    /// Go on with what a run that was cut off left, and leave what is done if this one is cut off too
    #[arg(long)]
    pub(crate) resume: bool,

    /// Write a parity file beside the archive, of this share of it [default: as much as it has]
    #[arg(long, value_name = "N%", value_parser = parity)]
    pub(crate) parity: Option<Parity>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) choice: Choice,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// The archive
    pub(crate) archive: PathBuf,

    /// The base it was made against
    #[arg(long, value_name = "BASE")]
    pub(crate) base: PathBuf,

    /// The directory to write
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,

    /// Which variant; needed if the archive has more than one
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,

    /// Only tensors whose names match; may be given again
    #[arg(long = "tensor", value_name = "GLOB")]
    pub(crate) tensors: Vec<String>,

    /// Cut into shards of at most this size, as in 5GB or 2GiB [default: the fine-tune's own shards]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_shard_size: Option<u64>,

    /// Keep the whole shards that a run that was cut off left, and leave them if this one is cut off too
    #[arg(long)]
    pub(crate) resume: bool,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// The archive
    pub(crate) archive: PathBuf,

    /// Only this variant
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,

    /// List the tensors too, and what the bits of the lossy ones are for, which reads their tiles
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The archive
    pub(crate) archive: PathBuf,

    /// The base it was made against: decode every tensor and hold it to its stored hash
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,

    /// Only the structure: footers, index, heads, seals, and that frame headers stand at their places
    #[arg(long, conflicts_with_all = ["base", "read_data_subset"])]
    pub(crate) structure: bool,

    /// The structure, and of the frames only a share: N% drawn at random (by --seed, another every
    /// time without), or n/t, the n-th of t groups
    #[arg(long, value_name = "N%|n/t", conflicts_with = "base", value_parser = share)]
    pub(crate) read_data_subset: Option<Share>,

    /// Only this variant
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The original checkpoint
    pub(crate) a: PathBuf,

    /// The checkpoint to hold against it
    pub(crate) b: PathBuf,

    /// Give errors relative to A's delta against this base
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The archive
    pub(crate) archive: PathBuf,

    /// Name of the variant
    #[arg(long, value_name = "V")]
    pub(crate) name: String,

    /// Write a parity file beside the archive, of this share of it [default: as much as it has]
    #[arg(long, value_name = "N%", value_parser = parity)]
    pub(crate) parity: Option<Parity>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compact {
    /// The archive
    pub(crate) archive: PathBuf,

    /// Write a parity file beside the archive, of this share of it [default: as much as it has]
    #[arg(long, value_name = "N%", value_parser = parity)]
    pub(crate) parity: Option<Parity>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The damaged archive, which stays as it is
    pub(crate) archive: PathBuf,

    /// The archive to write
    #[arg(short, long, value_name = "NEW")]
    pub(crate) output: PathBuf,

    /// The base it was made against: also save variants that lost their seal, by decoding them
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// The archive; its parity file lies beside it
    pub(crate) archive: PathBuf,

    /// Write the mended archive there, and leave the damaged one [default: in its place]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Only say what is damaged, and whether it can be repaired
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) pair: Pair,

    #[command(flatten)]
    pub(crate) choice: Choice,

    /// Write the plan to this file, as JSON
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long, requires = "output")]
    pub(crate) dry_run: bool,

    /// Instead of a forecast, share the compress out among so many parts: compress --plan FILE --part I/N
    /// makes each, on any machine, and join makes the archive of them
    #[arg(long, value_name = "N")]
    pub(crate) split: Option<u32>,

    /// With --split: name of the variant [default: the name of the fine-tune's directory or file]
    #[arg(long, value_name = "V", requires = "split")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Directory to run in, and to keep [default: a temporary one, removed at the end]
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use delta_stream::DType;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("delta-stream").chain(line.split(' ')))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_contract() {
        let args = parse("compress --shards ft --base b -o a").unwrap();
        assert_eq!(args.common.max_memory, delta_stream::DEFAULT_MAX_MEMORY);
        assert_eq!((args.common.threads, args.common.seed), (None, None));
        assert_eq!(args.common.io, Io::Auto);
        let common = &args.common;
        assert!(!common.json && !common.quiet && !common.force && !common.no_simd);
        let Verb::Compress(verb) = args.verb else { panic!("not compress") };
        assert_eq!(verb.choice.method, MethodName::Auto);
        assert_eq!((verb.choice.patch, verb.name), (None, None));
        assert_eq!(verb.choice.rest, RestName::Keep);
    }

    #[test]
    fn common_options_stand_before_or_after_the_verb() {
        let flags = "--max-memory 2GB --threads 3 --seed 9 --io read --json -q --force --no-simd";
        for line in [format!("{flags} inspect a"), format!("inspect a {flags}")] {
            let common = parse(&line).unwrap().common;
            assert_eq!(common.max_memory, 2_000_000_000);
            assert_eq!((common.threads, common.seed), (Some(3), Some(9)));
            assert_eq!(common.io, Io::Read);
            assert!(common.json && common.quiet && common.force && common.no_simd);
        }
    }

    #[test]
    fn each_verb_keeps_what_was_typed() {
        let choice = "--method lossless --patch 32 --allocation 4:0.25,0:0.75 --rescale off \
                      --include a --exclude b --rest base";
        let line = format!("append --shards ft --base b --archive a --name v {choice}");
        let Verb::Append(verb) = parse(&line).unwrap().verb else { panic!("not append") };
        assert_eq!(verb.choice.method, MethodName::Lossless);
        assert_eq!(verb.choice.patch, Some(32));
        assert_eq!(verb.choice.allocation.unwrap().to_string(), "4:0.25,0:0.75");
        assert_eq!(verb.choice.rescale, Some(Switch::Off));
        assert_eq!(verb.choice.rest, RestName::Base);
        assert_eq!(
            (verb.choice.include.unwrap(), verb.choice.exclude.unwrap()),
            ("a".into(), "b".into())
        );
        assert_eq!((verb.name.as_str(), verb.archive.to_str()), ("v", Some("a")));

        let line = "restore a --base b -o d --name v --tensor x* --tensor y --max-shard-size 5GB";
        let Verb::Restore(verb) = parse(line).unwrap().verb else { panic!("not restore") };
        assert_eq!(verb.tensors, ["x*", "y"]);
        assert_eq!((verb.max_shard_size, verb.name.as_deref()), (Some(5_000_000_000), Some("v")));

        let Verb::Inspect(verb) = parse("inspect a --name v --tensors").unwrap().verb else {
            panic!("not inspect")
        };
        assert!(verb.tensors && verb.name.is_some());
        let Verb::Verify(verb) = parse("verify a --base b --name v").unwrap().verb else {
            panic!("not verify")
        };
        assert!(verb.base.is_some() && verb.name.is_some() && !verb.structure);
        let line = "verify a --read-data-subset 2.5%";
        let Verb::Verify(verb) = parse(line).unwrap().verb else { panic!("not verify") };
        assert_eq!(verb.read_data_subset, Some(Share::Percent(2.5)));
        let Verb::Remove(verb) = parse("remove a --name v").unwrap().verb else {
            panic!("not remove")
        };
        assert!(verb.archive.ends_with("a") && verb.name == "v");
        let Verb::Compact(verb) = parse("compact a").unwrap().verb else { panic!("not compact") };
        assert!(verb.archive.ends_with("a"));
        let Verb::Recover(verb) = parse("recover a -o b --base c").unwrap().verb else {
            panic!("not recover")
        };
        assert!(verb.archive.ends_with("a") && verb.output.ends_with("b") && verb.base.is_some());
        let Verb::Compare(verb) = parse("compare x y --base b").unwrap().verb else {
            panic!("not compare")
        };
        assert!(verb.base.is_some() && verb.a.ends_with("x") && verb.b.ends_with("y"));
        let Verb::Plan(verb) = parse("plan --shards f --base b -o p.json").unwrap().verb else {
            panic!("not plan")
        };
        assert!(verb.output.is_some());
        let line = "make-pair d --hidden 1 --intermediate 2 --vocab 3 --layers 4 --dtype f16 \
                    --base-shards 5 --shards 6 --seed 7";
        let Verb::MakePair(verb) = parse(line).unwrap().verb else { panic!("not make-pair") };
        assert_eq!((verb.hidden, verb.intermediate, verb.vocab), (Some(1), Some(2), Some(3)));
        assert_eq!((verb.layers, verb.base_shards, verb.shards), (Some(4), Some(5), Some(6)));
        assert_eq!(verb.dtype.map(DType::from), Some(DType::F16));
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "compress --shards ft --base b",
            "append --shards ft --base b --archive a",
            "restore a -o d",
            "inspect",
            "compare a",
            "remove a",
            "compact",
            "compact a --name v",
            "recover a",
            "recover -o b",
            "verify a --structure --base b",
            "verify a --read-data-subset 5% --base b",
            "verify a --read-data-subset 5% --structure",
            "verify a --read-data-subset 5",
            "inspect a --threads 0",
            "inspect a --max-memory 0",
            "inspect a --max-memory lots",
            "inspect a --io fast",
            "inspect a --include x",
            "plan --shards f --base b --method best",
            "plan --shards f --base b --name v",
            "compress --shards f --base b -o a --part 1/2",
            "compress --shards f --base b -o a --plan s --part 3/2",
            "compress --shards f --base b -o a --plan s --part 1/2 --resume",
            "compress --shards f --base b -o a --surveys s",
            "join -o a",
            "join a",
            "plan --shards f --base b --bits 1 --ratio 20",
            "plan --shards f --base b --quality high --max-size 2GB",
            "plan --shards f --base b --quality best",
            "plan --shards f --base b --rescale maybe",
            "plan --shards f --base b --group some",
            "plan --shards f --base b --allocation 2:0.9,0:0.9",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
