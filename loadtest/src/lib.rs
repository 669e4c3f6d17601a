//! Load for any MQTT broker, and the truth about what it did with it.
//!
//! The engine opens connections and moves bytes; everything here that judges
//! (identity, ledger, latency) and everything that shows (outcome, faces,
//! compare, plan) is pure, so that a fault of the harness shows in a unit test
//! and not in a broker's figures.

pub mod compare;
pub mod faces;
pub mod floor;
pub mod identity;
pub mod intervals;
pub mod latency;
pub mod layers;
pub mod ledger;
pub mod outcome;
pub mod plan;
pub mod transport;
