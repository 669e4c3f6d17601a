//! What the kernel does for us: settings of the eBPF objects and of steering.

use toml::Value;

use super::key::{Key, Setting, Shape, choice};
use super::problem::Problem;
pub use tidegate_kernel::steering::Policy;

/// Whether an eBPF object is used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// It is not loaded.
    Off,
    /// It is, where the kernel and our privileges allow it; else the node runs
    /// without and says why.
    #[default]
    Auto,
    /// The node does not start without it.
    Require,
}

choice!(Mode { Mode::Off => "off", Mode::Auto => "auto", Mode::Require => "require" });

choice!(Policy {
    Policy::Least => "least",
    Policy::Affinity => "affinity",
    Policy::Cpu => "cpu",
    Policy::Hash => "hash",
});

/// Which eBPF objects are used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ebpf {
    /// Steering and admission.
    pub steer: Mode,
    /// RTTs, retransmits and states of our connections.
    pub tcpstat: Mode,
    /// Rates of connection tracking.
    pub conntrack: Mode,
}

/// Weights of shards 0 on; those not named have 100.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Weights(pub Vec<u8>);

/// The highest weight.
pub const WEIGHT_MAX: u8 = 100;

impl Weights {
    /// For so many shards.
    pub fn of(&self, shards: usize) -> Vec<u8> {
        (0..shards).map(|shard| self.0.get(shard).copied().unwrap_or(WEIGHT_MAX)).collect()
    }
}

impl Setting for Weights {
    const SHAPE: Shape = Shape::Weights;
    fn read(key: &Key, path: &str, value: &Value) -> Result<Weights, Problem> {
        let items: Vec<Value> = match value {
            // As the environment has it.
            Value::Integer(_) => vec![value.clone()],
            Value::String(text) => text
                .split(',')
                .map(|item| item.trim().parse().map(Value::Integer))
                .collect::<Result<_, _>>()
                .map_err(|_| key.mistyped(path, value))?,
            Value::Array(items) => items.clone(),
            _ => return Err(key.mistyped(path, value)),
        };
        let max = tidegate_core::limits::SHARDS_MAX;
        if items.len() > max {
            return Err(Problem::ListTooLong { key: path.into(), count: items.len(), max });
        }
        let weights = items.iter().map(|item| u8::read(key, path, item));
        let weights = weights.collect::<Result<Vec<u8>, _>>()?;
        if !weights.is_empty() && weights.iter().all(|weight| *weight == 0) {
            return Err(Problem::Unfit {
                key: path.into(),
                value: Weights(weights).show(),
                why: "leaves no shard for new connections".into(),
                fix: "give at least one a weight of 1 to 100".into(),
            });
        }
        Ok(Weights(weights))
    }
    fn show(&self) -> String {
        let shown: Vec<_> = self.0.iter().map(u8::to_string).collect();
        format!("[{}]", shown.join(", "))
    }
}
