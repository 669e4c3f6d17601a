//! What a node gives up when memory runs short, stage by stage.
//!
//! Somebody outside measures, and says [`Node::set_pressure`](crate::Node::set_pressure).
//! What is connected keeps its service longest: first nobody new comes in, then
//! all get less room, and at last those go who take the least of what waits for
//! them.

use crate::limits::{Limits, QueuePolicy};

/// Shares of the memory, in percent, from which the stages begin.
const BEGINS: [u64; 3] = [85, 92, 96];
/// So many points below its begin a stage ends.
const REST: u64 = 3;

/// The least that a session's queue has, in messages and bytes, unless the
/// config gives it less.
const QUEUE_MESSAGES_MIN: u32 = 128;
const QUEUE_BYTES_MIN: u64 = 256 << 10;
/// The same for what is encoded for one socket.
const WRITE_BUFFER_BYTES_MIN: u32 = 64 << 10;
/// Unacknowledged messages out to one session.
const INFLIGHT_OUT_MAX: u16 = 32;
/// What is left of the configured bounds.
const SHARE: u32 = 16;

/// What waits for one client, in bytes, from which it may be shed.
pub const SHED_BYTES_MIN: u64 = 64 << 10;

/// The same bounds in the last stage: what memory is left is for those who
/// keep up, and whoever has more than this waiting goes.
const LAST_QUEUE_MESSAGES: u32 = 64;
const LAST_QUEUE_BYTES: u64 = SHED_BYTES_MIN;
const LAST_WRITE_BUFFER_BYTES: u32 = 16 << 10;

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Stage {
    /// There is enough.
    #[default]
    Calm = 0,
    /// New clients are refused (0x97; 3.x: 0x03).
    Refuse = 1,
    /// Queues, windows and buffers shrink as well.
    Shrink = 2,
    /// The clients go as well for which the most waits.
    Shed = 3,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 4] = [Stage::Calm, Stage::Refuse, Stage::Shrink, Stage::Shed];

    /// The stage after this one when so much of the memory is used. One is left
    /// only somewhat below where it began.
    pub fn after(self, used: u64, limit: u64) -> Stage {
        let share = |percent: u64| u128::from(limit) * u128::from(percent);
        let used = u128::from(used) * 100;
        let reached =
            |rest: u64| BEGINS.iter().take_while(|begin| used >= share(**begin - rest)).count();
        // In effect is what has begun, or has begun once and not ended since.
        Stage::ALL[reached(0).max(reached(REST).min(self as usize))]
    }

    /// The use, in bytes of `limit`, from which this stage begins.
    pub fn begins(self, limit: u64) -> u64 {
        let percent = match self {
            Stage::Calm => 0,
            Stage::Refuse => BEGINS[0],
            Stage::Shrink => BEGINS[1],
            Stage::Shed => BEGINS[2],
        };
        (u128::from(limit) * u128::from(percent) / 100) as u64
    }

    pub(crate) fn of(number: u8) -> Stage {
        Stage::ALL.get(usize::from(number)).copied().unwrap_or(Stage::Shed)
    }
}

/// The bounds while memory is short. What waits already stays; a queue that is
/// above its bound takes nothing more.
pub(crate) fn tight(limits: &Limits) -> Limits {
    let least = |configured: u32, least: u32| (configured / SHARE).max(least).min(configured);
    Limits {
        queue_messages_max: least(limits.queue_messages_max, QUEUE_MESSAGES_MIN),
        queue_bytes_max: (limits.queue_bytes_max / u64::from(SHARE))
            .max(QUEUE_BYTES_MIN)
            .min(limits.queue_bytes_max),
        queue_policy: QueuePolicy::DropNew,
        inflight_out_max: limits.inflight_out_max.min(INFLIGHT_OUT_MAX),
        write_buffer_bytes_max: least(limits.write_buffer_bytes_max, WRITE_BUFFER_BYTES_MIN),
        ..limits.clone()
    }
}

/// The bounds in the last stage.
pub(crate) fn last(limits: &Limits) -> Limits {
    let tight = tight(limits);
    Limits {
        queue_messages_max: tight.queue_messages_max.min(LAST_QUEUE_MESSAGES),
        queue_bytes_max: tight.queue_bytes_max.min(LAST_QUEUE_BYTES),
        write_buffer_bytes_max: tight.write_buffer_bytes_max.min(LAST_WRITE_BUFFER_BYTES),
        ..tight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_begin_at_85_92_and_96_percent_and_end_three_points_below() {
        let mut stage = Stage::Calm;
        let mut at = |used: u64| {
            stage = stage.after(used, 100);
            stage as u8
        };
        let up: Vec<u8> = [84, 85, 91, 92, 95, 96, 100].map(&mut at).into();
        assert_eq!(up, [0, 1, 1, 2, 2, 3, 3]);
        let down: Vec<u8> = [94, 93, 92, 90, 89, 88, 83, 82, 81].map(&mut at).into();
        assert_eq!(down, [3, 3, 2, 2, 2, 1, 1, 1, 0]);
    }

    #[test]
    fn a_jump_goes_through_at_once() {
        assert_eq!(Stage::Calm.after(99, 100), Stage::Shed);
        assert_eq!(Stage::Shed.after(10, 100), Stage::Calm);
        assert_eq!(Stage::Calm.after(u64::MAX, u64::MAX), Stage::Shed);
    }

    #[test]
    fn each_stage_leaves_less_room() {
        let (all, tight, last) =
            (Limits::default(), tight(&Limits::default()), last(&Limits::default()));
        let room =
            |limits: &Limits| limits.queue_bytes_max + u64::from(limits.write_buffer_bytes_max);
        assert!(room(&all) > room(&tight) && room(&tight) > room(&last));
        assert!(all.queue_messages_max > tight.queue_messages_max);
        assert!(tight.queue_messages_max > last.queue_messages_max);
    }

    #[test]
    fn tight_bounds_are_never_above_the_configured_ones() {
        let small = Limits { queue_messages_max: 5, queue_bytes_max: 99, ..Limits::default() };
        let tight = tight(&small);
        assert_eq!((tight.queue_messages_max, tight.queue_bytes_max), (5, 99));
        let last = last(&small);
        assert_eq!((last.queue_messages_max, last.queue_bytes_max), (5, 99));
    }
}
