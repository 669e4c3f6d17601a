//! `tidegate passwd`: the file is replaced as a whole, and only what is meant changes.

mod auth_rig;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use auth_rig::{ALICE, SECRET, Scratch};
use tidegate::auth::commands::{passwd_delete, set_password, verify};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("the file").permissions().mode() & 0o7777
}

#[test]
fn a_new_file_is_its_owners_alone() {
    let scratch = Scratch::new();
    let file = scratch.path("passwords");
    let said = set_password(&file, "bob", b"hunter2").expect("is set");
    assert_eq!(said, format!("bob is added to {}\n", file.display()));
    assert_eq!(mode(&file), 0o600);
    assert_eq!(scratch.names(), ["passwords"], "nothing else is left");
    assert!(!scratch.read("passwords").contains("hunter2"));
    assert!(verify(&file, "bob", b"hunter2").expect("a check"));
    assert!(!verify(&file, "bob", b"hunter3").expect("a check"));
    assert!(!verify(&file, "carol", b"hunter2").expect("a check"));
}

#[test]
fn an_old_file_keeps_its_mode_its_link_and_its_comments() {
    let scratch = Scratch::new();
    let target = scratch.write("real", &format!("# people\n{ALICE}# end\n"));
    fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("a mode");
    let link = scratch.path("link");
    symlink(&target, &link).expect("a link");

    set_password(&link, "bob", b"x").expect("is set");
    let said = set_password(&link, "bob", b"y").expect("is set");
    assert!(said.starts_with("bob has a new password in "), "{said}");
    assert_eq!(mode(&target), 0o640);
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    let text = scratch.read("real");
    assert!(text.starts_with(&format!("# people\n{ALICE}# end\nbob:$argon2id$")), "{text}");
    assert!(verify(&link, "alice", SECRET).expect("a check"));
    assert!(verify(&link, "bob", b"y").expect("a check"));

    passwd_delete(&link, "bob").expect("is deleted");
    assert_eq!(scratch.read("real"), format!("# people\n{ALICE}# end\n"));
}

#[test]
fn a_wrong_name_changes_nothing() {
    let scratch = Scratch::new();
    let file = scratch.write("passwords", ALICE);
    let error = set_password(&file, "a:b", b"x").expect_err("no name").to_string();
    assert!(error.contains("holds ':'"), "{error}");
    let error = passwd_delete(&file, "bob").expect_err("no bob").to_string();
    assert!(error.contains("has no user \"bob\""), "{error}");
    let error = passwd_delete(&scratch.path("none"), "bob").expect_err("no file").to_string();
    assert!(error.contains("cannot read"), "{error}");
    assert_eq!(scratch.read("passwords"), ALICE);
    assert_eq!(scratch.names(), ["passwords"]);
}

#[test]
fn a_bad_line_can_be_mended_and_others_are_told() {
    let scratch = Scratch::new();
    let file = scratch.write("passwords", "bob:$6$x$y\ncarol:plain\n");
    let said = set_password(&file, "bob", b"x").expect("is set");
    assert!(said.contains("line 2: user \"carol\""), "{said}");
    assert!(said.contains("does not take the file"), "{said}");
    assert!(!said.contains("line 1"), "{said}");
    assert!(verify(&file, "bob", b"x").is_err());
    let said = passwd_delete(&file, "carol").expect("is deleted");
    assert!(!said.contains("line"), "{said}");
    assert!(verify(&file, "bob", b"x").expect("a check"));
}

#[test]
fn edits_at_once_lose_nobody() {
    let scratch = Scratch::new();
    let file = scratch.path("passwords");
    std::thread::scope(|scope| {
        for n in 0..4 {
            let file = &file;
            scope.spawn(move || set_password(file, &format!("u{n}"), b"x").expect("is set"));
        }
    });
    let text = scratch.read("passwords");
    assert!((0..4).all(|n| text.contains(&format!("u{n}:$argon2id$"))), "{text}");
    assert_eq!(scratch.names(), ["passwords"]);
}
