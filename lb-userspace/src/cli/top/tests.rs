//! What is seen at two sizes, and what keys do.

use std::time::Duration;

use ratatui::{Terminal, backend::TestBackend, style::Color};
use serde_json::{Value, json};

use super::{
    dialog::Order,
    keys::{Effect, Key},
    model::{Focus, Link, Model, Sample},
    view::{Theme, draw, trend},
};
use crate::{
    api::types::{BackendView, DomainView, Status, SubjectKind, SubjectName},
    plan::state::Action,
    telemetry::event::Event,
};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 60);
const TIME: &str = "2026-05-01T12:00:00Z";

fn now() -> jiff::Timestamp {
    TIME.parse().unwrap()
}

fn health(state: &str) -> Value {
    json!({"state": state, "automatic": state, "since": TIME})
}

fn word(action: &str, state: &str) -> Value {
    let mut health = health(state);
    health["override"] = json!({"action": action, "reason": "fans", "since": TIME});
    health
}

fn admission(new: u8, old: u8) -> Value {
    json!({"new": new, "old": old, "held": false, "clean": true})
}

fn domain(path: &str, health: &Value, new: u8) -> Value {
    let level = ["region", "zone", "rack"][path.matches('/').count()];
    let counts = json!({"up": 2, "suspect": 0, "down": 0, "draining": 0});
    json!({"path": path, "level": level, "health": health, "admission": admission(new, 255), "backends": counts})
}

fn backend(name: &str, rack: &str, health: &Value, packets: u64) -> Value {
    json!({
        "name": name, "address": "10.0.0.1", "rack": rack, "set": "web", "weight": 100, "health": health,
        "admission": admission(255, 255), "effective": {"new": 255, "old": 255}, "checks": [],
        "next_hop": {"interface": "eth0", "mac": "02:00:00:00:00:01"},
        "packets": packets, "bytes": packets * 100, "opening": packets / 10, "flows": 3
    })
}

fn status(forwarded: u64, dropped: u64) -> Value {
    let counts = json!({"up": 3, "suspect": 0, "down": 1, "draining": 0});
    json!({
        "node": {"name": "edge-1", "region": "west", "zone": "west/w1"},
        "daemon": {"version": "0.1.0", "abi": 2, "pid": 1, "started": TIME, "uptime_s": 3723, "adopted": false},
        "config": {"file": "/etc/weir/weir.toml", "digest": "0123"},
        "xdp": {"mode": "native", "bpffs": "/sys/fs/bpf/weir",
                "interfaces": [{"name": "eth0", "ifindex": 2, "attached": true}]},
        "services": 1, "backends": counts, "domains": counts, "isolated": false,
        "flows": {"entries": 12, "capacity": 65536, "openings": 0, "marked_slots": 0, "leaving_backends": 0,
                  "leaving_services": 0},
        "traffic": {"forwarded_packets": forwarded, "forwarded_bytes": forwarded * 100, "reasons": [
            {"reason": "pass_not_vip", "verdict": "pass", "packets": 99, "bytes": 1},
            {"reason": "malformed", "verdict": "drop", "packets": 5, "bytes": 1},
            {"reason": "all_down", "verdict": "drop", "packets": dropped, "bytes": 1},
        ]},
        "control": {"scheduling": "SCHED_FIFO", "rounds": 1, "late_rounds": 0, "max_lateness_ns": 0, "stores": 0,
                    "lost_events": 0, "lost_results": 0},
        "journal": {"last_seq": 0, "write_errors": 0, "unwritten": 0, "skipped_lines": 0},
        "unresolved_next_hops": [], "overrides": []
    })
}

/// After so many seconds: w1r1b1 gets 600 packets each, w1r1b2 300, e1r1b1 100.
fn sample(second: u64) -> Sample {
    let domains = json!([
        domain("west", &health("UP"), 255),
        domain("west-2", &health("UP"), 255),
        domain("west/w1", &health("UP"), 128),
        domain("west/w1/r1", &health("UP"), 255),
        domain("west/w1/r2", &health("DOWN"), 0),
        domain("east", &health("UP"), 255),
        domain("east/e1", &word("drain", "DRAINING"), 0),
        domain("east/e1/r1", &health("UP"), 255),
    ]);
    let backends = json!([
        backend("w1r1b2", "west/w1/r1", &health("UP"), second * 300),
        backend("w1r1b1", "west/w1/r1", &health("UP"), second * 600),
        backend("w1r2b1", "west/w1/r2", &health("DOWN"), 5_000),
        backend("e1r1b1", "east/e1/r1", &health("UP"), second * 100),
    ]);
    let status = status(second * 1_000, second * 7);
    Sample {
        at: Duration::from_secs(100 + second),
        status: serde_json::from_value::<Status>(status).unwrap(),
        domains: serde_json::from_value::<Vec<DomainView>>(domains).unwrap(),
        backends: serde_json::from_value::<Vec<BackendView>>(backends).unwrap(),
    }
}

fn event(seq: u64) -> Event {
    serde_json::from_value(json!({
        "seq": seq, "time": TIME, "monotonic_ns": 1, "kind": "domain-state", "subject": "west/w1/r2", "from": "SUSPECT",
        "to": "DOWN", "cause": format!("5 of 5 backends missed round {seq}")
    }))
    .unwrap()
}

fn model() -> Model {
    let mut model = Model::new(sample(0), now());
    for second in 1..=5 {
        model.take(sample(second), now());
    }
    model.hear((1..=100).map(event).collect());
    model
}

fn screen(model: &Model, size: (u16, u16), has_colour: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(frame, model, Theme { has_colour })).unwrap();
    terminal
}

fn lines(model: &Model, size: (u16, u16)) -> Vec<String> {
    let terminal = screen(model, size, true);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..size.1).map(|y| line(y).trim_end().to_owned()).collect()
}

fn press(model: &mut Model, keys: &str) -> Effect {
    keys.chars().map(|c| model.press(Key::Char(c))).last().unwrap_or(Effect::Nothing)
}

fn select(model: &mut Model, name: &str) {
    let at = model.visible().iter().position(|node| node.subject.name == name).unwrap();
    model.select(at);
}

#[track_caller]
fn assert_shows(lines: &[String], text: &str) {
    assert!(lines.iter().any(|line| line.contains(text)), "no {text:?} in\n{}", lines.join("\n"));
}

#[test]
fn a_small_terminal_shows_tree_rates_and_events() {
    let mut model = model();
    let shown = lines(&model, SMALL);
    assert_eq!(
        shown[0],
        format!("{:<66} live 12:00:00", "weir edge-1 in west/w1, up 1 h 2 min, native on eth0")
    );
    assert!(
        shown[1].starts_with("1.0k pkt/s  800 kbit/s  100 new/s  drops 7.0/s (40: all_down)"),
        "{}",
        shown[1]
    );
    assert!(shown[1].ends_with("flows 12/65536"), "{}", shown[1]);
    assert!(shown[2].starts_with("backends 3 UP 1 DOWN   domains 3 UP 1 DOWN"), "{}", shown[2]);
    assert!(shown[3].starts_with("NAME ") && shown[3].contains(" SHARE TREND"), "{}", shown[3]);
    let tree: Vec<_> = shown[4..].iter().take_while(|line| !line.contains("events")).collect();
    let names: Vec<_> =
        tree.iter().map(|line| line.chars().take(18).collect::<String>().trim_end().to_owned()).collect();
    // In the order of the tree, not of texts; racks are closed.
    assert_eq!(
        names[..8],
        ["▾ east", "  ▾ e1", "    ▸ r1", "▾ west", "  ▾ w1", "    ▸ r1", "    ▸ r2", "  west-2"]
    );
    assert!(tree[5].contains("UP ") && tree[5].contains(" 900    720k     90   90 %"), "{}", tree[5]);
    assert!(tree[5].ends_with('█'), "{}", tree[5]);
    assert!(tree[4].contains("UP 50 %"), "{}", tree[4]);
    assert!(tree[1].contains("DRAINING") && tree[6].contains("DOWN"), "{tree:?}");
    // The newest events are at the bottom.
    assert!(
        shown[22].starts_with("12:00:00 domain west/w1/r2 SUSPECT -> DOWN 5 of 5 backends missed round 100")
    );
    assert!(shown[23].contains("d drain") && shown[23].ends_with("q quit"), "{}", shown[23]);
    select(&mut model, "west/w1/r1");
    press(&mut model, " ");
    let shown = lines(&model, SMALL);
    assert_shows(&shown, "      w1r1b1");
    assert_shows(&shown, "60 %");
}

#[test]
fn a_large_terminal_shows_all_that_and_why() {
    let mut model = model();
    press(&mut model, "a");
    let shown = lines(&model, LARGE);
    assert_eq!(shown.len(), 60);
    assert!(shown[3].contains("TAKES FLOWS") && shown[3].trim_end().ends_with("WHY"), "{}", shown[3]);
    assert_shows(&shown, "drained by operator: fans");
    assert_shows(&shown, " 50 % of new");
    for name in ["w1r1b1", "w1r1b2", "w1r2b1", "e1r1b1"] {
        assert_shows(&shown, name);
    }
    assert!(shown.iter().filter(|line| line.contains("missed round")).count() > 10);
}

#[test]
fn every_size_can_be_drawn() {
    let mut model = model();
    press(&mut model, "a");
    for keys in ["", "?", "\u{1b}", "e"] {
        press(&mut model, keys);
        for size in [(1, 1), (20, 5), (60, 12), (61, 17), (79, 23), (119, 30), (120, 30), (300, 100)] {
            let _ = screen(&model, size, false);
        }
        model.focus = Focus::Tree;
    }
    press(&mut model, "d");
    for size in [(1, 1), (60, 12), (80, 24), (200, 60)] {
        let _ = screen(&model, size, true);
    }
    assert_shows(&lines(&model, (40, 10)), "too small");
}

#[test]
fn without_colours_states_stand_out_and_nothing_is_coloured() {
    let model = model();
    let colours = |has_colour| {
        let terminal = screen(&model, SMALL, has_colour);
        let cells = terminal.backend().buffer().content().iter();
        cells.filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert!(colours(true) > 50);
    assert_eq!(colours(false), 0);
}

#[test]
fn arrows_open_and_close_and_what_is_hidden_is_not_selected() {
    let mut model = model();
    let selected = |model: &Model| model.selected.clone().unwrap().name;
    assert_eq!(selected(&model), "east");
    select(&mut model, "west/w1/r1");
    model.press(Key::Right);
    model.press(Key::Right);
    assert_eq!(selected(&model), "w1r1b1");
    model.press(Key::Down);
    assert_eq!(selected(&model), "w1r1b2");
    model.press(Key::Left);
    assert_eq!(selected(&model), "west/w1/r1");
    model.press(Key::Left);
    assert!(!model.visible().iter().any(|node| node.subject.name == "w1r1b1"));
    model.press(Key::End);
    assert_eq!(selected(&model), "west-2");
    model.press(Key::Down);
    assert_eq!(selected(&model), "west-2");
    model.press(Key::Home);
    model.press(Key::Up);
    assert_eq!(selected(&model), "east");
    // Closed above its head, the domain that is left is selected.
    press(&mut model, "a");
    select(&mut model, "w1r1b2");
    press(&mut model, "a");
    assert_eq!(selected(&model), "west");
    assert_eq!(model.visible().len(), 3);
}

#[test]
fn a_filter_shows_what_has_it_and_what_is_above() {
    let mut model = model();
    press(&mut model, "/B1");
    let names = |model: &Model| model.visible().iter().map(|node| node.label.clone()).collect::<Vec<_>>();
    assert_eq!(names(&model), ["east", "e1", "r1", "e1r1b1", "west", "w1", "r1", "w1r1b1", "r2", "w1r2b1"]);
    assert_shows(&lines(&model, SMALL), " filter: B1");
    model.press(Key::Enter);
    assert_eq!(model.focus, Focus::Tree);
    assert_shows(&lines(&model, SMALL), "filter: B1");
    model.press(Key::Esc);
    assert_eq!(model.visible().len(), 8);
    press(&mut model, "/down");
    assert_eq!(names(&model), ["west", "w1", "r2", "w1r2b1"]);
    press(&mut model, "x");
    assert_shows(&lines(&model, SMALL), "nothing has this");
    model.press(Key::Esc);
    assert_eq!(model.visible().len(), 8);
}

/// Answers a dialog: each text into its field, over what stands there.
fn fill(model: &mut Model, texts: &[&str]) {
    for text in texts {
        for _ in 0..10 {
            model.press(Key::Backspace);
        }
        press(model, text);
        model.press(Key::Enter);
    }
}

#[test]
fn a_drain_needs_a_reason_and_a_yes() {
    let mut model = model();
    select(&mut model, "west/w1/r1");
    press(&mut model, "d");
    assert_shows(&lines(&model, SMALL), "Drain rack west/w1/r1");
    model.press(Key::Enter);
    model.press(Key::Enter);
    assert_shows(&lines(&model, SMALL), "the reason is empty");
    fill(&mut model, &["new fans", "2x"]);
    assert_shows(&lines(&model, SMALL), "write a whole number and a unit");
    fill(&mut model, &["2h"]);
    assert_shows(&lines(&model, SMALL), "drain rack west/w1/r1 for 2 h 0 min (new fans)?");
    // Neither Enter nor any other key is a yes.
    assert_eq!(model.press(Key::Enter), Effect::Nothing);
    assert_eq!(press(&mut model, "q"), Effect::Nothing);
    let subject = SubjectName { kind: SubjectKind::Domain, name: "west/w1/r1".to_owned() };
    let order =
        Order::Act { subject, action: Action::Drain, for_s: Some(7_200), reason: "new fans".to_owned() };
    assert_eq!(press(&mut model, "y"), Effect::Do(order));
    assert_eq!(model.focus, Focus::Tree);
    model.done(Ok("domain west/w1/r1: UP -> DRAINING".to_owned()));
    assert_shows(&lines(&model, SMALL), " domain west/w1/r1: UP -> DRAINING");
    model.done(Err("what remains could not carry it".to_owned()));
    assert_shows(&lines(&model, SMALL), " what remains could not carry it");
    // No and Escape leave all as it is.
    press(&mut model, "d");
    fill(&mut model, &["fans", "1h"]);
    assert_eq!(press(&mut model, "n"), Effect::Nothing);
    assert!(matches!(model.focus, Focus::Dialog(_)));
    model.press(Key::Esc);
    assert_eq!(model.focus, Focus::Tree);
}

#[test]
fn a_failure_says_that_connections_break_and_needs_a_yes_too() {
    let mut model = model();
    press(&mut model, "a");
    select(&mut model, "w1r1b1");
    press(&mut model, "f");
    assert_shows(&lines(&model, SMALL), "Fail backend w1r1b1");
    assert_shows(&lines(&model, SMALL), "established connections break");
    fill(&mut model, &["answers with errors", "30m"]);
    assert_shows(&lines(&model, SMALL), "fail backend w1r1b1 for 30 min 0 s (answers with errors)?");
    assert_eq!(press(&mut model, "f"), Effect::Nothing);
    let subject = SubjectName { kind: SubjectKind::Backend, name: "w1r1b1".to_owned() };
    let reason = "answers with errors".to_owned();
    let order = Order::Act { subject, action: Action::Fail, for_s: Some(1_800), reason };
    assert_eq!(press(&mut model, "y"), Effect::Do(order));
}

#[test]
fn only_domains_are_shifted_and_what_was_said_is_taken_back() {
    let mut model = model();
    press(&mut model, "a");
    select(&mut model, "w1r1b1");
    press(&mut model, "s");
    assert_shows(&lines(&model, SMALL), "a backend cannot be shifted");
    press(&mut model, "r");
    assert_shows(&lines(&model, SMALL), "neither a word of an operator nor a shift");
    select(&mut model, "west/w1");
    press(&mut model, "s");
    fill(&mut model, &["100", "2h", "cooling"]);
    assert_shows(&lines(&model, SMALL), "write a whole number from 0 to 99");
    fill(&mut model, &["25%", "2h", "cooling"]);
    let order = Order::Shift {
        domain: "west/w1".to_owned(),
        keep_percent: 25,
        for_s: 7_200,
        reason: "cooling".to_owned(),
    };
    assert_eq!(press(&mut model, "y"), Effect::Do(order));
    select(&mut model, "east/e1");
    press(&mut model, "r");
    fill(&mut model, &["works again"]);
    let subject = SubjectName { kind: SubjectKind::Domain, name: "east/e1".to_owned() };
    let order =
        Order::Act { subject, action: Action::Restore, for_s: None, reason: "works again".to_owned() };
    assert_eq!(press(&mut model, "Y"), Effect::Do(order));
}

#[test]
fn a_daemon_that_is_away_is_told_of_and_gets_no_orders() {
    let mut model = model();
    press(&mut model, "d");
    model.lose("nobody listens on /run/weir/weir.sock".to_owned(), now());
    let later = now() + jiff::SignedDuration::from_secs(7);
    model.lose("nobody listens on /run/weir/weir.sock".to_owned(), later);
    let shown = lines(&model, LARGE);
    assert_shows(&shown, "LOST since 12:00:00");
    assert_shows(&shown, "nobody listens on /run/weir/weir.sock");
    fill(&mut model, &["fans", "1h"]);
    assert_eq!(press(&mut model, "y"), Effect::Nothing);
    assert_shows(&lines(&model, SMALL), "the daemon is away");
    press(&mut model, "d");
    assert_eq!(model.focus, Focus::Tree);
    model.take(sample(6), later);
    assert_eq!(model.link, Link::Live);
    // A daemon that began anew counts from where it stands: nothing is negative.
    model.take(Sample { at: Duration::from_secs(200), ..sample(1) }, later);
    assert_eq!(model.total.rates.packets, 0.0);
}

#[test]
fn events_fill_the_screen_and_scroll() {
    let mut model = model();
    press(&mut model, "e");
    let shown = lines(&model, SMALL);
    assert_eq!(shown.iter().filter(|line| line.contains("missed round")).count(), 19);
    assert_shows(&shown, "missed round 100");
    model.press(Key::PageUp);
    let shown = lines(&model, SMALL);
    assert_shows(&shown, "missed round 90");
    assert!(!shown.iter().any(|line| line.contains("missed round 91")), "{shown:?}");
    assert_shows(&shown, "10 newer ones below");
    model.hear((50..=600).map(event).collect());
    assert_eq!((model.events.len(), model.events.back().unwrap().seq), (500, 600));
    model.press(Key::Esc);
    assert_eq!(model.focus, Focus::Tree);
    assert_eq!(press(&mut model, "q"), Effect::Quit);
    assert_eq!(model.press(Key::Interrupt), Effect::Quit);
}

#[test]
fn bars_are_as_high_as_their_points() {
    assert_eq!(trend(&[0.0, 50.0, 100.0], 5), "  ▁▅█");
    assert_eq!(trend(&[1.0, 2.0, 7.0], 2), "▃█");
    assert_eq!(trend(&[0.0, 0.0], 2), "▁▁");
    assert_eq!(trend(&[], 3), "   ");
}
