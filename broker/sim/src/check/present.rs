//! C8: Session Present is true, wherever the client can know.

use super::Failure;
use super::lives::Lives;

pub(super) fn check(lives: &Lives, failures: &mut Vec<Failure>) {
    for wrong in &lives.wrong {
        let reason = format!(
            "client {} was told at {} that its session is {}",
            wrong.client,
            wrong.at,
            if wrong.got { "there, and it cannot be" } else { "gone, and it cannot be" }
        );
        failures.push(Failure::new("C8", reason).of_client(wrong.client));
    }
}
