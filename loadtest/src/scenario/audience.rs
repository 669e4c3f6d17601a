//! Who must get what, of any filters and topics.
//!
//! A tree of levels, so that ten thousand devices with a filter each do not cost ten thousand
//! comparisons a publisher. It answers before the run and never while messages flow.

use std::collections::HashMap;

/// The receivers of filters.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    children: HashMap<Box<str>, Audience>,
    plus: Option<Box<Audience>>,
    /// Whose filter ends here.
    here: Vec<u32>,
    /// Whose filter goes on with `#`.
    below: Vec<u32>,
}

impl Audience {
    /// Enters a filter, without `$share` and its group.
    pub(crate) fn add(&mut self, filter: &str, receiver: u32) {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return node.below.push(receiver),
                "+" => node.plus.get_or_insert_default(),
                name => node.children.entry(name.into()).or_default(),
            };
        }
        node.here.push(receiver);
    }

    /// Whose filters match a topic that does not begin with `$`, ascending.
    pub(crate) fn of(&self, topic: &str) -> Vec<u32> {
        let mut found = Vec::new();
        self.gather(Some(topic), &mut found);
        found.sort_unstable();
        found
    }

    fn gather(&self, rest: Option<&str>, found: &mut Vec<u32>) {
        // [MQTT-4.7.1-2]: a `#` also matches the level above.
        found.extend_from_slice(&self.below);
        let Some(rest) = rest else {
            found.extend_from_slice(&self.here);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        let named = self.children.get(level);
        for next in named.into_iter().chain(self.plus.as_deref()) {
            next.gather(rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_codec_on_every_filter_and_topic() {
        let levels = ["a", "b", "+"];
        let mut filters = vec!["#".to_owned(), "/a".to_owned(), "a//b".to_owned()];
        for one in levels {
            filters.push(one.to_owned());
            filters.push(format!("{one}/#"));
            for two in levels {
                filters.push(format!("{one}/{two}"));
                filters.push(format!("{one}/{two}/#"));
                filters.extend(levels.map(|three| format!("{one}/{two}/{three}")));
            }
        }
        let mut audience = Audience::default();
        for (number, filter) in filters.iter().enumerate() {
            audience.add(filter, number as u32);
        }
        for topic in ["a", "b", "a/b", "a/a", "a/b/a", "c", "a/c/b", "a/b/a/b", "/a", "a//b", "/"] {
            let plain: Vec<u32> = (0..filters.len() as u32)
                .filter(|number| tidegate_codec::matches(&filters[*number as usize], topic))
                .collect();
            assert_eq!(audience.of(topic), plain, "{topic}");
        }
    }
}
