//! The file of client prefixes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use lb_userspace::config::Config;
use lb_userspace::config::limits::{MAX_CLIENT_PREFIXES, MAX_PROBLEMS};
use lb_userspace::plan::compile::compile;

use crate::base::with;

/// A client region of the configuration, and a prefix that it has there.
const REGION: &str = "west";
const INLINE: &str = "198.51.100.0/24";

/// The configuration of [`BASE`](crate::base::BASE) with such a file, and what errors say about the file.
fn load(content: &str) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("the temporary folder can be written");
    file.write_all(content.as_bytes()).expect("the temporary folder can be written");
    let path = file.path().display().to_string();
    let text =
        with(&[("name = \"edge-1\"", &format!("name = \"edge-1\"\nclient_prefixes_file = \"{path}\""))]);
    Config::parse(&text, "weir.toml").map_err(|error| error.to_string().replace(&path, "FILE"))
}

fn region_of(config: &Config, address: &str) -> String {
    config[config.client_region_of(address.parse().expect("an address"))].name.clone()
}

#[test]
fn its_prefixes_join_those_of_the_configuration() {
    let config = load(
        "prefix,client_region\n# the office\n\n 192.0.2.0/25 , REGION \r\n2001:db8:77::/48,REGION"
            .replace("REGION", REGION)
            .as_str(),
    )
    .expect("a valid file");
    assert_eq!(region_of(&config, "192.0.2.1"), REGION);
    assert_eq!(region_of(&config, "2001:db8:77::1"), REGION);
    assert_eq!(region_of(&config, "192.0.2.129"), "default");
    assert!(config.client_regions.iter().all(|region| region.prefixes.is_sorted()));
}

#[test]
fn every_bad_line_is_shown_with_its_place_and_a_remedy() {
    let shown = load("192.0.2.0/25 REGION\n192.0.2.1/25,REGION\n  192.0.2.0/33,REGION\n192.0.2.0,REGION\n::ffff:1.2.3.0/120,REGION\n"
        .replace("REGION", REGION).as_str())
    .expect_err("five bad lines");
    for (place, message, remedy) in [
        ("FILE:1:1", "this line has no comma", "such as 198.51.100.0/24,west"),
        ("FILE:2:1", "prefix \"192.0.2.1/25\" has bits set beyond its length", "write 192.0.2.0/25"),
        ("FILE:3:3", "prefix \"192.0.2.0/33\" is longer than its address", "from 0 to 32"),
        ("FILE:4:1", "prefix \"192.0.2.0\" is no address with a length", "a single host is /32"),
        ("FILE:5:1", "prefix \"::ffff:1.2.3.0/120\" is IPv4-mapped", "write it as an IPv4 prefix"),
    ] {
        let problem = shown.split("\n\n").find(|problem| problem.contains(message));
        let problem = problem.unwrap_or_else(|| panic!("{message} is missing: {shown}"));
        assert!(problem.contains(place) && problem.contains(remedy), "{problem}");
    }
}

#[test]
fn an_unknown_region_is_shown_with_the_known_ones() {
    let typo = format!("{REGION}x");
    let shown = load(&format!("192.0.2.0/25,{typo}\n192.0.3.0/24,default\n")).expect_err("no such region");
    assert!(shown.contains("FILE:1:14") && shown.contains(&format!("did you mean {REGION:?}?")), "{shown}");
    assert!(shown.contains("client region \"default\" is not defined"), "{shown}");
}

#[test]
fn a_prefix_twice_is_refused_wherever_the_other_stands() {
    let shown = load(&format!("192.0.2.0/25,{REGION}\n192.0.3.0/24,{REGION}\n192.0.2.0/25,{REGION}\n"));
    let shown = shown.expect_err("listed twice");
    assert!(shown.contains("FILE:3:1") && shown.contains("::: FILE:1:1"), "{shown}");
    let shown = load(&format!("{INLINE},{REGION}\n")).expect_err("listed in both");
    assert!(shown.contains("is also listed in [client_regions]"), "{shown}");
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let shown = load(&"nonsense\n".repeat(MAX_PROBLEMS + 7)).expect_err("nonsense");
    assert!(shown.ends_with("error: 7 problems more not shown"), "{shown}");
}

#[test]
fn a_file_that_is_not_there_or_no_file() {
    for (path, expected) in [
        ("/nonexistent/clients.csv", "cannot read the client prefixes: No such file"),
        ("/dev/zero", "is no regular file"),
        ("clients.csv", "is no absolute path"),
    ] {
        let text =
            with(&[("name = \"edge-1\"", &format!("name = \"edge-1\"\nclient_prefixes_file = \"{path}\""))]);
        let shown = Config::parse(&text, "weir.toml").expect_err(path).to_string();
        assert!(shown.contains(expected) && shown.contains(path), "{shown}");
    }
}

#[test]
fn as_many_as_there_may_be_and_no_more() {
    let inline =
        load("").expect("an empty file").client_regions.iter().map(|r| r.prefixes.len()).sum::<usize>();
    let mut text = String::new();
    for n in 0..MAX_CLIENT_PREFIXES - inline {
        // Lengths and neighbours of all kinds; what is left out goes by what is around it.
        let (a, b, c) = (n >> 16, n >> 8 & 255, n & 255);
        match n % 3 {
            0 => writeln!(text, "20.{a}.{b}.{c}/32,{REGION}"),
            1 => writeln!(text, "2001:db8:{a:x}:{b:02x}{c:02x}::/{},{REGION}", 64 + n % 7 * 8),
            _ => writeln!(text, "30.{}.{}.{}/{},{REGION}", a, b, c & 254, 31 + n % 2 * (c & 1 ^ 1)),
        }
        .expect("memory");
    }
    let start = Instant::now();
    let config = load(&text).expect("just within the limit");
    let loaded = start.elapsed();
    let image = compile(&config).expect("they fit");
    let compiled = start.elapsed() - loaded;
    println!(
        "{MAX_CLIENT_PREFIXES} prefixes of {} bytes: read and checked in {loaded:?}, a table of {} KiB in {compiled:?}",
        text.len(),
        image.prefix.bytes() / 1024
    );
    assert!(
        loaded < Duration::from_secs(60) && compiled < Duration::from_secs(60),
        "{loaded:?}, {compiled:?}"
    );
    writeln!(text, "21.0.0.0/32,{REGION}").expect("memory");
    let shown = load(&text).expect_err("one too many");
    assert!(shown.contains(&format!("MAX_CLIENT_PREFIXES is {MAX_CLIENT_PREFIXES};")), "{shown}");
}
