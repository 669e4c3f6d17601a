//! Rules and requests of any text never panic, and the verdicts agree with each
//! other: what may be subscribed to by its name is what its explanation says,
//! and a client that names itself with wildcards gains nothing by it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_auth::acl::word;
use tidegate_auth::{Acl, Action, Who};

fuzz_target!(|text: &str| {
    // Client id, user name and topic on three lines, then the file.
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (client, user, topic, file) = (line(), line(), line(), line());
    let who = Who { client, user: Some(user).filter(|user| *user != "-") };
    match Acl::parse(file) {
        Ok(acl) => {
            let publish = acl.explain(who, Action::Publish, topic);
            assert_eq!(publish.allowed, acl.publish(who, topic));
            let subscribe = acl.explain(who, Action::Subscribe, topic);
            assert_eq!(subscribe.allowed, acl.subscribe(who, topic));
            for explained in [publish, subscribe] {
                let rule = explained.line.and_then(|line| file.split('\n').nth(line - 1));
                assert_eq!(rule.map(str::trim), explained.rule);
            }
            let all = |line: &str| {
                let comment = line.trim().is_empty() || line.trim().starts_with('#');
                !comment
            };
            assert_eq!(acl.len(), file.split('\n').filter(|line| all(line)).count());
        }
        Err(faults) => {
            assert!(faults.count() > 0 && !faults.to_string().is_empty());
        }
    }
    // Any text without a line end or an end that is trimmed can be a name.
    if !client.is_empty() && client.trim() == client && !client.contains('\r') {
        let file = format!("client {} allow publish secret", word(client));
        let acl = Acl::parse(file).expect("a quoted name");
        assert!(acl.publish(who, "secret"));
    }
    if client.contains(['/', '+', '#']) {
        let acl = Acl::parse("everybody allow all %c\neverybody allow all %c/#").expect("good");
        assert!(!acl.publish(who, topic) && !acl.subscribe(who, topic));
    }
});
