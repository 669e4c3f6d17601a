//! Load for any MQTT broker, from the command line.

mod engine;
mod procfs;
mod protocol;
mod scenario;
mod worker;
fn main() { let _ = worker::work(std::io::stdin(), std::io::stdout()); }
