//! The lab itself, without Weir: it stands, its faults hit what they name and nothing else, and it goes without a trace.
use lb_tests::{
    lab::{Cut, Lab, VIP_V4, VIP_V6, clean, echo_vips, web_vips},
    load::SteadyLoad,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const CURL_TRIES: Duration = Duration::from_secs(10);

fn raise() -> Lab {
    Lab::builder().raise().unwrap_or_else(|error| panic!("{error:#}"))
}

/// What a backend says of itself over both families, asked for directly.
fn ask(lab: &Lab, client: &str, name: &str) -> [Result<String, String>; 2] {
    let backend = lab.topology().backend(name).unwrap();
    [IpAddr::V4(backend.v4), IpAddr::V6(backend.v6)].map(|address| {
        let url = format!("http://{}/", SocketAddr::from((address, 80)));
        let body = lab.curl_with(client, &["--max-time", "0.3", &url]).map_err(|error| format!("{error:#}"));
        body.map(|body| body.trim_end().to_owned())
    })
}

fn answers(lab: &Lab, client: &str, name: &str) -> bool {
    ask(lab, client, name).into_iter().all(|body| body.is_ok_and(|body| body == name))
}

fn is_silent(lab: &Lab, client: &str, name: &str) -> bool {
    ask(lab, client, name).iter().all(Result::is_err)
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + CURL_TRIES;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {CURL_TRIES:?}");
    }
}

fn lab_namespaces(id: &str) -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("{id}-"))).collect()
}

#[test]
fn every_backend_answers_clients_of_both_regions_under_its_own_name() {
    let lab = raise();
    for name in lab.topology().backend_names() {
        for client in ["west", "east"] {
            eventually(&format!("{name} answers {client}"), || answers(&lab, client, &name));
        }
    }
}

#[test]
fn cutting_a_rack_silences_exactly_its_backends_and_restoring_brings_them_back() {
    let lab = raise();
    for cut in [Cut::Drop, Cut::Link] {
        let fault = lab.cut("west/w1/r1", cut).unwrap();
        assert!(fault.begin_ns < fault.end_ns);
        for backend in &lab.topology().backends {
            let is_cut = backend.rack == "west/w1/r1";
            let holds = || {
                if is_cut {
                    is_silent(&lab, "west", &backend.name)
                } else {
                    answers(&lab, "west", &backend.name)
                }
            };
            eventually(&format!("{cut:?}: {} cut: {is_cut}", backend.name), holds);
        }
        lab.restore("west/w1/r1").unwrap();
        for name in lab.topology().names_in("west/w1/r1") {
            eventually(&format!("{name} is back after {cut:?}"), || answers(&lab, "east", &name));
        }
    }
}

#[test]
fn killed_and_frozen_backends_are_silent_until_they_are_brought_back() {
    let lab = raise();
    lab.kill_backend("w1r1b1").unwrap();
    lab.freeze_backend("e1r1b1").unwrap();
    assert!(is_silent(&lab, "west", "w1r1b1") && is_silent(&lab, "west", "e1r1b1"));
    eventually("a neighbour answers", || answers(&lab, "west", "w1r1b2"));
    lab.restart_backend("w1r1b1").unwrap();
    lab.thaw_backend("e1r1b1").unwrap();
    eventually("both answer", || answers(&lab, "west", "w1r1b1") && answers(&lab, "west", "e1r1b1"));
    assert!(lab.kill_backend("nobody").is_err());
}

#[test]
fn uploads_larger_than_a_packet_pass() {
    let lab = raise();
    let url = format!("http://{}/", SocketAddr::from((lab.topology().backend("e2r2b2").unwrap().v4, 80)));
    let upload = lab.directory().join("upload");
    fs::write(&upload, vec![b'x'; 300_000]).unwrap();
    let body = format!("@{}", upload.display());
    assert_eq!(lab.curl_with("west", &["--data-binary", &body, &url]).unwrap(), "e2r2b2\n");
}

#[test]
fn a_dropped_lab_leaves_no_namespace_no_file_and_no_process() {
    let lab = Lab::builder().regions(&["west"]).zones(1).racks(1).backends(1).raise().unwrap();
    let (id, directory) = (lab.id().to_owned(), lab.directory().to_owned());
    assert_eq!(lab_namespaces(&id).len(), 4, "router, client, edge, backend");
    drop(lab);
    assert_eq!(lab_namespaces(&id), Vec::<String>::new());
    assert!(!directory.exists());
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&id), "{mounts}");
    let processes = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&processes.stdout).contains(&format!("{}/", directory.display())));
}

#[test]
fn two_labs_stand_side_by_side() {
    let small = || Lab::builder().regions(&["west"]).zones(1).racks(1).backends(1).raise().unwrap();
    let (first, second) = (small(), small());
    first.cut("west", Cut::Drop).unwrap();
    eventually("the second lab answers", || answers(&second, "west", "w1r1b1"));
    assert!(is_silent(&first, "west", "w1r1b1"));
    drop(second);
    assert!(Path::new(first.directory()).exists());
}

/// Sends both VIPs straight to one backend, as a stand-in for Weir.
fn route_vips_to(lab: &Lab, name: &str) {
    let backend = lab.topology().backend(name).unwrap();
    let routes = [
        format!("route replace {VIP_V4}/32 via {}", backend.v4),
        format!("route replace {VIP_V6}/128 via {}", backend.v6),
    ];
    lab.router_netns().ip(&routes).unwrap();
}

#[test]
fn flow_maps_name_the_backend_behind_each_flow_and_the_flows_that_moved() {
    let lab = raise();
    route_vips_to(&lab, "w1r1b1");
    for [web, echo] in [[web_vips()[0], echo_vips()[0]], [web_vips()[1], echo_vips()[1]]] {
        assert_eq!(lab.curl_vip("east", web).unwrap(), "w1r1b1");
        let before = lab.flow_map("west", web, 20_000..20_500).unwrap();
        assert_eq!(before.counts(), [("w1r1b1".to_owned(), 500)].into(), "{:?}", before.failed);
        let udp = lab.udp_flow_map("west", echo, 20_000..20_100).unwrap();
        assert_eq!(udp.counts(), [("w1r1b1".to_owned(), 100)].into(), "{:?}", udp.failed);

        route_vips_to(&lab, "e1r1b1");
        let after = lab.flow_map("west", web, 20_000..20_500).unwrap();
        assert_eq!(before.moved(&after).len(), 500, "{:?}", after.failed);
        route_vips_to(&lab, "w1r1b1");
    }
}

#[test]
fn a_frozen_or_killed_backend_does_not_answer_datagrams() {
    let lab = raise();
    route_vips_to(&lab, "w1r1b1");
    let answered = || lab.udp_flow_map("west", echo_vips()[0], [20_000]).unwrap().served.len();
    assert_eq!(answered(), 1);
    lab.freeze_backend("w1r1b1").unwrap();
    assert_eq!(answered(), 0);
    lab.thaw_backend("w1r1b1").unwrap();
    assert_eq!(answered(), 1);
    lab.kill_backend("w1r1b1").unwrap();
    assert_eq!(answered(), 0);
}

#[test]
fn steady_traffic_records_every_request_and_what_a_cut_costs() {
    let lab = raise();
    route_vips_to(&lab, "w1r1b1");
    let timeout = Duration::from_millis(300);
    let traffic = lab.steady("west", SteadyLoad { timeout, ..SteadyLoad::default() }).unwrap();
    eventually("both kinds of requests are answered", || {
        let records = traffic.records_from(0);
        [true, false]
            .iter()
            .all(|kept| records.iter().filter(|r| r.is_kept == *kept && r.answer.is_ok()).count() > 50)
    });
    assert!(traffic.records_from(0).iter().all(|record| record.answer.as_deref() == Ok("w1r1b1")));

    let fault = lab.cut("west/w1", Cut::Drop).unwrap();
    eventually("requests are lost", || {
        traffic.records_from(0).iter().filter(|record| record.answer.is_err()).count() > 50
    });
    lab.restore("west/w1").unwrap();
    let at = traffic.count();
    eventually("requests are answered again", || {
        traffic.records_from(at).iter().filter(|record| record.answer.is_ok()).count() > 50
    });
    let records = traffic.stop().unwrap();
    let lost_before = records.iter().filter(|r| r.answer.is_err() && r.done_ns < fault.begin_ns).count();
    assert_eq!(lost_before, 0);
}

/// A lab in a process of its own, its output, and its id.
fn lab_up() -> (Child, BufReader<ChildStdout>, String) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_lab")).arg("up").stdout(Stdio::piped()).spawn().unwrap();
    let (mut line, mut output) = (String::new(), BufReader::new(lab.stdout.take().unwrap()));
    output.read_line(&mut line).unwrap();
    let id = line.split(' ').next().unwrap().to_owned();
    assert_eq!(lab_namespaces(&id).len(), 20, "{line}");
    (lab, output, id)
}

#[test]
fn a_lab_whose_process_was_killed_is_removed_by_the_next_clean() {
    let (mut lab, _output, id) = lab_up();
    lab.kill().unwrap();
    lab.wait().unwrap();
    clean().unwrap();
    assert_eq!(lab_namespaces(&id), Vec::<String>::new());
    assert!(!Path::new("/run/weir-lab").join(&id).exists());
}

#[test]
fn a_terminated_lab_removes_itself() {
    let (mut lab, _output, id) = lab_up();
    kill(Pid::from_raw(lab.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(lab.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(lab_namespaces(&id), Vec::<String>::new());
}
