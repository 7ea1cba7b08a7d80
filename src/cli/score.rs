//! `--tune command:...`: a program that scores a restored checkpoint.

use std::path::Path;
use std::process::{Command, Stdio};

use delta_stream::{Error, Result, Score};

/// A score from a shell command: it gets the checkpoint's directory as its last argument and prints a
/// number, the lower the better, on its last line. What it says on standard error is passed on.
pub(crate) fn command(command: &str) -> Score {
    let command = command.to_owned();
    Score::new(move |dir| run(&command, dir))
}

fn run(command: &str, dir: &Path) -> Result<f64> {
    let failed = |why: String| {
        Error::invalid_argument(format!(
            "--tune command: `{command}` {why}; it is run with a directory as its last argument and \
             prints one number, the lower the better"
        ))
    };
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{command} \"$1\""))
        .arg("sh")
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| failed(format!("cannot be run ({e})")))?;
    if !output.status.success() {
        return Err(failed(format!("failed ({})", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    match last.parse::<f64>() {
        Ok(score) if !score.is_nan() => Ok(score),
        _ => Err(failed(format!("printed {last:?}, which is no number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_score_and_the_directory_the_last_argument() {
        let dir = Path::new("some where");
        assert_eq!(run("printf 'hello\\n2.5\\n' #", dir).unwrap(), 2.5);
        assert_eq!(
            run("printf '%s\\n' 7 > /dev/null; printf '%s' \"${#1}\" #", dir).unwrap(),
            10.0
        );
        for bad in ["false", "echo nothing #", "no-such-program-there-is", "echo NaN #"] {
            let text = run(bad, dir).unwrap_err().to_string();
            assert!(text.contains(bad) && text.contains("one number"), "{text}");
        }
    }
}
