//! `Debug` for the big structures: what they are, not a dump of a million entries.

use std::fmt::{Debug, Formatter, Result};

use crate::index::{Index, RouteCache, ShareGroup, Targets};
use crate::retained::Retained;

impl Debug for Index {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

impl Debug for RouteCache {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("RouteCache").finish_non_exhaustive()
    }
}

impl Debug for Targets {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Targets").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Debug for ShareGroup {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("ShareGroup")
            .field("name", &self.name())
            .field("filter", self.filter())
            .finish_non_exhaustive()
    }
}

impl<V> Debug for Retained<V> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Retained").field("len", &self.len()).finish_non_exhaustive()
    }
}
