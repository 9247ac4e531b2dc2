//! See `lb_tests::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lb_tests::fuzz::prepare("agent"), |data: &[u8]| lb_tests::fuzz::target("agent")(data));
