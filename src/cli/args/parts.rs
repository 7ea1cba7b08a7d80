//! What was typed of a compress that is shared out among machines.

use std::path::PathBuf;

/// Which part of a split `compress` makes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Parts")]
pub(crate) struct Part {
    /// Make one part of a compress on several machines, as in 3/16: --plan is what plan --split wrote, -o the
    /// part, and join makes the archive of all. With the options of that plan
    #[arg(long, value_name = "I/N", value_parser = part, requires = "plan",
        conflicts_with_all = ["resume", "parity"])]
    pub(crate) part: Option<(u32, u32)>,

    /// With --part: what the parts of the round before found, joined; none in the first round
    #[arg(long, value_name = "FILE", requires = "part")]
    pub(crate) surveys: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// All parts of one round, in any order
    #[arg(required = true)]
    pub(crate) parts: Vec<PathBuf>,

    /// What to write: the archive of parts of the last round, of others what --surveys of the next takes
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Check all parts, say what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The i-th of n parts, as `i/n`.
fn part(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| i.parse().ok().zip(n.parse().ok()));
    numbers
        .filter(|(i, n)| (1..=*n).contains(i))
        .ok_or_else(|| "a part is the i-th of n, as in 3/16".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!(part("3/16"), Ok((3, 16)));
        assert_eq!(part("1/1"), Ok((1, 1)));
        for text in ["", "3", "0/3", "4/3", "1/0", "1/", "/2", "-1/2", "1/2/3", "a/b"] {
            assert!(part(text).is_err(), "{text}");
        }
    }
}
