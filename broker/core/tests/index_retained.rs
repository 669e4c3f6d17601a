//! Walks over retained messages against a matcher that looks at all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use tidegate_core::retained::{Cursor, Retained, Step, Sweep};

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

fn name() -> impl Strategy<Value = &'static str> {
    // '!' and '.' sort below '/', '0' above it, in plain bytes.
    proptest::sample::select(vec![
        "a", "a", "b", "b", "", "$s", "a!", "a.", "a0", "%", "é", "\u{1}",
    ])
}

fn topic() -> impl Strategy<Value = String> {
    proptest::collection::vec(name(), 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => name(), 2 => Just("+")];
    (proptest::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_walk_finds_what_a_look_at_everything_finds(
        topics in proptest::collection::btree_set(topic(), 0..120),
        filter in filter(),
        step in 1usize..20,
    ) {
        let mut store = Retained::new();
        for (n, topic) in topics.iter().enumerate() {
            prop_assert_eq!(store.set(topic.as_str().into(), n), None);
        }
        let expected: BTreeSet<&str> =
            topics.iter().map(String::as_str).filter(|topic| matches(&filter, topic)).collect();
        let mut cursor = Cursor::new(filter.as_str().into());
        let mut found = BTreeSet::new();
        let mut steps = 0;
        loop {
            let mut budget = step;
            let ended = loop {
                match cursor.next(&store, &mut budget) {
                    Step::Item(topic, value) => {
                        prop_assert_eq!(store.get(topic), Some(value));
                        prop_assert!(found.insert(&**topic), "{} twice", topic);
                    }
                    Step::Pause => break false,
                    Step::End => break true,
                }
            };
            steps += step - budget;
            if ended {
                break;
            }
            prop_assert_eq!(budget, 0);
        }
        prop_assert_eq!(found, expected);
        prop_assert!(steps <= topics.len(), "looked {} times at {} topics", steps, topics.len());
        prop_assert_eq!(cursor.next(&store, &mut 9), Step::End);
    }

    #[test]
    fn a_walk_survives_changes_between_its_steps(
        topics in proptest::collection::btree_set(topic(), 0..80),
        filter in filter(),
        changes in proptest::collection::vec((any::<bool>(), topic()), 0..120),
    ) {
        let mut store: Retained<()> = Retained::new();
        for topic in &topics {
            store.set(topic.as_str().into(), ());
        }
        // What is there from the first step to the last must be found.
        let mut steady: BTreeSet<String> =
            topics.iter().filter(|topic| matches(&filter, topic)).cloned().collect();
        let mut cursor = Cursor::new(filter.as_str().into());
        let mut found = BTreeSet::new();
        let mut changes = changes.into_iter();
        loop {
            match cursor.next(&store, &mut 1) {
                Step::Item(topic, ()) => {
                    prop_assert!(matches(&filter, topic));
                    prop_assert!(found.insert(topic.to_string()), "{} twice", topic);
                }
                Step::Pause => {}
                Step::End => break,
            }
            if let Some((add, topic)) = changes.next() {
                if add {
                    store.set(topic.as_str().into(), ());
                } else {
                    store.remove(&topic);
                    steady.remove(&topic);
                }
            }
        }
        prop_assert!(found.is_superset(&steady), "{:?} lacks some of {:?}", found, steady);
    }

    #[test]
    fn a_store_equals_a_map_and_a_sweep_drops_exactly_what_is_gone(
        sets in proptest::collection::vec((topic(), any::<u8>()), 0..100),
        removes in proptest::collection::vec(topic(), 0..50),
        budget in 1usize..30,
    ) {
        let mut store = Retained::new();
        let mut model: BTreeMap<String, u8> = BTreeMap::new();
        for (topic, value) in &sets {
            prop_assert_eq!(store.set(topic.as_str().into(), *value), model.insert(topic.clone(), *value));
        }
        for topic in &removes {
            prop_assert_eq!(store.get(topic), model.get(topic));
            prop_assert_eq!(store.remove(topic), model.remove(topic));
        }
        let mut from = Sweep::default();
        let mut dropped = BTreeMap::new();
        let mut looked = 0;
        loop {
            let before = looked;
            let gone = |_: &Arc<str>, value: &u8| {
                looked += 1;
                value.is_multiple_of(2)
            };
            let ended = store.sweep(&mut from, budget, gone, |topic, value| {
                dropped.insert(topic.to_string(), value);
            });
            prop_assert!(looked - before <= budget);
            if ended {
                break;
            }
        }
        prop_assert_eq!(looked, model.len());
        let (even, odd): (BTreeMap<_, _>, BTreeMap<_, _>) =
            model.into_iter().partition(|(_, value)| value.is_multiple_of(2));
        prop_assert_eq!(dropped, even);
        prop_assert_eq!(store.len(), odd.len());
        prop_assert!(odd.iter().all(|(topic, value)| store.get(topic) == Some(value)));
    }
}

#[test]
fn a_plus_among_many_costs_two_looks_a_name() {
    let mut store = Retained::new();
    for room in 0..100 {
        for sensor in 0..100 {
            store.set(format!("a/{room}/s{sensor}").into(), ());
        }
    }
    let mut cursor = Cursor::new("a/+/s50".into());
    let mut budget = 1000;
    let mut found = 0;
    while let Step::Item(..) = cursor.next(&store, &mut budget) {
        found += 1;
    }
    assert_eq!(found, 100);
    assert!(1000 - budget <= 200, "{} looks", 1000 - budget);
}
