//! The `tidegate` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main(|_config| anyhow::bail!("this build has no node"))
}
