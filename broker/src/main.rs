//! The `tidegate` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo xtask conformance mutate` breaks one statement this way.
    #[cfg(feature = "defects")]
    if let Ok(id) = std::env::var("TIDEGATE_DEFECT") {
        tidegate_codec::defect::activate(&id);
    }
    tidegate::cli::main(tidegate::node::run)
}
