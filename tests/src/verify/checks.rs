//! The golden packets and the installation on the running kernel.

use super::millis;
use crate::golden::{
    self, Case, cases,
    judge::{changed, judge_program},
    kernel::{EDGE, EDGE_AND_RELAY, Kernel},
};
use anyhow::{Context, Result, ensure};
use lb_userspace::{
    config::Config,
    dataplane::{DataPlane, Options, Start, detach},
    plan::image::Image,
};
use serde::Serialize;
use std::time::Instant;

/// Flows that the golden packets' flow table holds.
const FLOW_ENTRIES: u32 = 1024;
/// Cases whose failure is told in full.
const FAILURES_TOLD_MAX: usize = 5;
/// Cases that are run once more, on a data plane of their own. That takes the verifier's time for each of them.
const SECOND_RUNS_MAX: usize = 20;

/// What came of the golden packets.
#[derive(Debug, Default, Serialize)]
pub struct Golden {
    /// Cases that came out as they must.
    pub passed: usize,
    /// All cases.
    pub total: usize,
    /// How many of them needed a data plane of their own.
    pub alone: usize,
    /// Why it could not begin, or the first cases that failed, with why.
    pub failures: Vec<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// Runs all golden packets through the XDP program.
///
/// One program serves them all, because a kernel under software emulation takes seconds to verify another. What earlier cases left in
/// limits may be met by a later one; a case that fails gets a second run on a data plane of its own, and that one counts.
///
/// # Errors
/// The fixture is not valid.
pub fn golden() -> Result<Golden> {
    let begin = Instant::now();
    let image = golden::fixture()?;
    let all = cases::all();
    let mut result = Golden { total: all.len(), ..Golden::default() };
    match Kernel::load(EDGE, &EDGE_AND_RELAY, &image, FLOW_ENTRIES) {
        Err(error) => result.failures.push(format!("not one could be run: {}", first_line(&error))),
        Ok(mut kernel) => {
            for case in &all {
                let mut judged = run_on(&mut kernel, &image, case);
                if judged.is_err() && result.alone < SECOND_RUNS_MAX {
                    result.alone += 1;
                    judged = run_alone(&image, case);
                }
                match judged {
                    Ok(()) => result.passed += 1,
                    Err(error) => result.failures.push(format!("{}: {error:#}", case.name)),
                }
            }
        }
    }
    result.failures.truncate(FAILURES_TOLD_MAX);
    result.ms = millis(begin);
    Ok(result)
}

fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}

fn run_on(kernel: &mut Kernel, image: &Image, case: &Case) -> Result<()> {
    let image = changed(image, case)?;
    kernel.renew(&image)?;
    judge_program(kernel, &image, case)
}

fn run_alone(image: &Image, case: &Case) -> Result<()> {
    let image = changed(image, case)?;
    let kernel = Kernel::load(EDGE, &EDGE_AND_RELAY, &image, FLOW_ENTRIES)?;
    judge_program(&kernel, &image, case)
}

/// Installs the fixture on the loopback interface as the daemon would, adopts what runs, and removes it.
///
/// # Errors
/// What the kernel or the loader says.
pub fn install() -> Result<()> {
    let text =
        golden::FIXTURE.replacen("interfaces = [\"eth0\"]", "interfaces = [\"lo\"]\nmode = \"generic\"", 1);
    let config = Config::parse(&text, "fixture.toml")?;
    let image = golden::image(&text)?;
    let options = Options::new(&config);
    let result = put_in_place_twice(&image, &options);
    detach(&options.bpffs).context("detaching")?;
    result
}

fn put_in_place_twice(image: &Image, options: &Options) -> Result<()> {
    let plane = DataPlane::install(image, options).context("installing")?;
    ensure!(plane.start() == Start::Fresh, "installing found {:?}", plane.start());
    drop(plane);
    let plane = DataPlane::install(image, options).context("adopting")?;
    let expected = Start::Adopted { program_replaced: false };
    ensure!(plane.start() == expected, "adopting found {:?}", plane.start());
    Ok(())
}
