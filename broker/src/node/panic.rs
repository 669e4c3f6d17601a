//! A panic ends the process, never a part of it.
//!
//! A node with a dead shard would keep its sockets open, answer nobody and
//! look alive. So the first panic, on whatever thread, is reported and ends
//! the process at once; the supervisor starts a whole one.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write;
use std::panic::PanicHookInfo;

use tracing::error;

use crate::telemetry::log;

/// The exit status after a panic (EX_SOFTWARE of sysexits.h).
pub const EXIT_PANIC: i32 = 70;

/// Installs the hook for the whole process.
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if log::is_json() {
            report_as_event(panic);
        } else {
            report(panic);
        }
        log::flush();
        let _ = std::io::stderr().flush();
        std::process::exit(EXIT_PANIC);
    }));
}

fn report_as_event(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let thread = std::thread::current();
    error!(
        thread = thread.name(),
        location = panic.location().map(tracing::field::display),
        panic = panic.payload_as_str(),
        backtrace,
        "a thread panicked, the process ends"
    );
}
