//! The lab itself, without Weir: it stands, its faults hit what they name and nothing else, and it goes without a trace.
use lb_tests::lab::{Cut, Lab};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
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
        let body = lab
            .curl_with(client, &["--max-time", "0.3", &url])
            .map_err(|error| format!("{error:#}"));
        body.map(|body| body.trim_end().to_owned())
    })
}

fn answers(lab: &Lab, client: &str, name: &str) -> bool {
    ask(lab, client, name)
        .into_iter()
        .all(|body| body.is_ok_and(|body| body == name))
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
            eventually(&format!("{name} answers {client}"), || {
                answers(&lab, client, &name)
            });
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
            eventually(&format!("{name} is back after {cut:?}"), || {
                answers(&lab, "east", &name)
            });
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
    eventually("both answer", || {
        answers(&lab, "west", "w1r1b1") && answers(&lab, "west", "e1r1b1")
    });
    assert!(lab.kill_backend("nobody").is_err());
}

#[test]
fn uploads_larger_than_a_packet_pass() {
    let lab = raise();
    let url = format!(
        "http://{}/",
        SocketAddr::from((lab.topology().backend("e2r2b2").unwrap().v4, 80))
    );
    let upload = lab.directory().join("upload");
    fs::write(&upload, vec![b'x'; 300_000]).unwrap();
    let body = format!("@{}", upload.display());
    assert_eq!(
        lab.curl_with("west", &["--data-binary", &body, &url]).unwrap(),
        "e2r2b2\n"
    );
}

#[test]
fn a_dropped_lab_leaves_no_namespace_no_file_and_no_process() {
    let lab = Lab::builder()
        .regions(&["west"])
        .zones(1)
        .racks(1)
        .backends(1)
        .raise()
        .unwrap();
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
    let small = || {
        Lab::builder()
            .regions(&["west"])
            .zones(1)
            .racks(1)
            .backends(1)
            .raise()
            .unwrap()
    };
    let (first, second) = (small(), small());
    first.cut("west", Cut::Drop).unwrap();
    eventually("the second lab answers", || answers(&second, "west", "w1r1b1"));
    assert!(is_silent(&first, "west", "w1r1b1"));
    drop(second);
    assert!(Path::new(first.directory()).exists());
}
