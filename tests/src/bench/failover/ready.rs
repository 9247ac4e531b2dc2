//! Before a fault: everything is UP, every BFD session is up, and every flow is answered by its home. A fault of what does not work, or of
//! flows that are still on their way back from the fault before, would measure something else.
use super::{
    kinds::Bench,
    traffic::{Steady, astray},
};
use anyhow::{Result, bail};
use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How long that may take.
const READY: Duration = Duration::from_secs(30);
/// Between two looks: asking the daemon takes CPU time that others need.
const STEP: Duration = Duration::from_millis(50);
/// It always takes until each flow was answered once, which is half of this.
const MOMENT: Duration = Duration::from_secs(1);

/// Waits for it, and says what was missing if that took long.
pub(super) fn wait(bench: &Bench<'_>, steady: &Steady, homes: &BTreeMap<u16, Arc<str>>) -> Result<()> {
    let begin = Instant::now();
    let mut missing = Vec::new();
    steady.forget();
    loop {
        let next = match bench.missing()? {
            Some(what) => Some(what),
            None => {
                let away = astray(&steady.records(), homes).len();
                (away > 0).then(|| format!("{away} flows were not answered by their home"))
            }
        };
        let Some(next) = next else { break };
        if missing.last() != Some(&next) {
            missing.push(next);
        }
        if begin.elapsed() > READY {
            bail!("not within {READY:?}: everything is well: {}", missing.join("; "));
        }
        thread::sleep(STEP);
    }
    if begin.elapsed() > MOMENT {
        eprintln!(
            "  waited for {:.1} s until all was well: {}",
            begin.elapsed().as_secs_f64(),
            summed_up(&missing)
        );
    }
    Ok(())
}

/// The first and the last of what was missing.
fn summed_up(missing: &[String]) -> String {
    match missing {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] => format!("{first}; ...; {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::summed_up;

    #[test]
    fn of_many_the_first_and_the_last_are_told() {
        let texts = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(summed_up(&texts), "a; ...; c");
        assert_eq!(summed_up(&texts[..2]), "a; ...; b");
        assert_eq!(summed_up(&texts[..1]), "a");
        assert_eq!(summed_up(&[]), "");
    }
}
