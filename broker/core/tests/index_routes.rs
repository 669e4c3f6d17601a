//! The index against a matcher that tries every filter, level by level.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tidegate_core::ids::{SessionKey, ShardId};
use tidegate_core::index::{Index, Member, Options, Route, RouteCache, Subscriber};

/// What a session gets of one message: options and sorted subscription ids.
type Copies = BTreeMap<SessionKey, (u8, bool, bool, Vec<u32>)>;

fn session(n: u32) -> SessionKey {
    let shard = ShardId((n % 3) as u16);
    SessionKey { shard, durable: n.is_multiple_of(2), slot: n / 2, generation: n % 5 }
}

fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([f, filter @ ..], [t, topic @ ..]) => f == t && levels(filter, topic),
            ([], _) | (_, []) => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    levels(&filter, &topic.split('/').collect::<Vec<_>>())
}

#[derive(Default)]
struct Model {
    plain: BTreeMap<(String, SessionKey), Subscriber>,
    shared: BTreeMap<(String, String, SessionKey), ()>,
}

impl Model {
    fn copies(&self, topic: &str) -> Copies {
        let mut copies = Copies::new();
        for ((filter, session), subscriber) in &self.plain {
            if !matches(filter, topic) {
                continue;
            }
            let options = subscriber.options;
            let copy = copies.entry(*session).or_insert((0, true, false, Vec::new()));
            copy.0 = copy.0.max(options.qos());
            copy.1 &= options.no_local();
            copy.2 |= options.retain_as_published();
            copy.3.extend((subscriber.subscription_id != 0).then_some(subscriber.subscription_id));
            copy.3.sort_unstable();
        }
        copies
    }

    fn memberships(&self, topic: &str) -> Vec<(String, String, SessionKey)> {
        self.shared.keys().filter(|(_, filter, _)| matches(filter, topic)).cloned().collect()
    }
}

fn copies(route: &Route) -> Copies {
    let mut copies = Copies::new();
    for group in &route.groups {
        assert!(!group.targets.is_empty(), "a group without targets");
        for (index, target) in group.targets.iter().enumerate() {
            assert_eq!(group.targets.get(index), Some(target));
            let session = SessionKey {
                shard: group.shard,
                durable: group.durable,
                slot: target.slot,
                generation: target.generation,
            };
            let options = target.options;
            let mut ids = group.targets.ids(target).to_vec();
            ids.sort_unstable();
            let copy = (options.qos(), options.no_local(), options.retain_as_published(), ids);
            assert!(copies.insert(session, copy).is_none(), "a session twice");
        }
    }
    copies
}

fn memberships(route: &Route) -> Vec<(String, String, SessionKey)> {
    let mut all = Vec::new();
    for share in &route.shares {
        for member in share.members() {
            all.push((share.name().to_owned(), share.filter().to_string(), member.session));
        }
    }
    all.sort();
    all
}

fn check(index: &Index, model: &Model, topic: &str) {
    let route = index.route(topic);
    assert_eq!(copies(&route), model.copies(topic), "copies of {topic:?}");
    assert_eq!(memberships(&route), model.memberships(topic), "members at {topic:?}");
    assert_eq!(
        route.is_empty(),
        model.copies(topic).is_empty() && model.memberships(topic).is_empty()
    );
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), Just("a"), Just("b"), Just("$s"), Just("é")]
}

fn topic() -> impl Strategy<Value = String> {
    proptest::collection::vec(name(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => name(), 2 => Just("+")];
    (proptest::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

#[derive(Clone, Debug)]
enum Act {
    Subscribe(String, u32, u8, bool, bool, u32),
    Unsubscribe(String, u32),
    Join(String, &'static str, u32),
    Leave(String, &'static str, u32),
}

fn act(sessions: u32) -> impl Strategy<Value = Act> {
    let share = || prop_oneof![Just("g"), Just("h")];
    let s = 0..sessions;
    prop_oneof![
        5 => (filter(), s.clone(), 0u8..3, any::<bool>(), any::<bool>(), 0u32..4)
            .prop_map(|(f, s, q, n, r, i)| Act::Subscribe(f, s, q, n, r, i)),
        4 => (filter(), s.clone()).prop_map(|(f, s)| Act::Unsubscribe(f, s)),
        2 => (filter(), share(), s.clone()).prop_map(|(f, g, s)| Act::Join(f, g, s)),
        2 => (filter(), share(), s).prop_map(|(f, g, s)| Act::Leave(f, g, s)),
    ]
}

fn perform(index: &Index, model: &mut Model, act: &Act) {
    match act {
        Act::Subscribe(filter, n, qos, no_local, rap, id) => {
            let subscriber = Subscriber {
                session: session(*n),
                options: Options::new(*qos, *no_local, *rap),
                subscription_id: *id,
            };
            let new = index.subscribe(&Arc::from(filter.as_str()), subscriber);
            let old = model.plain.insert((filter.clone(), session(*n)), subscriber);
            assert_eq!(new, old.is_none());
        }
        Act::Unsubscribe(filter, n) => {
            let was = index.unsubscribe(filter, session(*n));
            assert_eq!(was, model.plain.remove(&(filter.clone(), session(*n))).is_some());
        }
        Act::Join(filter, group, n) => {
            let member = Arc::new(Member::new(session(*n), Options::new(1, false, false), 0));
            let new = index.subscribe_shared(group, &Arc::from(filter.as_str()), member);
            let key = ((*group).to_owned(), filter.clone(), session(*n));
            assert_eq!(new, model.shared.insert(key, ()).is_none());
        }
        Act::Leave(filter, group, n) => {
            let was = index.unsubscribe_shared(group, filter, session(*n));
            let key = ((*group).to_owned(), filter.clone(), session(*n));
            assert_eq!(was, model.shared.remove(&key).is_some());
        }
    }
    assert_eq!(index.len(), model.plain.len() + model.shared.len());
}

fn take_all_back(index: &Index, model: &mut Model) {
    for (filter, session) in std::mem::take(&mut model.plain).into_keys() {
        assert!(index.unsubscribe(&filter, session));
    }
    for (group, filter, session) in std::mem::take(&mut model.shared).into_keys() {
        assert!(index.unsubscribe_shared(&group, &filter, session));
    }
    assert_eq!((index.len(), index.node_count()), (0, 0), "something was left behind");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn routes_equal_those_of_a_matcher_that_tries_every_filter(
        acts in proptest::collection::vec(act(6), 0..120),
        topics in proptest::collection::vec(topic(), 1..30),
    ) {
        let index = Index::new(7);
        let mut model = Model::default();
        for act in &acts {
            perform(&index, &mut model, act);
        }
        for topic in &topics {
            check(&index, &model, topic);
        }
        take_all_back(&index, &mut model);
    }

    #[test]
    fn long_lists_merge_like_short_ones(
        everywhere in 0u32..1200,
        also in proptest::collection::vec((filter(), 0u32..1200), 0..60),
        left in proptest::collection::vec(0u32..1200, 0..1200),
        topics in proptest::collection::vec(topic(), 1..6),
    ) {
        let index = Index::new(7);
        let mut model = Model::default();
        for n in 0..everywhere {
            let act = Act::Subscribe("#".into(), n, (n % 3) as u8, true, false, n % 4);
            perform(&index, &mut model, &act);
            if n.is_multiple_of(3) {
                perform(&index, &mut model, &Act::Subscribe("a/#".into(), n, 1, false, true, 9));
            }
        }
        for (filter, n) in also {
            perform(&index, &mut model, &Act::Subscribe(filter, n, 2, false, false, 5));
        }
        for n in left {
            perform(&index, &mut model, &Act::Unsubscribe("#".into(), n));
        }
        for topic in topics.iter().map(String::as_str).chain(["a", "a/b"]) {
            check(&index, &model, topic);
        }
        take_all_back(&index, &mut model);
    }

    #[test]
    fn a_cache_never_serves_a_stale_route(
        acts in proptest::collection::vec((act(4), topic(), topic()), 0..150),
        capacity in 1usize..40,
    ) {
        let index = Index::new(7);
        let mut model = Model::default();
        let mut cache = RouteCache::new(capacity, 1);
        for (act, one, two) in &acts {
            perform(&index, &mut model, act);
            for topic in [one, two, one] {
                let route = Arc::clone(cache.route(&index, topic));
                prop_assert_eq!(copies(&route), model.copies(topic));
                prop_assert_eq!(memberships(&route), model.memberships(topic));
            }
        }
        prop_assert!(cache.len() <= capacity.div_ceil(8).next_power_of_two() * 8);
    }

    #[test]
    fn a_version_moves_when_a_route_does(
        acts in proptest::collection::vec(act(4), 1..100),
        topics in proptest::collection::vec(topic(), 1..20),
    ) {
        let index = Index::new(7);
        let mut model = Model::default();
        let seen = |index: &Index, model: &Model| -> Vec<_> {
            let one = |t: &String| (index.version(t), model.copies(t), model.memberships(t));
            topics.iter().map(one).collect()
        };
        let mut before = seen(&index, &model);
        for act in &acts {
            perform(&index, &mut model, act);
            let after = seen(&index, &model);
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(new.0 >= old.0);
                if (&old.1, &old.2) != (&new.1, &new.2) {
                    prop_assert_ne!(old.0, new.0);
                }
            }
            before = after;
        }
    }
}

#[test]
fn churn_below_one_device_leaves_the_others_routes_valid() {
    let index = Index::new(7);
    let topics: Vec<String> = (0..1000).map(|n| format!("dev/{n}/up")).collect();
    let before: Vec<u64> = topics.iter().map(|t| index.version(t)).collect();
    let subscriber =
        Subscriber { session: session(1), options: Options::default(), subscription_id: 0 };
    index.subscribe(&"dev/5/#".into(), subscriber);
    index.subscribe(&"dev/5/up".into(), subscriber);
    let moved = topics.iter().zip(before).filter(|(topic, v)| index.version(topic) != *v).count();
    assert!((1..30).contains(&moved), "{moved} of 1000 topics");
}

#[test]
fn many_names_below_one_level_are_found_and_pruned() {
    let index = Index::new(7);
    let subscriber =
        |n| Subscriber { session: session(n), options: Options::default(), subscription_id: 0 };
    for n in 0..5000 {
        assert!(index.subscribe(&format!("+/{n}/x").into(), subscriber(n)));
        assert!(index.subscribe(&format!("{n}/#").into(), subscriber(n)));
    }
    for n in 0..5000 {
        let route = index.route(&format!("a/{n}/x"));
        assert_eq!(copies(&route).into_keys().collect::<Vec<_>>(), [session(n)]);
        let route = index.route(&format!("{n}"));
        assert_eq!(copies(&route).into_keys().collect::<Vec<_>>(), [session(n)]);
    }
    for n in 0..5000 {
        assert!(!index.unsubscribe(&format!("+/{n}/y"), session(n)));
        assert!(index.unsubscribe(&format!("+/{n}/x"), session(n)));
        assert!(index.unsubscribe(&format!("{n}/#"), session(n)));
    }
    assert_eq!((index.len(), index.node_count()), (0, 0));
}

#[test]
fn a_filter_and_a_topic_of_a_thousand_levels_are_handled() {
    let index = Index::new(7);
    let subscriber =
        Subscriber { session: session(1), options: Options::default(), subscription_id: 0 };
    let deep = "x/".repeat(1000);
    let filters = [format!("{deep}+/a"), format!("{deep}+/b"), format!("{deep}#")];
    for filter in &filters {
        assert!(index.subscribe(&filter.as_str().into(), subscriber));
    }
    assert_eq!(copies(&index.route(&format!("{deep}q/b"))).len(), 1);
    assert_eq!(copies(&index.route("x")).len(), 0);
    for filter in &filters {
        assert!(index.unsubscribe(filter, subscriber.session));
    }
    assert_eq!(index.node_count(), 0);
}
