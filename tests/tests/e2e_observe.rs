//! What those who look see while a zone dies: Prometheus, its alerts and the dashboard's questions; the status page in a browser.
use anyhow::{Context, Result, ensure};
use lb_tests::{
    e2e,
    lab::{Browser, ConfigOptions, Cut, Daemon, Lab},
    load::SteadyLoad,
};
use lb_userspace::plan::state::State;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

const PORT: u16 = 9440;
const PROMETHEUS: u16 = 9090;
const ZONE: &str = "west/w2";
/// How long a page may take to show what is there.
const SHOWN: Duration = Duration::from_secs(30);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Runs curl on the edge; the body with its status code behind it.
fn curl(lab: &Lab, args: &[&str]) -> Result<(String, String)> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--globoff", "--noproxy", "*", "--max-time", "10"]);
    command.args(["--write-out", "\n%{http_code}"]).args(args);
    let output = lab.edge_netns(0)?.run(move || Ok(command.output()?))?;
    let text = String::from_utf8(output.stdout)?;
    let (body, code) = text.rsplit_once('\n').context("curl prints a code")?;
    Ok((body.to_owned(), code.to_owned()))
}

/// What Prometheus finds for an expression.
fn query(lab: &Lab, expression: &str) -> Result<Vec<Value>> {
    let address = format!("http://127.0.0.1:{PROMETHEUS}/api/v1/query");
    let (body, code) = curl(lab, &[&address, "--data-urlencode", &format!("query={expression}")])?;
    ensure!(code == "200", "{expression}: {code} {body}");
    let mut answer: Value = serde_json::from_str(&body)?;
    Ok(answer["data"]["result"].take().as_array().cloned().unwrap_or_default())
}

fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn approved(output: &Output) {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn alert_rules_are_sound_and_fire_when_they_should() {
    let folder = root().join("dist/prometheus");
    for (verb, file) in [("check", "weir.rules.yml"), ("test", "weir.rules.test.yml")] {
        let output = promtool(&[verb, "rules", folder.join(file).to_str().unwrap()], "");
        assert!(output.status.success(), "{output:?}");
    }
}

/// Every expression of the dashboard, as Grafana would ask it.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(root().join("dist/grafana/weir.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let marks = board["annotations"]["list"].as_array().unwrap();
    let of = |holder: &Value| holder["expr"].as_str().unwrap().to_owned();
    let filled = |text: String| {
        text.replace("$__rate_interval", "20s").replace("$__range", "5m").replace("$instance", ".*")
    };
    targets.chain(marks).map(of).map(filled).collect()
}

fn scene(lab: &Lab) -> Daemon<'_> {
    let extra = format!("[http]\nlisten = \"127.0.0.1:{PORT}\"\n");
    e2e::start(lab, &ConfigOptions { extra, ..e2e::calm() })
}

fn cut(lab: &Lab, daemon: &Daemon<'_>) {
    let fault = lab.cut(ZONE, Cut::Drop).unwrap();
    e2e::wait_for_domain(daemon, ZONE, State::Down, fault.begin_ns);
}

fn load() -> SteadyLoad {
    SteadyLoad {
        kept: 32,
        kept_period: Duration::from_millis(50),
        new_per_second: 100,
        new_ports: 80,
        ..SteadyLoad::default()
    }
}

fn prometheus_sees(lab: &Lab, what: &str) {
    e2e::eventually(what, || {
        ensure!(!query(lab, what)?.is_empty(), "nothing");
        Ok(())
    });
}

#[test]
fn prometheus_scrapes_what_happens_and_its_alerts_say_so() {
    let lab = e2e::raise();
    let daemon = scene(&lab);
    let rules = root().join("dist/prometheus/weir.rules.yml");
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n\
         - {{job_name: weir, static_configs: [{{targets: ['127.0.0.1:{PORT}']}}]}}\n",
        rules.display()
    );
    let _prometheus = lab.start_prometheus(lab.edge_netns(0).unwrap(), &config, PROMETHEUS).unwrap();
    let traffic = ["west", "east"].map(|client| lab.steady(client, load()).unwrap());
    e2e::eventually("Prometheus scrapes", || {
        ensure!(query(&lab, "up{job=\"weir\"} == 1")?.len() == 1);
        Ok(())
    });
    prometheus_sees(&lab, "sum(rate(weir_backend_packets_total[10s])) > 50");
    prometheus_sees(&lab, "sum(rate(weir_service_new_flows_total{service=\"web\"}[10s])) > 1");
    cut(&lab, &daemon);
    prometheus_sees(
        &lab,
        &format!("weir_domain_state{{domain=\"{ZONE}\",level=\"zone\",state=\"DOWN\"}} == 1"),
    );
    prometheus_sees(&lab, "weir_reaction_seconds_count{phase=\"detect\",direction=\"out\"} > 0");
    prometheus_sees(&lab, "weir_probes_missed_total{backend=\"w2r1b1\"} > 2");
    prometheus_sees(
        &lab,
        "weir_backend_effective_admission_ratio{backend=\"w2r1b1\",flows=\"established\"} == 0",
    );
    prometheus_sees(&lab, "ALERTS{alertname=\"WeirDomainDown\",domain=\"west/w2\",alertstate=\"firing\"}");
    let (body, _) = curl(&lab, &[&format!("http://127.0.0.1:{PROMETHEUS}/api/v1/rules")]).unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    let rules = answer["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok"), "{rules:#?}");
    let unseen: BTreeSet<_> =
        dashboard().into_iter().filter(|expression| query(&lab, expression).unwrap().is_empty()).collect();
    assert!(unseen.is_empty(), "the dashboard shows nothing for {unseen:#?}");
    assert_eq!(query(&lab, "count(weir_build_info)").unwrap().len(), 1);

    // What promtool says of the text itself, over TCP and on the socket, which are the same.
    let (text, code) = curl(&lab, &[&format!("http://127.0.0.1:{PORT}/metrics")]).unwrap();
    assert_eq!(code, "200");
    approved(&promtool(&["check", "metrics"], &text));
    let socket = daemon.socket().to_str().unwrap();
    let (other, _) = curl(&lab, &["--unix-socket", socket, "http://weir/metrics"]).unwrap();
    let families = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect()
    };
    assert_eq!(families(&text), families(&other));
    for client in &lab.topology().clients {
        let [a, b, c, _] = client.v4.octets();
        assert!(!text.contains(&format!("{a}.{b}.{c}.")), "a client's address in metrics");
    }
    // Over TCP nothing can be done: what would be an order is the name of a domain there.
    let order = format!("http://127.0.0.1:{PORT}/v1/domains/actions/fail");
    let (body, code) =
        curl(&lab, &[&order, "--data", r#"{"domain":"west/w1","reason":"from afar"}"#]).unwrap();
    assert_eq!(code, "405", "{body}");
    assert_eq!(e2e::state(&daemon, "domain", "west/w1"), State::Up);
    for traffic in traffic {
        traffic.stop().unwrap();
    }
}

/// Where pictures are kept.
fn pictures() -> PathBuf {
    let folder = root().join("target/e2e");
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[track_caller]
fn sees(browser: &mut Browser, expression: &str) {
    browser.wait(expression, SHOWN).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn the_status_page_shows_a_dying_zone_to_eyes_ears_and_fingers() {
    let lab = e2e::raise();
    let daemon = scene(&lab);
    let traffic = ["west", "east"].map(|client| lab.steady(client, load()).unwrap());
    let mut browser = lab.start_browser(lab.edge_netns(0).unwrap()).unwrap();
    browser.look(1360, 1000, "light").unwrap();
    browser.open(&format!("http://127.0.0.1:{PORT}/")).unwrap();
    sees(
        &mut browser,
        "document.querySelector('#verdict-text').textContent === 'All 16 backends take traffic.'",
    );
    sees(
        &mut browser,
        "document.querySelectorAll('.zone').length === 4 && document.querySelectorAll('.tile').length === 16",
    );
    sees(&mut browser, "document.querySelectorAll('#ribbons .ribbon').length === 4");
    sees(&mut browser, "document.querySelectorAll('#chart .area').length === 4");
    // Four services, each with plans for two client regions and for all others, all of them in their first pools.
    sees(
        &mut browser,
        "document.querySelectorAll('.steered').length === 12 && document.querySelectorAll('.split i').length === 24 && \
         document.querySelector('#plans-text').textContent === '12 plans, none spills'",
    );
    let picture = |browser: &mut Browser, name: &str| browser.screenshot(&pictures().join(name)).unwrap();
    picture(&mut browser, "status-healthy.png");

    // It is told, not asked: the stream brings the event, and the page changes.
    cut(&lab, &daemon);
    sees(&mut browser, "document.querySelector('#verdict-text').dataset.is === 'bad'");
    sees(
        &mut browser,
        "document.querySelector('#spoken').textContent.startsWith('Zone west/w2 is down; 12 of 16')",
    );
    sees(&mut browser, "document.querySelector('.zone[data-key=\"west/w2\"]').dataset.state === 'DOWN'");
    sees(&mut browser, "document.querySelectorAll('.tile[data-state=DOWN]').length === 4");
    sees(&mut browser, "document.querySelectorAll('#ribbons .ribbon').length === 3");
    sees(
        &mut browser,
        "document.querySelector('#events .what').parentNode.textContent.includes('detected in')",
    );
    sees(
        &mut browser,
        "document.querySelector('.zone[data-key=\"west/w2\"] .delta').dataset.is === 'less' && \
         document.querySelector('.zone[data-key=\"west/w1\"] .delta').dataset.is === 'more'",
    );
    // Half of west is left, which keeps 70 % of what comes to it: the page says so, and why, to fingers and ears as well.
    sees(
        &mut browser,
        "[...document.querySelectorAll('.steered')].filter((e) => e.querySelector('.who').textContent === 'west' && \
         e.querySelector('.spill').textContent === '30 % spilled' && \
         e.querySelector('.pools').textContent.startsWith('west 70 % · 4/8')).length === 4",
    );
    picture(&mut browser, "status-light.png");
    browser.look(1360, 1000, "dark").unwrap();
    picture(&mut browser, "status-dark.png");
    browser.look(390, 844, "dark").unwrap();
    sees(&mut browser, "document.documentElement.scrollWidth <= 390");
    picture(&mut browser, "status-phone.png");
    browser.look(1360, 1000, "light").unwrap();

    // By keyboard: the skip link, the theme, one stop for all backends, arrows among them, Enter and Escape.
    let focus = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent";
    let mut stops = Vec::new();
    for _ in 0..4 {
        browser.press("Tab").unwrap();
        stops.push(browser.value(focus).unwrap().as_str().unwrap().to_owned());
    }
    assert!(stops[0] == "To the topology" && stops[1].starts_with("Colours"), "{stops:?}");
    assert!(stops[2].starts_with("w1r1b1: UP, "), "{stops:?}");
    assert_eq!(stops[3], "As a table");
    browser.value("document.querySelector('.tile').focus()").unwrap();
    browser.press("ArrowRight").unwrap();
    assert!(browser.value(focus).unwrap().as_str().unwrap().starts_with("w1r1b2: UP"));
    browser.press("End").unwrap();
    browser.press("Home").unwrap();
    browser.press("Enter").unwrap();
    sees(
        &mut browser,
        "document.querySelector('#detail').matches(':popover-open') && document.querySelector('#detail-name').textContent === 'w1r1b1'",
    );
    browser.press("Escape").unwrap();
    sees(&mut browser, "!document.querySelector('#detail').matches(':popover-open')");

    // Why a plan stands as it does.
    browser.value("document.querySelector('.steered summary').focus()").unwrap();
    browser.press("Enter").unwrap();
    sees(
        &mut browser,
        "document.querySelector('.steered details').open && \
         document.querySelector('.steered .reasons').checkVisibility() && \
         document.querySelector('.steered .reasons').textContent.includes('of pool west take new flows')",
    );
    browser.press("Enter").unwrap();

    // By ear: landmarks, headings, and every backend with its state in words.
    let heard = browser.heard().unwrap();
    for role in ["banner", "main", "contentinfo", "heading", "list"] {
        assert!(heard.iter().any(|(have, _)| have == role), "no {role}");
    }
    let dead = heard.iter().filter(|(role, name)| role == "button" && name.contains(": DOWN by west/w2"));
    assert_eq!(dead.count(), 4);
    let chart = heard.iter().find(|(role, name)| {
        (role == "image" || role == "img") && name.starts_with("Packets per second by zone")
    });
    assert!(chart.is_some(), "{heard:?}");
    assert_eq!(browser.complaints, Vec::<String>::new());

    // It comes back by itself after the daemon was away, and says so meanwhile.
    assert!(daemon.sigterm().unwrap().success());
    sees(&mut browser, "document.querySelector('#live').dataset.is === 'lost'");
    browser.complaints.clear();
    let _daemon = scene_again(&lab);
    sees(&mut browser, "document.querySelector('#live').dataset.is === 'live'");

    // Nothing inline runs.
    let inline = "(() => { const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; \
                  document.head.append(s); return window.foreign === undefined; })()";
    assert_eq!(browser.value(inline).unwrap(), json!(true));
    for traffic in traffic {
        traffic.stop().unwrap();
    }
}

/// The daemon again, while a zone is cut.
fn scene_again(lab: &Lab) -> Daemon<'_> {
    let extra = format!("[http]\nlisten = \"127.0.0.1:{PORT}\"\n");
    let config = lab.write_config(&ConfigOptions { extra, ..e2e::calm() }).unwrap();
    let daemon = lab.start_daemon(&config).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    daemon
}
