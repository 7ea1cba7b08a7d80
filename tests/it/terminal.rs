//! What goes to a terminal: a bar with its stage, and nothing of it where none is wanted. Skipped where there is no
//! `script`, which makes a terminal up.

use std::process::Stdio;

use crate::support::{Pair, bare, small};

const COMPRESS: &str = "compress --shards fine-tune --base base -o a.delta.zst --force";

/// What a run shows on a made-up terminal, standard output included.
fn shown(pair: &Pair, line: &str, env: &[(&str, &str)]) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_delta-stream");
    let mut command = bare("script");
    command
        .args(["-qec", &format!("{program} {line}"), "/dev/null"])
        .current_dir(pair.path(""))
        .stdin(Stdio::null())
        .env("TERM", "xterm")
        .envs(env.iter().copied());
    let Ok(done) = command.output() else {
        println!("no script here, so no terminal");
        return None;
    };
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{line}: {text}");
    Some(text)
}

#[test]
fn a_terminal_gets_a_bar_with_stage_rate_and_memory_unless_it_is_turned_off() {
    let pair = Pair::of(&small());
    let Some(text) = shown(&pair, COMPRESS, &[]) else { return };
    for word in ["encode", "%", " ETA ", "of memory", "honest ratio"] {
        assert!(text.contains(word), "{word} is not in {text:?}");
    }
    for (more, env) in
        [("-q", &[][..]), ("", &[("TERM", "dumb")]), ("", &[("HF_HUB_DISABLE_PROGRESS_BARS", "1")])]
    {
        let text = shown(&pair, &format!("{COMPRESS} {more}"), env).unwrap();
        assert!(!text.contains("ETA") && !text.contains('\u{1b}'), "{more} {env:?}: {text:?}");
        assert!(text.contains("honest ratio"), "{text:?}");
    }
}

#[test]
fn help_has_colour_only_where_it_is_wanted() {
    let pair = Pair::of(&small());
    let Some(text) = shown(&pair, "--help", &[]) else { return };
    assert!(text.contains("\u{1b}["), "{text:?}");
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = shown(&pair, "--help", &[env]).unwrap();
        assert!(text.contains("Usage") && !text.contains('\u{1b}'), "{env:?}: {text:?}");
    }
}
