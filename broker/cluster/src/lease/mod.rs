//! For how long a node may believe what it was told.
//!
//! Two leases. The **node lease** comes from the leader of the meta group: while
//! it lasts, the node may read for and deliver to clients. The **route lease**
//! comes from every peer that has clients: while it lasts, the node may trust
//! that it knows all routes of that peer.
//!
//! Both are built alike. The holder asks, and counts from its own sending; the
//! granter answers, and counts from its answer, which is later. So whatever the
//! network does, the holder is done before the granter, as long as their clocks
//! run alike within the margin. No clock is ever compared with another node's.

#[cfg(test)]
mod model;
mod node;
mod route;

pub use node::{Asked, Grant, Granter, Hold, Holder, NoGrant};
pub use route::{RouteGrants, RouteHold};
