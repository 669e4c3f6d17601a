//! The files of `[auth]` in a running node.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_codec::ReasonCode;
use tidegate_core::Verdict;
use tidegate_core::counters::RejectReason;
use tracing::{error, info};

use crate::auth::{Attempt, AuthFault, Change, Doorman};
use crate::config::Config;
use crate::shard::Shared;
use crate::shard::clock::Reading;
use crate::shard::mailbox::Order;

/// Between two tries to give a shard its order.
const RETRY: Duration = Duration::from_millis(1);

/// Reads the files that a config names.
///
/// # Errors
/// With every fault of both.
pub(super) fn open(config: &Config) -> anyhow::Result<Doorman> {
    match Doorman::open(&config.auth) {
        Ok(doorman) => Ok(doorman),
        Err(faults) => bail!(sentences(&faults).join("\n")),
    }
}

/// Starts the threads that check passwords; the shards get the verdicts.
///
/// # Errors
/// When a thread cannot be started.
pub(super) fn start(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let answered = Arc::downgrade(shared);
    let now = || Reading::take().millis();
    let answer = move |attempt: &Attempt, right: bool| {
        if let Some(shared) = answered.upgrade() {
            tell(&shared, attempt, right);
        }
    };
    shared.doorman.start(now, answer).context("cannot start a thread that checks passwords")
}

/// This is no shard: it may wait while too many orders do.
fn tell(shared: &Shared, attempt: &Attempt, right: bool) {
    let verdict = match right {
        true => Verdict::Admit { user: Some(attempt.user.as_str().into()) },
        false => {
            Verdict::Refuse { code: ReasonCode::BadUserNameOrPassword, reason: RejectReason::Auth }
        }
    };
    let Some(mailbox) = shared.mailboxes.get(usize::from(attempt.shard.0)) else { return };
    let mut order = Order::Verdict(attempt.opened, verdict);
    while Reading::take().millis() < attempt.expires_at {
        match mailbox.order(order) {
            Ok(()) => return,
            Err(back) => order = back,
        }
        thread::sleep(RETRY);
    }
}

/// The files, to be watched.
pub(super) fn paths(doorman: &Doorman) -> Vec<PathBuf> {
    doorman.paths()
}

/// Reads the files again; `config` names them, if it was read again as well.
/// Files with a fault stay as they were. Returns what there is to say, and
/// whether the rules changed.
pub(super) fn reload(doorman: &Doorman, config: Option<&Config>) -> (Vec<String>, bool) {
    match doorman.reload(config.map(|config| &config.auth)) {
        Ok(report) => {
            let said = report.sentences();
            for sentence in &said {
                info!("auth: {sentence}");
            }
            let said = said.into_iter().map(|sentence| format!("auth: {sentence}")).collect();
            (said, report.rules != Change::Same)
        }
        Err(faults) => {
            let mut said = sentences(&faults);
            for sentence in &said {
                error!("{sentence}");
            }
            said.push("auth: the files stay as they were".into());
            (said, false)
        }
    }
}

fn sentences(faults: &[AuthFault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}
