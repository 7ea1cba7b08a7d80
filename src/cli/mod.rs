//! The command line: what was typed (`args`) becomes resolved options (`resolve`), then one library
//! call in the verb's file, then a table or one JSON object (`output`). Decides nothing about
//! checkpoints or archives; that is the library's.

mod args;
mod bus;
mod choice;
mod compact;
mod compare;
mod compress;
mod demo;
mod dry_run;
mod export;
mod hint;
mod inspect;
mod output;
mod parts;
mod plan;
mod progress;
mod recover;
mod remove;
mod repair;
mod report;
mod resolve;
mod restore;
mod score;
mod shell;
mod values;
mod verify;
mod whole_file;

use std::process::ExitCode;

use clap::Parser;
use delta_stream::Result;

use crate::cli::args::{Args, Verb};
use crate::cli::output::Outcome;
use crate::cli::resolve::Context;

/// Runs the program. An error is printed once, here, with its whole chain.
pub(crate) fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help that nobody reads to its end is no failure.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(&args) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(e) => {
            let hint = hint::of(&args.verb, &e).unwrap_or_default();
            progress::say(&format!("{}{}", output::error_line(&e), output::visible(&hint)));
            ExitCode::from(output::exit_code(e.kind()))
        }
    }
}

fn dispatch(args: &Args) -> Result<Outcome> {
    if args.common.no_simd {
        delta_stream::kernel::set_simd(false);
    }
    bus::end_in_an_error()?;
    let context = Context::new(&args.common);
    match &args.verb {
        // These cannot be asked to stop, so a signal ends them as it ends any program.
        Verb::Completions(verb) => return shell::completions(verb),
        Verb::Man(verb) => return shell::man(verb, &context),
        Verb::Inspect(verb) => return inspect::run(verb, &context),
        Verb::MakePair(verb) => return demo::make_pair(verb, &context),
        _ => progress::catch_signals()?,
    }
    match &args.verb {
        Verb::Compress(verb) => compress::compress(verb, &context),
        Verb::Append(verb) => compress::append(verb, &context),
        Verb::Restore(verb) => restore::run(verb, &context),
        Verb::Export(verb) => export::run(verb, &context),
        Verb::Inspect(verb) => inspect::run(verb, &context),
        Verb::Report(verb) => report::run(verb, &context),
        Verb::Verify(verb) => verify::run(verb, &context),
        Verb::Compare(verb) => compare::run(verb, &context),
        Verb::Remove(verb) => remove::run(verb, &context),
        Verb::Compact(verb) => compact::run(verb, &context),
        Verb::Recover(verb) => recover::run(verb, &context),
        Verb::Repair(verb) => repair::run(verb, &context),
        Verb::Plan(verb) => plan::run(verb, &context),
        Verb::Join(verb) => parts::join(verb, &context),
        Verb::Demo(verb) => demo::run(verb, &context),
        Verb::Completions(verb) => shell::completions(verb),
        Verb::Man(verb) => shell::man(verb, &context),
        Verb::MakePair(verb) => demo::make_pair(verb, &context),
    }
}
