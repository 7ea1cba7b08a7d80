//! What the verbs take that make this program known to shells and to `man`.

use std::path::PathBuf;

use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell that will read them
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Print the page of this verb [default: of the program]
    #[arg(value_name = "VERB", conflicts_with = "output")]
    pub(crate) of: Option<String>,

    /// Write all pages into this directory instead
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Write nothing: check what can be checked, and say what would be written and whether it has room
    #[arg(long, requires = "output", conflicts_with = "of")]
    pub(crate) dry_run: bool,
}
