//! The door for the fuzzer.
