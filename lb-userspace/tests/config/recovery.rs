//! How what was down comes back.

use lb_userspace::plan::breaker::Settings;
use lb_userspace::plan::ramp::Pace;

use crate::base::{BASE, accepted, refused};

#[test]
fn without_the_table_everything_is_back_at_once() {
    assert_eq!(accepted(BASE).recovery, Settings::default());
}

#[test]
fn the_table_says_how_fast() {
    let text = format!(
        "{BASE}[recovery]\nhalf_open_share = 10\nhalf_open = \"2s\"\nslow_start = \"1m\"\nflap_half_life = \"90s\"\n"
    );
    let second = 1_000_000_000;
    let pace = Pace { half_open_share: 25, half_open_ns: 2 * second, slow_start_ns: 60 * second };
    assert_eq!(accepted(&text).recovery, Settings { pace, half_life_ns: 90 * second });
    let pace = Pace { half_open_share: 12, half_open_ns: 0, slow_start_ns: second };
    let text = format!("{BASE}[recovery]\nslow_start = \"1s\"\n");
    assert_eq!(accepted(&text).recovery, Settings { pace, half_life_ns: 0 });
}

#[test]
fn what_is_out_of_range_or_unknown_is_refused() {
    refused(
        &format!("{BASE}[recovery]\nhalf_open_share = 0\nslow_start = \"61m\"\nramp = 1\n"),
        r#"
error: half_open_share = 0 is out of range
  --> weir.toml:51:19
   |
51 | half_open_share = 0
   |                   ^
   = help: it is the share of new flows that are let in at first, 1 to 100 percent

error: slow_start "61m" of [recovery] is out of range
  --> weir.toml:52:14
   |
52 | slow_start = "61m"
   |              ^^^^^
   = help: it goes from 0ns to 3600s

error: unknown key "ramp" in [recovery]
  --> weir.toml:53:1
   |
53 | ramp = 1
   | ^^^^
   = help: known keys: "half_open_share", "half_open", "slow_start", "flap_half_life""#,
    );
}
