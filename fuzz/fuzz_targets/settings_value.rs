#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rubbish::run("settings_value", bytes));
