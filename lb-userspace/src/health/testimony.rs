//! Whether this host's own CPUs got to their work at a moment: what answers that are missing then are worth. Pure.
//!
//! An answer that is not there when it is due is somewhere: on its way, or with the target, which is what a check is about; or in a
//! queue of this host, because the CPU that is to take it out stands still at that very moment: stolen by the hypervisor, in a
//! thread of a higher priority, in another interrupt. Hence whoever misses an answer asks every CPU then. Each has a witness, a thread that may
//! run nowhere else and does nothing but say "here"; what lay in the CPU's queue of packets before has been taken out by then.
//!
//! 1. Who is late himself in missing an answer gives it a [grace](GRACE_MAX): it is due anew.
//! 2. Otherwise all CPUs are asked. If one of them is slow to answer, there is a grace as well.
//! 3. If all answer promptly, but others' answers of the same round arrived meanwhile, which were late, more may follow: another grace.
//! 4. Otherwise the silence is believed. That costs as long as a question takes, some tens of microseconds.
//!
//! After a grace all CPUs are asked in any case, and how long they take means nothing any more: what lay in their queues has come out twice
//! since answers were due, and a host that is busy for good would never be prompt. Only late answers are a reason for another grace then.
//!
//! After [`HELD_MAX`] it is believed whatever CPUs do.

use std::time::Duration;

use crate::runtime::clock::as_ns;

/// The most that a judgement is put off by because this host stood still. A CPU that does not come back in this time is no
/// excuse: what it should have taken in is lost to this host.
pub const HELD_MAX: Duration = Duration::from_millis(100);
/// The time for which answers are waited for after this host stood still: as long as ever, and at most this.
pub const GRACE_MAX: Duration = Duration::from_millis(10);
/// Lateness of less than this part of an interval is none.
pub const SLACK_DIVISOR: u64 = 8;
/// Bounds of what is no lateness, whatever the interval.
const SLACK_NS: std::ops::RangeInclusive<u64> = 250_000..=1_000_000;

/// The question that was asked last, and who has answered it.
#[derive(Clone, Debug, Default)]
pub struct Testimony {
    question: u64,
    asked_ns: u64,
    /// When the last awaited CPU answered.
    answered_ns: Option<u64>,
    cpus: Vec<Cpu>,
}

/// A CPU's witness.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cpu {
    /// The last question that it answered, and when.
    heard: u64,
    heard_ns: u64,
    /// It had not answered the question before when this one was asked: it is not waited for.
    lost: bool,
}

/// What is known about the CPUs since a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// Nobody was asked since then.
    Unasked,
    /// Asked, and some have not answered yet.
    Waiting,
    /// Asked since then, and all that are waited for have answered, the last one after so many nanoseconds.
    Answered(u64),
}

impl Testimony {
    /// Of so many CPUs. Without any, every question is answered at once.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        Self { cpus: vec![Cpu::default(); cpus], answered_ns: Some(0), ..Self::default() }
    }

    /// Whether there is anybody to ask.
    #[must_use]
    pub const fn has_witnesses(&self) -> bool {
        !self.cpus.is_empty()
    }

    /// Whether a question is open: then none is to be asked.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.answered_ns.is_none()
    }

    /// CPUs that are not waited for, because they never answered the question before.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.cpus.iter().filter(|cpu| cpu.lost).count()
    }

    /// A new question at `now_ns`; returns its number. Who owes an answer still is not waited for any more, until it gives one.
    pub fn ask(&mut self, now_ns: u64) -> u64 {
        self.give_up();
        self.question += 1;
        self.asked_ns = now_ns;
        self.answered_ns = None;
        self.settle();
        self.question
    }

    /// Waits no longer for who has not answered yet.
    pub fn give_up(&mut self) {
        for cpu in &mut self.cpus {
            cpu.lost = cpu.heard < self.question;
        }
        self.settle();
    }

    /// A CPU answered this question at `at_ns`.
    pub fn hear(&mut self, cpu: usize, question: u64, at_ns: u64) {
        let Some(cpu) = self.cpus.get_mut(cpu) else { return };
        if question > cpu.heard {
            (cpu.heard, cpu.heard_ns) = (question, at_ns);
        }
        self.settle();
    }

    /// What is known since `since_ns`.
    #[must_use]
    pub const fn since(&self, since_ns: u64) -> Since {
        match self.answered_ns {
            None => Since::Waiting,
            Some(_) if self.question == 0 || self.asked_ns < since_ns => Since::Unasked,
            Some(at_ns) => Since::Answered(at_ns.saturating_sub(self.asked_ns)),
        }
    }

    fn settle(&mut self) {
        if self.answered_ns.is_some() {
            return;
        }
        let awaited = || self.cpus.iter().filter(|cpu| !cpu.lost);
        if awaited().all(|cpu| cpu.heard == self.question) {
            self.answered_ns = Some(awaited().map(|cpu| cpu.heard_ns).fold(self.asked_ns, u64::max));
        }
    }
}

/// What is to be done about silence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ruling {
    /// It means what it says.
    Believe,
    /// CPUs are to answer first, or this moment is to come.
    Wait(u64),
    /// This host stood still: answers are due anew at this moment.
    Grace(u64),
}

/// Silence that is not believed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    since_ns: u64,
    /// Answers that came since CPUs were asked.
    late: u32,
    graces: u32,
}

impl Hold {
    /// Silence that was found at `now_ns`.
    #[must_use]
    pub const fn new(now_ns: u64) -> Self {
        Self { since_ns: now_ns, late: 0, graces: 0 }
    }

    /// One of the answers that were due came, late.
    pub const fn hear_late(&mut self) {
        self.late += 1;
    }

    /// When it was found.
    #[must_use]
    pub const fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// How often answers became due anew.
    #[must_use]
    pub const fn graces(&self) -> u32 {
        self.graces
    }

    /// What the silence means at `now_ns`, if answers were due at `due_ns` and are asked for at this pace. What had arrived at `now_ns` must have been
    /// taken.
    pub fn rule(
        &mut self,
        pace: Pace,
        (due_ns, now_ns): (u64, u64),
        testimony: &mut Testimony,
        ask: &mut impl FnMut(u64),
    ) -> Ruling {
        let until_ns = self.since_ns + as_ns(HELD_MAX);
        if now_ns >= until_ns {
            testimony.give_up();
            return Ruling::Believe;
        }
        let is_again = self.graces > 0 && testimony.has_witnesses();
        let is_late = now_ns.saturating_sub(due_ns) > pace.slack_ns;
        if testimony.since(due_ns) == Since::Unasked && (is_again || !is_late) {
            self.late = 0;
            ask(testimony.ask(now_ns));
        }
        let stood_still = match testimony.since(due_ns) {
            Since::Waiting => return Ruling::Wait(until_ns),
            // Who asks is late himself.
            Since::Unasked => true,
            Since::Answered(took_ns) => self.late > 0 || took_ns > pace.slack_ns && !is_again,
        };
        if !stood_still {
            return Ruling::Believe;
        }
        self.graces += 1;
        self.late = 0;
        Ruling::Grace(now_ns + pace.grace_ns)
    }
}

/// What is late, and how long answers are waited for after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    slack_ns: u64,
    grace_ns: u64,
}

impl Pace {
    /// For answers that are due so long after they were asked for, each interval.
    #[must_use]
    pub fn new(interval_ns: u64, timeout_ns: u64) -> Self {
        let slack_ns = (interval_ns / SLACK_DIVISOR).clamp(*SLACK_NS.start(), *SLACK_NS.end());
        Self { slack_ns, grace_ns: timeout_ns.min(as_ns(GRACE_MAX)) }
    }

    /// How long answers are waited for after this host stood still.
    #[must_use]
    pub const fn grace_ns(&self) -> u64 {
        self.grace_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_when_the_last_cpu_has_answered_it() {
        let mut testimony = Testimony::new(2);
        assert_eq!(testimony.since(0), Since::Unasked);
        let question = testimony.ask(100);
        testimony.hear(0, question, 110);
        assert!(testimony.is_open());
        assert_eq!(testimony.since(100), Since::Waiting);
        testimony.hear(1, question - 1, 115);
        assert_eq!(testimony.since(100), Since::Waiting, "an answer to the question before");
        testimony.hear(1, question, 150);
        assert_eq!(testimony.since(100), Since::Answered(50));
        assert_eq!(testimony.since(101), Since::Unasked, "it was asked before that");
    }

    #[test]
    fn a_cpu_that_never_answers_is_waited_for_once_and_again_when_it_is_back() {
        let mut testimony = Testimony::new(2);
        let first = testimony.ask(100);
        testimony.hear(0, first, 101);
        let second = testimony.ask(200);
        assert_eq!(testimony.lost(), 1);
        testimony.hear(0, second, 203);
        assert_eq!(testimony.since(200), Since::Answered(3));
        // It comes back, late; the next question is for it too.
        testimony.hear(1, second, 250);
        assert_eq!(testimony.since(200), Since::Answered(3));
        let third = testimony.ask(300);
        assert_eq!(testimony.lost(), 0);
        testimony.hear(0, third, 301);
        assert_eq!(testimony.since(300), Since::Waiting);
        testimony.hear(1, third, 302);
        assert_eq!(testimony.since(300), Since::Answered(2));
    }

    #[test]
    fn without_witnesses_every_question_is_answered_at_once() {
        let mut testimony = Testimony::new(0);
        assert_eq!(testimony.since(0), Since::Unasked);
        testimony.ask(100);
        assert_eq!(testimony.since(100), Since::Answered(0));
    }

    #[test]
    fn an_answer_to_an_old_question_takes_nothing_back() {
        let mut testimony = Testimony::new(1);
        let first = testimony.ask(100);
        let second = testimony.ask(200);
        testimony.hear(0, second, 201);
        testimony.hear(0, first, 202);
        testimony.ask(300);
        assert_eq!(testimony.lost(), 0);
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn a_pace_is_bounded_on_both_sides() {
        let pace = |interval_ms, timeout_ms| {
            let Pace { slack_ns, grace_ns } = Pace::new(interval_ms * MS, timeout_ms * MS);
            (slack_ns / 1_000, grace_ns / MS)
        };
        assert_eq!([pace(1, 1), pace(4, 6), pace(1_000, 500)], [(250, 1), (500, 6), (1_000, 10)]);
    }

    /// Rules at `now_ns` on answers that were due at `due_ns`, and counts questions.
    fn rule(hold: &mut Hold, testimony: &mut Testimony, due_ns: u64, now_ns: u64) -> (Ruling, usize) {
        let mut asked = 0;
        let ruling = hold.rule(Pace::new(4 * MS, 4 * MS), (due_ns, now_ns), testimony, &mut |_| asked += 1);
        (ruling, asked)
    }

    #[test]
    fn after_a_grace_cpus_are_asked_even_by_who_is_late() {
        let mut testimony = Testimony::new(1);
        let mut hold = Hold::new(2 * MS);
        assert_eq!(rule(&mut hold, &mut testimony, 0, 2 * MS), (Ruling::Grace(6 * MS), 0));
        assert_eq!(rule(&mut hold, &mut testimony, 6 * MS, 9 * MS), (Ruling::Wait(102 * MS), 1));
        // However long they take: what lay in their queues has come out.
        testimony.hear(0, 1, 30 * MS);
        assert_eq!(rule(&mut hold, &mut testimony, 6 * MS, 30 * MS), (Ruling::Believe, 0));
    }

    #[test]
    fn who_is_late_and_has_nobody_to_ask_gives_one_grace_after_the_other() {
        let mut testimony = Testimony::new(0);
        let mut hold = Hold::new(2 * MS);
        assert_eq!(rule(&mut hold, &mut testimony, 0, 2 * MS), (Ruling::Grace(6 * MS), 0));
        assert_eq!(rule(&mut hold, &mut testimony, 6 * MS, 9 * MS), (Ruling::Grace(13 * MS), 0));
        assert_eq!(rule(&mut hold, &mut testimony, 13 * MS, 13 * MS), (Ruling::Believe, 1));
    }

    /// Only what came since CPUs were asked says that more may follow.
    #[test]
    fn answers_are_late_from_the_question_on() {
        let mut testimony = Testimony::new(1);
        let mut hold = Hold::new(0);
        hold.hear_late();
        assert_eq!(rule(&mut hold, &mut testimony, 0, 0), (Ruling::Wait(100 * MS), 1));
        testimony.hear(0, 1, 1_000);
        assert_eq!(rule(&mut hold, &mut testimony, 0, 1_000), (Ruling::Believe, 0));
        // And after a grace those from the grace on, also where somebody else has asked meanwhile.
        let mut hold = Hold::new(10 * MS);
        assert_eq!(rule(&mut hold, &mut testimony, 10 * MS, 10 * MS), (Ruling::Wait(110 * MS), 1));
        testimony.hear(0, 2, 10 * MS + 1_000);
        hold.hear_late();
        assert_eq!(rule(&mut hold, &mut testimony, 10 * MS, 11 * MS), (Ruling::Grace(15 * MS), 0));
        let question = testimony.ask(15 * MS);
        testimony.hear(0, question, 15 * MS + 1_000);
        assert_eq!(rule(&mut hold, &mut testimony, 15 * MS, 16 * MS), (Ruling::Believe, 0));
    }
}
