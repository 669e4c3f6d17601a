//! Planted defects: one small switch a normative statement.
//!
//! `cargo xtask conformance mutate` builds the broker with the feature
//! `defects`, starts it once a statement with `TIDEGATE_DEFECT=<id>`, and
//! requires that the test which `docs/conformance.md` names goes red. Without
//! the feature [`on`] is the constant `false` and costs nothing.

#[cfg(feature = "defects")]
static ACTIVE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Switches the defect `id` on for the life of the process. The shell calls it
/// once, before any shard starts; a second call is ignored.
#[cfg(feature = "defects")]
pub fn activate(id: &str) {
    let _ = ACTIVE.set(id.to_owned());
}

/// Whether the defect for statement `id` (such as `"5:3.3.1-2"`, with the
/// standard's major version before the colon) is planted in this process.
#[inline(always)]
pub fn on(id: &str) -> bool {
    #[cfg(feature = "defects")]
    return ACTIVE.get().is_some_and(|active| active == id);
    #[cfg(not(feature = "defects"))]
    {
        let _ = id;
        false
    }
}
