//! How full the disk is: a look a second, and what follows from it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tidegate_core::room::Room;
use tidegate_store::{Disk, FileDisk, Space};
use tracing::{info, warn};

use super::Store;
use super::reserve::Reserve;
use crate::config;
use crate::shard::Shared;

const EVERY: Duration = Duration::from_secs(1);
/// So many points below its begin a stage ends.
const REST: u64 = 5;

/// Uses of the disk, in percent, from which less is taken.
#[derive(Clone, Copy, Debug)]
struct Marks {
    refuse: u64,
    stop: u64,
}

impl Marks {
    /// What follows from so much use, after `before`.
    fn room(self, before: Room, space: Space) -> Room {
        let used = u128::from(space.total - space.free.min(space.total)) * 100;
        let reached = |percent: u64| used >= u128::from(space.total) * u128::from(percent);
        let holds = |mark: u64, in_effect: bool| {
            reached(mark) || (in_effect && reached(mark.saturating_sub(REST)))
        };
        if holds(self.stop, before >= Room::None) {
            Room::None
        } else if holds(self.refuse, before >= Room::Low) {
            Room::Low
        } else {
            Room::Enough
        }
    }
}

/// Starts the thread that looks; the first look is before it returns.
///
/// # Errors
/// When there can be no thread.
pub(super) fn watch(
    disk: FileDisk,
    reserve: Arc<Reserve>,
    config: &config::Store,
    shared: Arc<Shared>,
    store: Arc<Store>,
) -> io::Result<()> {
    let marks =
        Marks { refuse: config.disk_refuse_percent.into(), stop: config.disk_stop_percent.into() };
    let mut told_error = false;
    let mut look = move || match disk.space() {
        Ok(space) => {
            told_error = false;
            reserve.look(space);
            judge(marks, space, &reserve, &shared, &store);
        }
        Err(error) if !std::mem::replace(&mut told_error, true) => {
            warn!(%error, "cannot tell how full the disk is");
        }
        Err(_) => {}
    };
    look();
    thread::Builder::new().name("volume".to_owned()).spawn(move || {
        loop {
            thread::sleep(EVERY);
            look();
        }
    })?;
    Ok(())
}

fn judge(marks: Marks, space: Space, reserve: &Reserve, shared: &Shared, store: &Store) {
    let [used, total] = &store.meters.volume;
    let used_bytes = space.total - space.free.min(space.total);
    used.set(used_bytes);
    total.set(space.total);
    let before = shared.node.room();
    let room = match store.full.load(Ordering::Acquire) || !reserve.is_held() {
        true => Room::None,
        false => marks.room(before, space),
    };
    if room == before {
        return;
    }
    match room {
        Room::None => reserve.no_room(&shared.node),
        Room::Enough | Room::Low => shared.node.set_room(room),
    }
    let total_bytes = space.total;
    match room {
        Room::Enough => info!(used_bytes, total_bytes, "disk: enough room again"),
        Room::Low => {
            warn!(used_bytes, total_bytes, "disk: little room: new messages to keep are refused");
        }
        Room::None => warn!(
            used_bytes,
            total_bytes,
            "disk: nearly full: new durable sessions and subscriptions are refused too"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_begins_at_its_mark_and_ends_five_points_below() {
        let marks = Marks { refuse: 85, stop: 95 };
        let mut room = Room::Enough;
        let mut at = |used: u64| {
            room = marks.room(room, Space { free: 100 - used, total: 100 });
            room
        };
        assert_eq!([at(84), at(85), at(94)], [Room::Enough, Room::Low, Room::Low]);
        assert_eq!([at(95), at(91), at(90)], [Room::None, Room::None, Room::None]);
        assert_eq!([at(89), at(80), at(79)], [Room::Low, Room::Low, Room::Enough]);
        assert_eq!([at(100), at(79)], [Room::None, Room::Enough]);
    }

    #[test]
    fn a_disk_without_size_is_no_reason_to_refuse_anything_but_full() {
        let marks = Marks { refuse: 85, stop: 95 };
        let space = Space { free: u64::MAX, total: u64::MAX };
        assert_eq!(marks.room(Room::None, space), Room::Enough);
        assert_eq!(marks.room(Room::Enough, Space { free: 0, total: 10 }), Room::None);
    }
}
