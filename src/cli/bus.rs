//! A mapped file that is cut short, or whose disk fails, ends the run with a message and an exit code
//! instead of a bare SIGBUS.
//!
//! Pages are brought in under the system's eyes before they are looked at, which gives an ordinary error
//! that names the file; this is for what happens to a file between the two.

#![expect(unsafe_code, reason = "what runs in a signal handler is ours to keep safe for one")]

use signal_hook::consts::SIGBUS;
use signal_hook::low_level;

use crate::cli::output::exit_code;
use delta_stream::{Error, ErrorKind, Result};

const MESSAGE: &[u8] =
    b"error: a file of a checkpoint was cut short, or its disk failed, while it was mapped; nothing was \
written under its final name; restore the file and run again (--resume keeps what was done, --io read \
names the file)\n";

/// From now on a SIGBUS ends the program with [`MESSAGE`] and the exit code of input/output errors.
///
/// # Errors
/// `Io` if the system refuses.
pub(crate) fn end_in_an_error() -> Result<()> {
    let code = i32::from(exit_code(ErrorKind::Io));
    let end = move || {
        // To standard error, past its lock, which the interrupted thread may hold.
        let _ = rustix::io::write(rustix::stdio::stderr(), MESSAGE);
        low_level::exit(code);
    };
    // SAFETY: the handler makes two system calls, write and _exit, which signal-safety(7) allows; it
    // neither allocates nor locks, and does not return to the instruction that faulted.
    let registered = unsafe { low_level::register(SIGBUS, end) };
    registered.map(drop).map_err(|e| {
        Error::new(ErrorKind::Io, "a handler for failing maps cannot be set").with_source(e)
    })
}
