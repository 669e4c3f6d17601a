//! Any text as a config: either it runs, or every fault is one that is told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::config::{Overlay, read, reload};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match read(text, &Overlay::default()) {
        Ok((file, config)) => {
            assert!(!config.listeners.is_empty());
            // What it means is a config that means the same.
            let shown = tidegate::config::reference::effective(&file, &config);
            let (again, _) = read(&shown, &Overlay::default()).expect("what is shown is a config");
            assert_eq!(tidegate::config::reference::effective(&again, &config), shown);
            assert!(reload::plan(&file, &file).changed.is_empty());
        }
        Err(error) => assert!(error.problems().count() > 0 && !error.to_string().is_empty()),
    }
});
