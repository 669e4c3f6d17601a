//! openraft on this log.
