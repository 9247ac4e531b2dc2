//! A host of two CPUs that stand still now and then, its prober on the first of them, and targets whose answers come in on either.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Beginning of time, so that nothing is before it.
const START_NS: u64 = 1_000 * MS;
/// From a request to its answer, on the wire and at the target.
const WIRE_NS: u64 = 100 * US;
/// What a CPU takes for a packet, and how many CPUs' queues it passes.
const HOP_NS: u64 = 2 * US;
const HOPS: usize = 3;
/// What a CPU takes to wake its witness.
const WITNESS_NS: u64 = 20 * US;
const PACING: Pacing = Pacing { interval_ns: 3 * MS, timeout_ns: 3 * MS, jitter_ns: 0, fall: 2 };

/// When each CPU stands still, by moments since the start.
type Stalls = [Vec<(u64, u64)>; 2];

struct Host {
    stalls: Stalls,
    targets: usize,
    /// Since when these targets are dead.
    dead: BTreeMap<usize, u64>,
}

#[derive(Debug)]
struct Seen {
    at_ns: u64,
    target: usize,
}

impl Host {
    fn new(stalls: Stalls, targets: usize) -> Self {
        Self { stalls, targets, dead: BTreeMap::new() }
    }

    /// When a CPU gets to what is to be done at `at_ns`.
    fn free(&self, cpu: usize, mut at_ns: u64) -> u64 {
        for &(from, to) in &self.stalls[cpu] {
            if (START_NS + from..START_NS + to).contains(&at_ns) {
                at_ns = START_NS + to;
            }
        }
        at_ns
    }

    /// When the answer of a target, asked at `sent_ns`, is in the prober's socket.
    fn answer_ns(&self, target: usize, sent_ns: u64) -> Option<u64> {
        let mut at_ns = sent_ns + WIRE_NS;
        if self.dead.get(&target).is_some_and(|&dead_ns| START_NS + dead_ns <= at_ns) {
            return None;
        }
        for _ in 0..HOPS {
            at_ns = self.free(target % 2, at_ns) + HOP_NS;
        }
        Some(at_ns)
    }

    /// Probes for this long; returns all misses.
    fn run(&self, time_ns: u64) -> Vec<Seen> {
        let mut flights = Flights::new(PACING, self.targets, START_NS, 1).expect("not many");
        let mut testimony = Testimony::new(2);
        let mut arrivals = BTreeSet::<(u64, u64, usize)>::new();
        let mut here = BTreeSet::<(u64, usize, u64)>::new();
        let (mut misses, mut outcomes, mut now_ns) = (Vec::new(), Vec::new(), START_NS);
        while now_ns < START_NS + time_ns {
            let events = [
                Some(flights.next_ns()),
                arrivals.first().map(|&(at_ns, ..)| at_ns),
                here.first().map(|&(at_ns, ..)| at_ns),
            ];
            let next_ns = events.into_iter().flatten().min().expect("there is always a next round");
            now_ns = self.free(0, next_ns.max(now_ns));
            while let Some(&(at_ns, round, target)) = arrivals.first().filter(|(at_ns, ..)| *at_ns <= now_ns)
            {
                arrivals.remove(&(at_ns, round, target));
                flights.answer(round, target, true, now_ns);
            }
            while let Some(&(at_ns, cpu, question)) = here.first().filter(|(at_ns, ..)| *at_ns <= now_ns) {
                here.remove(&(at_ns, cpu, question));
                testimony.hear(cpu, question, at_ns);
            }
            let mut ask = |question| {
                let answer = |cpu| (self.free(cpu, self.free(cpu, now_ns) + WITNESS_NS), cpu, question);
                here.extend([answer(0), answer(1)]);
            };
            while flights.judge(now_ns, &mut testimony, &mut ask, &mut outcomes).is_some() {
                let missed = outcomes.iter().enumerate().filter(|(_, o)| matches!(o, Outcome::Missed { .. }));
                misses.extend(missed.map(|(target, _)| Seen { at_ns: now_ns - START_NS, target }));
            }
            let Some(Tick { due_ns, round: Some(round), .. }) = flights.tick(now_ns) else { continue };
            let mut sending_ns = now_ns;
            flights.open(round, now_ns);
            for target in 0..self.targets {
                flights.set(round, target, Probe::Waiting { sent_ns: sending_ns });
                sending_ns = self.free(0, sending_ns + US);
                arrivals.extend(self.answer_ns(target, sending_ns).map(|at_ns| (at_ns, round, target)));
            }
            flights.sent(round, due_ns, sending_ns);
            now_ns = sending_ns;
        }
        misses
    }

    /// When a target has missed twice, by moments since the start.
    fn down_ns(misses: &[Seen], target: usize) -> Option<u64> {
        misses.iter().filter(|seen| seen.target == target).nth(1).map(|seen| seen.at_ns)
    }
}

/// Up to eight stalls of up to 40 ms in half a second, none of them right after another.
fn stalls() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let stall = (100 * US..60 * MS, 1u64..40 * MS);
    prop::collection::vec(stall, 0..8).prop_map(|stalls| {
        let mut at_ns = 0;
        let place = |(gap, lasts)| {
            let from = at_ns + gap;
            at_ns = from + lasts;
            (from, at_ns)
        };
        stalls.into_iter().map(place).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever CPU stands still, whenever and for how long: nobody who is alive misses anything.
    #[test]
    fn a_cpu_that_stands_still_is_never_taken_for_a_failure(first in stalls(), second in stalls()) {
        let misses = Host::new([first, second], 6).run(600 * MS);
        prop_assert!(misses.is_empty(), "{misses:?}");
    }

    /// Who is dead is found all the same: at once when nothing stands still, and otherwise later by what did.
    #[test]
    fn who_is_dead_is_found_whatever_stands_still(
        first in stalls(), second in stalls(), dead_ns in 0..300 * MS, target in 0usize..6,
    ) {
        let stood_ns: u64 = first.iter().chain(&second).map(|(from, to)| to - from).sum();
        let mut host = Host::new([first, second], 6);
        host.dead.insert(target, dead_ns);
        let misses = host.run(1_500 * MS);
        prop_assert!(misses.iter().all(|seen| seen.target == target), "{misses:?}");
        let down_ns = Host::down_ns(&misses, target);
        // Each stall may cost a grace, besides its own length.
        let latest_ns = dead_ns + 9 * MS + stood_ns + 17 * 2 * 3 * MS;
        prop_assert!(down_ns.is_some_and(|at_ns| at_ns <= latest_ns), "dead at {dead_ns}: {down_ns:?}");
    }
}

#[test]
fn a_failure_is_found_in_two_rounds_and_the_time_of_a_question() {
    for dead_ns in (30 * MS..33 * MS).step_by(97_003) {
        let mut host = Host::new([vec![], vec![]], 4);
        host.dead.extend([(1, dead_ns), (2, dead_ns)]);
        let misses = host.run(100 * MS);
        for target in [1, 2] {
            let took_ns = Host::down_ns(&misses, target).expect("it is dead") - dead_ns;
            assert!(took_ns <= 9 * MS + 2 * WITNESS_NS + HOP_NS, "{took_ns}");
        }
    }
}

/// A CPU that is taken away again and again is never prompt: failures are found all the same, long before nobody is waited for any more.
#[test]
fn a_host_that_is_busy_for_good_finds_who_is_dead() {
    let busy: Vec<_> = (0..200).map(|turn| (turn * 3_700 * US, turn * 3_700 * US + 3_500 * US)).collect();
    for dead_ns in (200 * MS..212 * MS).step_by(397_003) {
        for target in 0..4 {
            let mut host = Host::new([vec![], busy.clone()], 4);
            host.dead.insert(target, dead_ns);
            let misses = host.run(600 * MS);
            assert!(misses.iter().all(|seen| seen.target == target), "{misses:?}");
            let took_ns = Host::down_ns(&misses, target).expect("it is dead") - dead_ns;
            assert!(took_ns <= 40 * MS, "target {target}, dead at {dead_ns}, took {took_ns}");
        }
    }
}

#[test]
fn a_cpu_that_never_comes_back_delays_the_first_failure_and_no_other() {
    let mut host = Host::new([vec![], vec![(10 * MS, 10_000 * MS)]], 4);
    // Answers of odd targets come in on the CPU that is gone.
    host.dead.extend([(0, 500 * MS), (2, 1_000 * MS)]);
    let misses = host.run(1_200 * MS);
    let gone_ns = Host::down_ns(&misses, 1).expect("nobody hears it any more");
    assert!((100 * MS..200 * MS).contains(&gone_ns), "{gone_ns}");
    for (target, dead_ns) in [(0, 500 * MS), (2, 1_000 * MS)] {
        let down_ns = Host::down_ns(&misses, target).expect("it is dead");
        assert!(down_ns > dead_ns && down_ns <= dead_ns + 10 * MS, "{target}: {down_ns}");
    }
}

#[test]
fn rounds_are_judged_in_their_order_and_say_how_long_they_were_held() {
    let mut flights = Flights::new(PACING, 1, START_NS, 1).expect("not many");
    let mut testimony = Testimony::new(1);
    let mut outcomes = Vec::new();
    for at_ns in [START_NS, START_NS + 3 * MS] {
        let tick = flights.tick(at_ns).expect("due");
        let round = tick.round.expect("there is room");
        flights.open(round, at_ns);
        flights.set(round, 0, Probe::Waiting { sent_ns: at_ns });
        flights.sent(round, tick.due_ns, at_ns);
    }
    let mut asked = Vec::new();
    let mut judge = |flights: &mut Flights, testimony: &mut Testimony, at_ns| {
        flights.judge(at_ns, testimony, &mut |question| asked.push(question), &mut outcomes)
    };
    // The second one is answered, and has to wait for the first one.
    assert_eq!(flights.answer(2, 0, true, START_NS + 3 * MS + 5), Taken::InTime);
    assert_eq!(judge(&mut flights, &mut testimony, START_NS + 3 * MS + 10), None);
    assert_eq!(flights.next_ns(), START_NS + 6 * MS, "the next round is to be sent");
    assert_eq!(judge(&mut flights, &mut testimony, START_NS + 6 * MS), None, "the CPU has not answered");
    testimony.hear(0, 1, START_NS + 6 * MS + 1);
    // It was slow: a grace.
    assert_eq!(judge(&mut flights, &mut testimony, START_NS + 6 * MS + 2), None);
    testimony.ask(START_NS + 9 * MS + 2);
    testimony.hear(0, 2, START_NS + 9 * MS + 2);
    let first = judge(&mut flights, &mut testimony, START_NS + 9 * MS + 2).expect("the grace is over");
    assert_eq!((first.due_ns, first.stalled), (START_NS + 3 * MS, true));
    assert_eq!(first.held_ns, 6 * MS - 8);
    let second = judge(&mut flights, &mut testimony, START_NS + 9 * MS + 2).expect("it was due before");
    assert_eq!((second.due_ns, second.held_ns, second.stalled), (START_NS + 6 * MS, 0, false));
    assert_eq!(asked, [1]);
    assert_eq!(flights.answer(1, 0, true, START_NS + 10 * MS), Taken::Late);
}

#[test]
fn late_answers_of_a_round_say_that_others_may_follow() {
    let mut flights = Flights::new(PACING, 2, START_NS, 1).expect("not many");
    let mut testimony = Testimony::new(1);
    let tick = flights.tick(START_NS).expect("due");
    flights.open(1, START_NS);
    for target in 0..2 {
        flights.set(1, target, Probe::Waiting { sent_ns: START_NS });
    }
    flights.sent(1, tick.due_ns, START_NS);
    let mut outcomes = Vec::new();
    let mut judge = |flights: &mut Flights, testimony: &mut Testimony, at_ns| {
        flights.judge(at_ns, testimony, &mut |_| {}, &mut outcomes)
    };
    assert_eq!(judge(&mut flights, &mut testimony, START_NS + 3 * MS), None);
    testimony.hear(0, 1, START_NS + 3 * MS + 10);
    flights.answer(1, 0, true, START_NS + 3 * MS + 20);
    assert_eq!(judge(&mut flights, &mut testimony, START_NS + 3 * MS + 20), None);
    flights.answer(1, 1, true, START_NS + 3 * MS + 30);
    assert!(
        judge(&mut flights, &mut testimony, START_NS + 3 * MS + 30).is_some(),
        "nobody is missing any more"
    );
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Answered { .. })), "{outcomes:?}");
}

#[test]
fn what_has_been_missing_for_long_is_no_reason_to_ask() {
    let mut flights = Flights::new(PACING, 1, START_NS, 1).expect("not many");
    let mut testimony = Testimony::new(0);
    let (mut asked, mut outcomes) = (0, Vec::new());
    for index in 0..20 {
        let at_ns = START_NS + index * 3 * MS;
        if index == 11 {
            // It answers once; what follows is news again.
            assert_eq!(flights.answer(11, 0, true, at_ns), Taken::InTime);
        }
        while flights.judge(at_ns, &mut testimony, &mut |_| asked += 1, &mut outcomes).is_some() {}
        let tick = flights.tick(at_ns).expect("due");
        let round = tick.round.expect("there is room");
        flights.open(round, at_ns);
        flights.set(round, 0, Probe::Waiting { sent_ns: at_ns });
        flights.sent(round, tick.due_ns, at_ns);
    }
    assert_eq!(asked, 2 * PACING.fall);
}

#[test]
fn jitter_delays_rounds_by_less_than_its_share_and_lets_them_not_drift() {
    let pacing = Pacing { jitter_ns: PACING.interval_ns / 2, ..PACING };
    let mut flights = Flights::new(pacing, 1, START_NS, 7).expect("not many");
    let (mut testimony, mut outcomes, mut delays) = (Testimony::new(0), Vec::new(), Vec::new());
    for index in 0..40 {
        let next_ns = flights.next_ns();
        let delay_ns = next_ns - (START_NS + index * PACING.interval_ns);
        assert!(delay_ns < PACING.interval_ns / 2, "round {index}: {delay_ns}");
        delays.push(delay_ns);
        let tick = flights.tick(next_ns).expect("due");
        assert_eq!((tick.lateness_ns, tick.missed), (0, 0));
        let round = tick.round.expect("there is room");
        flights.open(round, next_ns);
        flights.sent(round, tick.due_ns, next_ns);
        let due_ns = next_ns + PACING.timeout_ns;
        assert!(flights.judge(due_ns, &mut testimony, &mut |_| {}, &mut outcomes).is_some());
    }
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 30, "{delays:?}");
}
