//! A panic on any thread ends the process with status 70: never half dead.
//!
//! The test starts itself as the process that panics.

use std::process::Command;
use std::time::Duration;

const VICTIM: &str = "TIDEGATE_TEST_PANIC_VICTIM";

#[test]
fn a_panic_on_a_shard_thread_exits_with_70() {
    if std::env::var_os(VICTIM).is_some() {
        tidegate::node::panic::exit_on_panic();
        let shard = std::thread::Builder::new().name("shard-1".into());
        shard.spawn(|| panic!("a broken invariant")).expect("a thread");
        // The other threads are busy or asleep; the process ends all the same.
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "--nocapture", "a_panic_on_a_shard_thread_exits_with_70"])
        .env(VICTIM, "1")
        .output()
        .expect("start the victim");
    assert_eq!(output.status.code(), Some(tidegate::node::EXIT_PANIC));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("shard-1") && said.contains("a broken invariant"), "said: {said}");
}
