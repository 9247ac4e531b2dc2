//! See `lb_tests::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lb_tests::fuzz::prepare("parse"), |data: &[u8]| lb_tests::fuzz::target("parse")(data));
