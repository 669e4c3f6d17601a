//! The rules beside a reference that knows no covering and no overlap: it lists
//! topics, and asks of each whether it matches.

use proptest::prelude::*;
use proptest::sample::select;
use tidegate_auth::{Acl, Who};

/// Levels of the topics that are listed. `z` stands for all that no rule names.
const NAMES: [&str; 5] = ["a", "b", "", "$x", "z"];
/// One more level than filters have, so that `#` is told from `+`.
const DEPTH: usize = 4;
/// What clients call themselves.
const VALUES: [&str; 8] = ["a", "b", "$x", "z", "a/b", "+", "#", ""];

/// All topics of those levels, and of some more.
fn topics(more: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = NAMES.iter().chain(more).map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    let mut topics = names.clone();
    let mut last = topics.clone();
    for _ in 1..DEPTH {
        last = last.iter().flat_map(|t| names.iter().map(move |n| format!("{t}/{n}"))).collect();
        topics.extend(last.iter().cloned());
    }
    topics
}

/// By the words of the standard.
fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match filter {
            [] => topic.is_empty(),
            ["#"] => true,
            [level, filter @ ..] => match topic {
                [] => false,
                [name, topic @ ..] => (*level == "+" || level == name) && levels(filter, topic),
            },
        }
    }
    let wild = filter.starts_with(['+', '#']);
    if topic.starts_with('$') && wild {
        return false;
    }
    let filter: Vec<_> = filter.split('/').collect();
    let topic: Vec<_> = topic.split('/').collect();
    levels(&filter, &topic)
}

#[derive(Clone, Debug)]
struct Rule {
    subject: String,
    allow: bool,
    action: &'static str,
    filter: String,
}

#[derive(Clone, Debug)]
struct Client {
    id: &'static str,
    user: Option<&'static str>,
}

impl Rule {
    fn text(&self) -> String {
        let verdict = if self.allow { "allow" } else { "deny" };
        format!("{} {verdict} {} \"{}\"", self.subject, self.action, self.filter)
    }

    /// The filter for this client; none: the rule says nothing of it.
    fn filter(&self, client: &Client) -> Option<String> {
        let about = match self.subject.as_str() {
            "everybody" => true,
            "anonymous" => client.user.is_none(),
            "user *" => client.user.is_some(),
            subject => {
                let user = client.user.is_some_and(|user| subject == format!("user {user}"));
                user || subject == format!("client {}", client.id)
            }
        };
        let mut filled = self.filter.clone();
        for (of, value) in [("%c", Some(client.id)), ("%u", client.user)] {
            if !filled.contains(of) {
                continue;
            }
            let value = value.filter(|value| !value.is_empty() && !value.contains(['/', '+', '#']));
            if filled.starts_with(of) && value?.starts_with('$') {
                return None;
            }
            filled = filled.replace(of, value?);
        }
        about.then_some(filled)
    }
}

fn publish(rules: &[Rule], client: &Client, topic: &str) -> bool {
    let speaks = |rule: &&Rule| {
        rule.action != "subscribe"
            && rule.filter(client).is_some_and(|filter| matches(&filter, topic))
    };
    rules.iter().find(speaks).is_some_and(|rule| rule.allow)
}

fn subscribe(rules: &[Rule], client: &Client, wanted: &str, topics: &[String]) -> bool {
    let speaks = |rule: &&Rule| {
        let Some(filter) = rule.filter(client) else { return false };
        let mut of_wanted = topics.iter().filter(|topic| matches(wanted, topic));
        rule.action != "publish"
            && match rule.allow {
                true => of_wanted.all(|topic| matches(&filter, topic)),
                false => of_wanted.any(|topic| matches(&filter, topic)),
            }
    };
    rules.iter().find(speaks).is_some_and(|rule| rule.allow)
}

fn filter(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(select(levels), 1..=3);
    (levels, any::<bool>()).prop_filter_map("an empty filter", |(levels, open)| {
        let mut levels = levels;
        if open && levels.len() < 3 {
            levels.push("#");
        }
        let end = levels.iter().position(|level| *level == "#").unwrap_or(levels.len() - 1);
        let filter = levels[..=end].join("/");
        (!filter.is_empty()).then_some(filter)
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let subjects = select(vec![
        "everybody",
        "everybody",
        "anonymous",
        "user *",
        "user a",
        "user b",
        "client a",
        "client b",
    ]);
    let filter = filter(&["a", "b", "+", "+", "#", "", "$x", "%c", "%u", "a%c", "a%u"]);
    let actions = select(vec!["publish", "subscribe", "all"]);
    (subjects, any::<bool>(), actions, filter).prop_map(|(subject, allow, action, filter)| Rule {
        subject: subject.into(),
        allow,
        action,
        filter,
    })
}

fn client() -> impl Strategy<Value = Client> {
    let id = select(&VALUES[..]);
    let user = prop::option::of(select(&VALUES[..]));
    (id, user).prop_map(|(id, user)| Client { id, user })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn rules_decide_as_the_listed_topics_do(
        rules in prop::collection::vec(rule(), 0..6),
        client in client(),
        wanted in filter(&["a", "b", "+", "#", "", "$x", "z"]),
    ) {
        let text: Vec<_> = rules.iter().map(Rule::text).collect();
        let acl = Acl::parse(text.join("\n")).expect("good rules");
        let who = Who { client: client.id, user: client.user };
        let parts = [format!("a{}", client.id), format!("a{}", client.user.unwrap_or(""))];
        let parts: Vec<_> =
            parts.iter().map(String::as_str).filter(|p| !p.contains(['/', '+', '#'])).collect();
        let topics = topics(&parts);
        for topic in &topics {
            prop_assert_eq!(
                acl.publish(who, topic), publish(&rules, &client, topic), "publish {:?}", topic
            );
        }
        prop_assert_eq!(
            acl.subscribe(who, &wanted), subscribe(&rules, &client, &wanted, &topics)
        );
    }

    #[test]
    fn one_rule_covers_or_overlaps_as_the_listed_topics_do(
        of_rule in filter(&["a", "+", "#", "", "$x"]),
        wanted in filter(&["a", "+", "#", "", "$x", "z"]),
    ) {
        let topics = topics(&[]);
        let who = Who { client: "c", user: None };
        let mut of_wanted = topics.iter().filter(|topic| matches(&wanted, topic));
        let allow = Acl::parse(format!("everybody allow all \"{of_rule}\"")).expect("good");
        prop_assert_eq!(
            allow.subscribe(who, &wanted), of_wanted.clone().all(|topic| matches(&of_rule, topic))
        );
        // Whoever is not denied is allowed by the name of what is wanted itself.
        let deny = format!(
            "everybody deny all \"{of_rule}\"\neverybody allow all \"{wanted}\""
        );
        let deny = Acl::parse(deny).expect("good");
        prop_assert_eq!(
            !deny.subscribe(who, &wanted), of_wanted.any(|topic| matches(&of_rule, topic))
        );
    }
}
