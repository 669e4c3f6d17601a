//! A panic ends the process, never a part of it.
//!
//! A node with a dead shard would keep its sockets open, answer nobody and
//! look alive. So the first panic, on whatever thread, is reported and ends
//! the process at once; the supervisor starts a whole one.

use std::io::Write;

/// The exit status after a panic (EX_SOFTWARE of sysexits.h).
pub const EXIT_PANIC: i32 = 70;

/// Installs the hook for the whole process.
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let _ = std::io::stderr().flush();
        std::process::exit(EXIT_PANIC);
    }));
}
