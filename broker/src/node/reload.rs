//! SIGHUP: the config is read again, and the operator told what became of it.

use tracing::{error, info, warn};

use crate::config::{Config, Reload};

/// Reads the config again, has `apply` take over what is live, and says what
/// changed. A config with a fault changes nothing.
///
/// `apply` gets the whole config that is to be in effect, also when no key
/// changed, as the files that it names may have. Returns what there is to say
/// to who asked; `apply` adds to it.
pub(super) fn reload(
    reload: &mut Reload,
    apply: impl FnOnce(&Config) -> anyhow::Result<Vec<String>>,
) -> String {
    let plan = match reload.plan() {
        Ok(plan) => plan,
        Err(error) => {
            let error = format!("{error:#}");
            error!(error, "the config is not reloaded, the old one stays in effect");
            return format!("{error}\nthe config is not reloaded, the old one stays in effect\n");
        }
    };
    let mut said = match apply(&plan.config) {
        Ok(said) => said,
        Err(error) => {
            let error = format!("{error:#}");
            error!(error, "the config is not reloaded in whole");
            return format!("{error}\nthe config is not reloaded in whole\n");
        }
    };
    for changed in &plan.changed {
        let (key, old, new) = (&changed.key, &changed.old, &changed.new);
        if changed.live {
            info!(key, old, new, "config: applied");
        } else {
            warn!(key, old, new, "config: needs a restart");
        }
    }
    info!(changed = plan.changed.len(), whole = plan.is_whole(), "config reloaded");
    reload.done(&plan);
    said.insert(0, plan.report());
    said.join("\n") + "\n"
}
