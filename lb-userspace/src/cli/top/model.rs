//! What `weir top` knows: the tree as it is, what was before, where the eyes are. Pure: it takes samples, events and the time, and is drawn.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    dialog::Dialog,
    tree::{Counted, Node, Rates, nodes},
};
use crate::{
    api::types::{BackendView, DomainView, Status, SubjectKind, SubjectName, VerdictKind},
    config::Level,
    telemetry::event::Event,
};

/// Points of a sparkline that are kept.
pub(super) const MAX_POINTS: usize = 60;
/// Events that are kept.
pub(super) const MAX_EVENTS: usize = 500;
/// Characters of a filter.
pub(super) const MAX_FILTER: usize = 64;

/// How things stand at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// When it was taken, since some moment; never goes back.
    pub(super) at: Duration,
    pub(super) status: Status,
    pub(super) domains: Vec<DomainView>,
    pub(super) backends: Vec<BackendView>,
}

/// Whether the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Live,
    Lost { since: jiff::Timestamp, why: String },
}

/// Where keys go.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Focus {
    Tree,
    /// The filter is being written.
    Filter,
    /// Events fill the screen; so many of the newest are scrolled away.
    Events(usize),
    Help,
    Dialog(Dialog),
}

/// What is told at the bottom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// Traffic of the whole host.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Total {
    pub(super) rates: Rates,
    pub(super) drops_per_second: f64,
    pub(super) drops: u64,
    /// The reason of most drops lately, or of all times if there were none lately.
    pub(super) worst: Option<String>,
}

/// All of it.
pub(super) struct Model {
    pub(super) link: Link,
    pub(super) now: jiff::Timestamp,
    pub(super) status: Status,
    pub(super) nodes: Vec<Node>,
    pub(super) total: Total,
    pub(super) selected: Option<SubjectName>,
    /// What can be seen into.
    pub(super) open: BTreeSet<SubjectName>,
    pub(super) filter: String,
    pub(super) focus: Focus,
    pub(super) events: VecDeque<Event>,
    pub(super) note: Option<Note>,
    /// Packets per second, oldest first.
    history: BTreeMap<SubjectName, VecDeque<f64>>,
    last: Last,
}

/// Counters of the sample before.
#[derive(Default)]
struct Last {
    at: Duration,
    backends: BTreeMap<String, Counted>,
    drops: BTreeMap<String, u64>,
    forwarded: (u64, u64),
}

impl Model {
    /// From the first sample. Regions and zones are open.
    pub(super) fn new(sample: Sample, now: jiff::Timestamp) -> Self {
        let mut model = Self {
            link: Link::Live,
            now,
            status: sample.status.clone(),
            nodes: Vec::new(),
            total: Total::default(),
            selected: None,
            open: BTreeSet::new(),
            filter: String::new(),
            focus: Focus::Tree,
            events: VecDeque::new(),
            note: None,
            history: BTreeMap::new(),
            last: Last::default(),
        };
        model.last = Last::of(&sample);
        model.take(sample, now);
        let open = model.nodes.iter().filter(|node| matches!(node.level, Some(Level::Region | Level::Zone)));
        model.open = open.map(|node| node.subject.clone()).collect();
        model
    }

    /// Takes a sample in.
    pub(super) fn take(&mut self, sample: Sample, now: jiff::Timestamp) {
        let seconds = sample.at.saturating_sub(self.last.at).as_secs_f64();
        let is_first = seconds <= 0.0;
        let mut rates = BTreeMap::new();
        let mut opening = 0.0;
        for backend in &sample.backends {
            // What is new was not counted before: its counter may be that of an earlier configuration.
            let own = Counted::from(backend);
            let before = self.last.backends.get(&backend.name).copied().unwrap_or(own);
            let rate = if is_first { Rates::default() } else { own.since(before, seconds) };
            opening += rate.opening;
            rates.insert(backend.name.clone(), rate);
        }
        self.nodes = nodes(&sample.domains, &sample.backends, &rates);
        self.total = self.total_of(&sample.status, seconds, opening);
        if !is_first {
            self.remember();
        }
        self.last = Last::of(&sample);
        self.status = sample.status;
        self.now = now;
        self.link = Link::Live;
        self.keep_selection();
    }

    /// The daemon does not answer.
    pub(super) fn lose(&mut self, why: String, now: jiff::Timestamp) {
        self.now = now;
        let since = match &self.link {
            Link::Lost { since, .. } => *since,
            Link::Live => now,
        };
        self.link = Link::Lost { since, why };
    }

    /// Takes events in, oldest first.
    pub(super) fn hear(&mut self, events: Vec<Event>) {
        let last = self.events.back().map_or(0, |event| event.seq);
        self.events.extend(events.into_iter().filter(|event| event.seq > last));
        let surplus = self.events.len().saturating_sub(MAX_EVENTS);
        self.events.drain(..surplus);
    }

    /// What became of an order.
    pub(super) fn done(&mut self, outcome: Result<String, String>) {
        let is_error = outcome.is_err();
        let text = outcome.unwrap_or_else(|error| error);
        self.note = Some(Note { text, is_error });
    }

    /// Packets per second to all backends together, by the same counters as those of each.
    pub(super) fn forwarded(&self) -> f64 {
        self.nodes.iter().filter(|node| node.depth == 0).map(|node| node.rates.packets).sum()
    }

    /// Packets per second of a line of the tree, oldest first.
    pub(super) fn history_of(&self, subject: &SubjectName) -> impl Iterator<Item = f64> {
        self.history.get(subject).into_iter().flatten().copied()
    }

    fn total_of(&self, status: &Status, seconds: f64, opening: f64) -> Total {
        let drops: BTreeMap<_, _> = drops(status).collect();
        let grown =
            |name: &str, count: u64| count - self.last.drops.get(name).copied().unwrap_or(0).min(count);
        let lately: u64 = drops.iter().map(|(name, count)| grown(name, *count)).sum();
        let worst = drops.iter().max_by_key(|(name, count)| (grown(name, **count), **count));
        let is_first = seconds <= 0.0;
        let rate = |count: u64| if is_first { 0.0 } else { count as f64 / seconds };
        let (packets, bytes) = self.last.forwarded;
        Total {
            rates: Rates {
                packets: rate(status.traffic.forwarded_packets.saturating_sub(packets)),
                bytes: rate(status.traffic.forwarded_bytes.saturating_sub(bytes)),
                opening,
            },
            drops_per_second: rate(lately),
            drops: drops.values().sum(),
            worst: worst.map(|(name, _)| (*name).to_owned()),
        }
    }

    fn remember(&mut self) {
        let there: BTreeSet<_> = self.nodes.iter().map(|node| &node.subject).collect();
        self.history.retain(|subject, _| there.contains(subject));
        for node in &self.nodes {
            let points = self.history.entry(node.subject.clone()).or_default();
            points.push_back(node.rates.packets);
            if points.len() > MAX_POINTS {
                points.pop_front();
            }
        }
    }

    /// The lines of the tree that can be seen.
    pub(super) fn visible(&self) -> Vec<&Node> {
        if !self.filter.is_empty() {
            return self.filtered();
        }
        let mut shown = Vec::new();
        // How deep one can see here.
        let mut depth = 0;
        for node in &self.nodes {
            if node.depth > depth {
                continue;
            }
            shown.push(node);
            depth = node.depth + usize::from(self.open.contains(&node.subject));
        }
        shown
    }

    /// Lines whose name or state has the filter in it, and all above them.
    fn filtered(&self) -> Vec<&Node> {
        let wanted = self.filter.to_lowercase();
        let matches = |node: &Node| {
            [node.subject.name.as_str(), &node.state()]
                .iter()
                .any(|text| text.to_lowercase().contains(&wanted))
        };
        let mut shown = BTreeSet::new();
        let mut above: Vec<usize> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            above.truncate(node.depth);
            if matches(node) {
                shown.extend(above.iter().copied());
                shown.insert(index);
            }
            above.push(index);
        }
        shown.into_iter().map(|index| &self.nodes[index]).collect()
    }

    /// Where the selected line is among those that can be seen.
    pub(super) fn position(&self) -> usize {
        let selected = self.selected.as_ref();
        let found = self.visible().iter().position(|node| Some(&node.subject) == selected);
        found.unwrap_or(0)
    }

    /// The selected line.
    pub(super) fn current(&self) -> Option<&Node> {
        let visible = self.visible();
        visible.get(self.position()).copied()
    }

    /// Selects the line at a position, or the last one.
    pub(super) fn select(&mut self, position: usize) {
        let visible = self.visible();
        let node = visible.get(position).or(visible.last());
        self.selected = node.map(|node| node.subject.clone());
    }

    /// A line that cannot be seen any more cannot be selected: then the domain above it is that can be.
    pub(super) fn keep_selection(&mut self) {
        let Some(selected) = self.selected.clone() else { return self.select(0) };
        if self.visible().iter().any(|node| node.subject == selected) {
            return;
        }
        let index = self.nodes.iter().position(|node| node.subject == selected);
        let above = index.and_then(|index| {
            let visible: Vec<_> = self.visible().iter().map(|node| node.subject.clone()).collect();
            self.nodes[..index]
                .iter()
                .rev()
                .map(|node| &node.subject)
                .find(|above| visible.contains(above))
                .cloned()
        });
        match above {
            Some(above) => self.selected = Some(above),
            None => self.select(0),
        }
    }

    /// Whether there is anything in a line to be seen into.
    pub(super) fn has_inside(&self, subject: &SubjectName) -> bool {
        let at = self.nodes.iter().position(|node| node.subject == *subject);
        at.is_some_and(|at| self.nodes.get(at + 1).is_some_and(|next| next.depth > self.nodes[at].depth))
    }

    /// The domain right above a line.
    pub(super) fn above(&self, subject: &SubjectName) -> Option<SubjectName> {
        let at = self.nodes.iter().position(|node| node.subject == *subject)?;
        let depth = self.nodes[at].depth;
        let above = self.nodes[..at].iter().rev().find(|node| node.depth < depth);
        above.map(|node| node.subject.clone())
    }
}

impl Last {
    fn of(sample: &Sample) -> Self {
        let traffic = &sample.status.traffic;
        Self {
            at: sample.at,
            backends: sample.backends.iter().map(|backend| (backend.name.clone(), backend.into())).collect(),
            drops: drops(&sample.status).map(|(name, count)| (name.to_owned(), count)).collect(),
            forwarded: (traffic.forwarded_packets, traffic.forwarded_bytes),
        }
    }
}

/// Packets dropped, by reason.
fn drops(status: &Status) -> impl Iterator<Item = (&str, u64)> {
    let reasons = status.traffic.reasons.iter();
    reasons
        .filter(|count| count.verdict == VerdictKind::Drop)
        .map(|count| (count.reason.as_str(), count.packets))
}

/// A subject as people say it: `rack west/w1/r1`, `backend w1r1b1`.
pub(super) fn name_of(node: &Node) -> String {
    match (node.subject.kind, node.level) {
        (SubjectKind::Domain, Some(level)) => format!("{} {}", level.name(), node.subject.name),
        _ => node.subject.to_string(),
    }
}
