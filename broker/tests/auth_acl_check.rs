//! `tidegate acl check`: the verdict, the line behind it, and what is no question.

mod auth_rig;

use auth_rig::Scratch;
use tidegate::auth::commands::{Checked, acl_check};
use tidegate_auth::Action::{Publish, Subscribe};

const RULES: &str = "\
# plant
user alice deny publish plant/secret
user alice allow all plant/#
everybody allow subscribe public/+
";

#[test]
fn the_deciding_line_is_told() {
    let scratch = Scratch::new();
    let file = scratch.write("acl", RULES);
    let check = |user, action, topic| acl_check(&file, "c1", user, action, topic).expect("a check");
    let denied = |text: &str| Checked::Denied(text.into());
    let allowed = |text: &str| Checked::Allowed(text.into());
    assert_eq!(
        check(Some("alice"), Publish, "plant/secret"),
        denied("deny: line 2: user alice deny publish plant/secret\n")
    );
    assert_eq!(
        check(Some("alice"), Subscribe, "$share/group/plant/#"),
        allowed("allow: line 3: user alice allow all plant/#\n")
    );
    assert_eq!(check(None, Subscribe, "plant/#"), denied("deny: no rule speaks of it\n"));
    assert_eq!(
        check(None, Subscribe, "public/+"),
        allowed("allow: line 4: everybody allow subscribe public/+\n")
    );
}

#[test]
fn a_question_without_sense_is_misuse() {
    let scratch = Scratch::new();
    let file = scratch.write("acl", RULES);
    for (action, topic) in
        [(Publish, "a/#"), (Publish, ""), (Subscribe, "a/#/b"), (Subscribe, "$share/g")]
    {
        let checked = acl_check(&file, "c1", None, action, topic).expect("a check");
        assert!(matches!(checked, Checked::Misused(_)), "{topic}: {checked:?}");
    }
}

#[test]
fn a_file_with_faults_is_an_error_that_names_them() {
    let scratch = Scratch::new();
    let file = scratch.write("acl", "everybody\nallow\n");
    let error = acl_check(&file, "c1", None, Publish, "a").expect_err("faults").to_string();
    assert!(error.contains("line 1: ") && error.contains("line 2: "), "{error}");
    let error = acl_check(&scratch.path("none"), "c", None, Publish, "a").expect_err("no file");
    assert!(format!("{error:#}").contains("cannot read"), "{error:#}");
}
