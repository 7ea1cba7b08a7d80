//! What `report` takes.

use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// The archive
    pub(crate) archive: PathBuf,

    /// The page to write, usually NAME.html
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Only this variant
    #[arg(long, value_name = "V")]
    pub(crate) name: Option<String>,

    /// The base it was made against: decode every tensor and hold it to its stored hash too
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long)]
    pub(crate) dry_run: bool,
}
