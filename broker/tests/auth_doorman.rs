//! Files are in force as a whole, and passwords are checked off the caller's thread.

mod auth_rig;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use auth_rig::{ALICE, SECRET, Scratch};
use tidegate::auth::{Attempt, Change, Doorman};
use tidegate::config::Auth;
use tidegate_core::Opened;
use tidegate_core::access::Who;
use tidegate_core::ids::ShardId;

const PATIENCE: Duration = Duration::from_secs(10);

fn auth(passwords: Option<PathBuf>, acl: Option<PathBuf>) -> Auth {
    Auth { password_file: passwords, acl_file: acl, hash_threads: 1, hash_queue_max: 4 }
}

fn attempt(slot: u32, user: &str, password: &[u8]) -> Attempt {
    Attempt {
        shard: ShardId(1),
        opened: Opened { slot, generation: 7 },
        user: user.into(),
        password: password.into(),
        expires_at: 1_000,
    }
}

fn who<'a>(user: Option<&'a str>) -> Who<'a> {
    Who { client: "c1", user }
}

#[test]
fn a_reload_with_a_fault_leaves_both_files_as_they_were() {
    let scratch = Scratch::new();
    let passwords = scratch.write("passwords", ALICE);
    let acl = scratch.write("acl", "user alice allow publish a\n");
    let doorman = Doorman::open(&auth(Some(passwords), Some(acl))).expect("good files");
    let access = doorman.access();
    assert!(access.publish(who(Some("alice")), "a").is_ok());

    scratch.write("passwords", "");
    scratch.write("acl", "user alice allow publish b\nnobody\n");
    let faults = doorman.reload(None).expect_err("a fault");
    assert_eq!(faults.len(), 1);
    let said = faults[0].to_string();
    assert!(said.starts_with("auth.acl_file: ") && said.contains("line 2: "), "{said}");
    assert!(access.publish(who(Some("alice")), "a").is_ok());
    assert!(access.publish(who(Some("alice")), "b").is_err());

    scratch.write("acl", "user alice allow publish b\nuser alice allow subscribe c/#\n");
    let report = doorman.reload(None).expect("good files");
    assert_eq!(report.users, Change::Changed { before: Some(1), now: Some(0) });
    assert_eq!(report.rules, Change::Changed { before: Some(1), now: Some(2) });
    assert_eq!(
        report.sentences(),
        ["0 users in effect, after 1 users", "2 rules in effect, after 1 rules"]
    );
    assert!(access.publish(who(Some("alice")), "a").is_err());
    assert!(access.subscribe(who(Some("alice")), "c/d").is_ok());
    assert_eq!(doorman.reload(None).expect("good files").sentences(), [""; 0]);
}

#[test]
fn a_key_that_goes_takes_its_file_out_of_force() {
    let scratch = Scratch::new();
    let (passwords, acl) = (scratch.write("passwords", ALICE), scratch.write("acl", ""));
    let doorman = Doorman::open(&auth(Some(passwords.clone()), Some(acl.clone()))).expect("good");
    assert_eq!(doorman.paths(), [passwords, acl]);
    assert!(doorman.has_passwords());
    assert!(doorman.access().publish(who(None), "a").is_err());
    let report = doorman.reload(Some(&auth(None, None))).expect("nothing to read");
    assert_eq!(report.rules, Change::Changed { before: Some(0), now: None });
    assert!(!doorman.has_passwords());
    // Without rules all is open but the broker's own topics.
    assert!(doorman.access().publish(who(None), "a").is_ok());
    assert!(doorman.access().publish(who(None), "$SYS/a").is_err());
}

#[test]
fn every_fault_of_both_files_is_told() {
    let scratch = Scratch::new();
    let passwords = scratch.write("passwords", "a\nb\n");
    let faults = Doorman::open(&auth(Some(passwords), Some(scratch.path("none"))));
    let faults = faults.expect_err("faults");
    let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[2].starts_with("auth.acl_file: cannot read "), "{said:?}");
    fs::write(scratch.path("passwords"), b"a\xff").expect("a file");
    let faults = Doorman::open(&auth(Some(scratch.path("passwords")), None)).expect_err("faults");
    assert!(faults[0].to_string().contains("not UTF-8 from byte 1"), "{faults:?}");
}

#[test]
fn attempts_are_answered_in_the_order_they_came() {
    let scratch = Scratch::new();
    let doorman =
        Doorman::open(&auth(Some(scratch.write("passwords", ALICE)), None)).expect("good");
    let (told, answers) = mpsc::channel();
    let answer = move |attempt: &Attempt, right: bool| {
        told.send((attempt.opened.slot, attempt.shard, right)).expect("somebody listens");
    };
    doorman.start(|| 0, answer).expect("a thread");
    let answered = |slot, user, password: &[u8]| {
        doorman.ask(attempt(slot, user, password)).expect("there is room");
        answers.recv_timeout(PATIENCE).expect("an answer")
    };
    assert_eq!(answered(1, "alice", SECRET), (1, ShardId(1), true));
    assert_eq!(answered(2, "alice", b"wrong"), (2, ShardId(1), false));
    assert_eq!(answered(3, "mallory", SECRET), (3, ShardId(1), false));
    let counters = doorman.counters();
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((read(&counters.right), read(&counters.wrong)), (1, 2));
    assert_eq!((read(&counters.waiting), read(&counters.refused)), (0, 0));
    assert!(read(&counters.hashing_nanos) > 0);
}

#[test]
fn a_full_queue_gives_the_attempt_back_at_once() {
    let scratch = Scratch::new();
    let doorman =
        Doorman::open(&auth(Some(scratch.write("passwords", ALICE)), None)).expect("good");
    // Nobody takes anything: the threads are not started.
    for slot in 0..4 {
        doorman.ask(attempt(slot, "alice", SECRET)).expect("there is room");
    }
    let back = doorman.ask(attempt(4, "alice", SECRET)).expect_err("it is full");
    assert_eq!((back.opened.slot, &back.password[..]), (4, SECRET));
    assert_eq!(doorman.counters().waiting.load(Ordering::Relaxed), 4);
    assert_eq!(doorman.counters().refused.load(Ordering::Relaxed), 1);
}

#[test]
fn what_waited_too_long_is_not_hashed() {
    let scratch = Scratch::new();
    let doorman =
        Doorman::open(&auth(Some(scratch.write("passwords", ALICE)), None)).expect("good");
    let clock = Arc::new(AtomicU64::new(1_000));
    let now = Arc::clone(&clock);
    doorman.ask(attempt(1, "alice", SECRET)).expect("there is room");
    doorman.ask(attempt(2, "alice", SECRET)).expect("there is room");
    let mut in_time = attempt(3, "alice", SECRET);
    in_time.expires_at = 1_001;
    doorman.ask(in_time).expect("there is room");
    let (told, answers) = mpsc::channel();
    let answer = move |attempt: &Attempt, right: bool| {
        told.send((attempt.opened.slot, right)).expect("somebody listens");
    };
    doorman.start(move || now.load(Ordering::Relaxed), answer).expect("a thread");
    assert_eq!(answers.recv_timeout(PATIENCE), Ok((3, true)));
    assert_eq!(doorman.counters().expired.load(Ordering::Relaxed), 2);
    assert_eq!(doorman.counters().right.load(Ordering::Relaxed), 1);
}

#[test]
fn an_attempt_is_printed_without_its_password() {
    let printed = format!("{:?}", attempt(1, "alice", b"hunter2"));
    assert!(printed.contains("alice") && !printed.contains("104"), "{printed}");
}

#[test]
fn the_threads_end_with_the_doorman() {
    let scratch = Scratch::new();
    let doorman =
        Doorman::open(&auth(Some(scratch.write("passwords", ALICE)), None)).expect("good");
    let (alive, ended) = mpsc::channel::<()>();
    let answer = move |_: &Attempt, _: bool| {
        let _ = &alive;
    };
    doorman.start(|| 0, answer).expect("a thread");
    drop(doorman);
    assert_eq!(ended.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}
