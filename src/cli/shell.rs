//! `completions` and `man`: what shells and `man` read about this program, made from the same definition as
//! `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use delta_stream::{DryRun, Error, Result};
use serde::Serialize;

use crate::cli::args::{self, Args};
use crate::cli::dry_run;
use crate::cli::output::{self, Facts, Outcome};
use crate::cli::resolve::Context;
use crate::cli::whole_file;

/// Name of the program.
const NAME: &str = "delta-stream";

pub(crate) fn completions(verb: &args::Completions) -> Result<Outcome> {
    output::print(&String::from_utf8_lossy(&script(verb.shell)))?;
    Ok(Outcome::Done)
}

pub(crate) fn man(verb: &args::Man, context: &Context) -> Result<Outcome> {
    if let Some(dir) = &verb.output {
        return match verb.dry_run {
            true => tell_all(dir, context),
            false => write_all(dir, context.force).map(|()| Outcome::Done),
        };
    }
    let wanted = verb.of.as_deref().map(|verb| format!("{NAME}-{verb}"));
    let page =
        pages()?.into_iter().find(|(name, _)| wanted.as_ref().unwrap_or(&NAME.into()) == name);
    let (_, text) = page.ok_or_else(|| {
        let verb = verb.of.as_deref().unwrap_or_default();
        Error::invalid_argument(format!("there is no verb {verb}; --help lists them"))
    })?;
    output::print(&text)?;
    Ok(Outcome::Done)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    generate(shell, &mut Args::command(), NAME, &mut out);
    out
}

/// The program's command with what every verb takes in every verb.
fn built() -> Command {
    let mut command = Args::command();
    command.build();
    command
}

/// Verbs that people are told of.
fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

/// Names and texts of all pages.
fn pages() -> Result<Vec<(String, String)>> {
    let command = built();
    let mut out = vec![(NAME.to_owned(), page(&command)?)];
    for verb in verbs(&command) {
        out.push((format!("{NAME}-{}", verb.get_name()), page(verb)?));
    }
    Ok(out)
}

fn page(command: &Command) -> Result<String> {
    let mut out = Vec::new();
    let rendered = Man::new(command.clone()).render(&mut out);
    rendered.map_err(|e| Error::io("render", Path::new("a manual page"), e))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Every page as a file of the first section, if they may be written.
fn files(dir: &Path, force: bool) -> Result<Vec<(PathBuf, String)>> {
    let files: Vec<_> =
        pages()?.into_iter().map(|(name, text)| (dir.join(name + ".1"), text)).collect();
    files.iter().try_for_each(|(file, _)| whole_file::check(file, &[], force))?;
    Ok(files)
}

/// What a dry run says of the pages.
#[derive(Serialize)]
struct Told {
    directory: PathBuf,
    pages: usize,
    #[serde(flatten)]
    run: DryRun,
}

/// Says what [`write_all`] would write.
fn tell_all(dir: &Path, context: &Context) -> Result<Outcome> {
    let files = files(dir, context.force)?;
    let bytes = files.iter().map(|(_, text)| text.len() as u64).sum();
    // The directory is made, so the room is that of the first one above a page that is there.
    let (first, _) = files.first().ok_or_else(|| Error::invalid_argument("there are no pages"))?;
    let space = delta_stream::space_for_dir(first, bytes)?;
    let told = Told { directory: dir.to_owned(), pages: files.len(), run: Some(space).into() };
    context.print(&told, || {
        let mut facts = Facts::default();
        facts.add("would write", format!("{} pages in {}", told.pages, dir.display()));
        dry_run::add_space(&mut facts, told.run.space.as_ref());
        facts.to_string()
    })?;
    Ok(dry_run::outcome(told.run.space.as_ref()))
}

/// Writes every page.
fn write_all(dir: &Path, force: bool) -> Result<()> {
    let files = files(dir, force)?;
    fs::create_dir_all(dir).map_err(|e| Error::io("make the directory", dir, e))?;
    files.iter().try_for_each(|(file, text)| whole_file::write(file, text, force))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command as Process, Stdio};

    /// Long options of a command that people are told of.
    fn long_options(command: &Command) -> impl Iterator<Item = &str> {
        command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long())
    }

    /// Runs a program on a text; `None` where there is no such program.
    fn run(program: &str, args: &[&str], text: &str) -> Option<std::process::Output> {
        let mut process = Process::new(program);
        process.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().ok()?;
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Some(child.wait_with_output().unwrap())
    }

    #[test]
    fn completions_know_every_verb_and_every_long_option() {
        for (shell, before_long) in [(Shell::Bash, "--"), (Shell::Zsh, "--"), (Shell::Fish, "-l ")]
        {
            let text = String::from_utf8(script(shell)).unwrap();
            let command = built();
            for verb in verbs(&command) {
                assert!(text.contains(verb.get_name()), "{shell}: {}", verb.get_name());
                for option in long_options(verb) {
                    assert!(text.contains(&format!("{before_long}{option}")), "{shell}: {option}");
                }
            }
        }
    }

    #[test]
    fn shells_can_read_their_completions() {
        for (shell, program) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")]
        {
            let text = String::from_utf8(script(shell)).unwrap();
            let Some(done) = run(program, &["-n"], &text) else {
                println!("no {program} here");
                continue;
            };
            assert!(done.status.success(), "{shell}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }

    #[test]
    fn pages_know_every_long_option_and_are_named_as_man_looks_for_them() {
        let command = built();
        let all = pages().unwrap();
        assert_eq!(all.len(), verbs(&command).count() + 1);
        let (name, main) = &all[0];
        assert_eq!(name, NAME);
        for (verb, (name, text)) in verbs(&command).zip(&all[1..]) {
            assert_eq!(*name, format!("{NAME}-{}", verb.get_name()));
            let is_told = main.replace('\\', "").contains(&format!("{name}(1)"));
            assert!(is_told, "the main page does not know {name}");
            let plain = text.replace('\\', "");
            assert!(plain.contains(&format!("{NAME}-{}", verb.get_name())), "{plain}");
            for option in long_options(verb) {
                assert!(plain.contains(&format!("--{option}")), "{name}: {option}");
            }
        }
    }

    #[test]
    fn pages_can_be_read() {
        for (name, text) in pages().unwrap() {
            let Some(done) = run("mandoc", &["-T", "utf8", "-W", "error"], &text)
                .or_else(|| run("man", &["-l", "-"], &text))
            else {
                println!("neither mandoc nor man here");
                return;
            };
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success() && done.stdout.len() > 500, "{name}: {said}");
        }
    }

    #[test]
    fn pages_are_written_whole_and_replace_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("man1");
        write_all(&place, false).unwrap();
        let n_files = fs::read_dir(&place).unwrap().count();
        assert_eq!(n_files, pages().unwrap().len());
        let text = fs::read_to_string(place.join("delta-stream-compress.1")).unwrap();
        assert!(text.contains(".TH delta-stream-compress 1"), "{text}");
        assert!(write_all(&place, false).is_err());
        write_all(&place, true).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), n_files);
    }
}
