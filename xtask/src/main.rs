//! Chores of the workspace.

mod conformance;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((chore, rest)) if chore == "conformance" => conformance::run(rest),
        _ => anyhow::bail!("usage: cargo xtask conformance check | mutate"),
    }
}
