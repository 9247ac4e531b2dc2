//! What is asked before anything is done: for how long, why, and whether really. Pure.

use super::{keys::Key, model::name_of, tree::Node};
use crate::{
    api::{
        router::check_reason,
        types::{SubjectKind, SubjectName},
    },
    cli::{
        output::uptime,
        times::{parse_percent, parse_seconds},
    },
    plan::{
        shift::MAX_SHIFT_TIME,
        state::{Action, MAX_OVERRIDE_TIME},
    },
};

/// Characters of a field.
const MAX_TEXT: usize = 512;

/// What is to be done, as the API takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Act { subject: SubjectName, action: Action, for_s: Option<u64>, reason: String },
    Shift { domain: String, keep_percent: u8, for_s: u64, reason: String },
    CancelShift { domain: String, reason: String },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Drain,
    Fail,
    Shift,
    Restore,
    CancelShift,
}

/// One line to be filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Field {
    pub(super) label: &'static str,
    pub(super) text: String,
}

/// A question under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dialog {
    what: What,
    subject: SubjectName,
    /// What it is about, in words.
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
    /// The field that is being written.
    pub(super) at: usize,
    /// What is wrong with it.
    pub(super) error: Option<String>,
    /// All is filled in: what will be done if that is confirmed.
    order: Option<Order>,
}

/// What becomes of a dialog after a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Stay,
    Close,
    Do(Order),
}

impl Dialog {
    fn new(what: What, node: &Node, fields: &[(&'static str, &str)]) -> Self {
        let field = |(label, text): &(&'static str, &str)| Field { label, text: (*text).to_owned() };
        Self {
            what,
            subject: node.subject.clone(),
            name: name_of(node),
            fields: fields.iter().map(field).collect(),
            at: 0,
            error: None,
            order: None,
        }
    }

    /// To drain a backend or a domain.
    pub(super) fn drain(node: &Node) -> Self {
        Self::new(What::Drain, node, &[("reason", ""), ("for", "24h")])
    }

    /// To take a backend or a domain out at once, with its connections.
    pub(super) fn fail(node: &Node) -> Self {
        Self::new(What::Fail, node, &[("reason", ""), ("for", "24h")])
    }

    /// To shift a domain.
    ///
    /// # Errors
    /// That it is a backend.
    pub(super) fn shift(node: &Node) -> Result<Self, String> {
        match node.subject.kind {
            SubjectKind::Domain => {
                Ok(Self::new(What::Shift, node, &[("keep", "50%"), ("for", "2h"), ("reason", "")]))
            }
            SubjectKind::Backend => {
                Err("a backend cannot be shifted, only a rack, a zone or a region".to_owned())
            }
        }
    }

    /// To take back what an operator said: the drain or failure if there is one, else the shift.
    ///
    /// # Errors
    /// That there is neither.
    pub(super) fn restore(node: &Node) -> Result<Self, String> {
        let what = match (&node.health.word, &node.health.shift) {
            (Some(_), _) => What::Restore,
            (None, Some(_)) => What::CancelShift,
            (None, None) => {
                return Err(format!(
                    "{} has neither a word of an operator nor a shift to take back",
                    name_of(node)
                ));
            }
        };
        Ok(Self::new(what, node, &[("reason", "")]))
    }

    /// The title.
    pub(super) fn title(&self) -> String {
        let verb = match self.what {
            What::Drain => "Drain",
            What::Fail => "Fail",
            What::Shift => "Shift",
            What::Restore => "Restore",
            What::CancelShift => "End the shift of",
        };
        format!("{verb} {}", self.name)
    }

    /// What it does, in words.
    pub(super) const fn consequence(&self) -> &'static str {
        match self.what {
            What::Drain => "New flows go elsewhere, established ones stay.",
            What::Fail => "All flows go elsewhere: established connections break.",
            What::Shift => "Of its new flows it keeps this share, the rest goes elsewhere.",
            What::Restore => "The checks have the say again.",
            What::CancelShift => "It takes all of its new flows again.",
        }
    }

    /// What will be done, if that is the question now.
    pub(super) fn question(&self) -> Option<String> {
        let text = match self.order.as_ref()? {
            Order::Act { action: Action::Restore, reason, .. } => format!("restore {} ({reason})", self.name),
            Order::Act { action, for_s, reason, .. } => {
                let lasts = for_s.map_or_else(String::new, |for_s| format!(" for {}", uptime(for_s)));
                format!("{} {}{lasts} ({reason})", action.name(), self.name)
            }
            Order::Shift { keep_percent, for_s, reason, .. } => {
                format!(
                    "{} keeps {keep_percent} % of its new flows for {} ({reason})",
                    self.name,
                    uptime(*for_s)
                )
            }
            Order::CancelShift { reason, .. } => format!("end the shift of {} ({reason})", self.name),
        };
        Some(text)
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: Key) -> Step {
        if let Some(order) = &self.order {
            match key {
                Key::Char('y' | 'Y') => return Step::Do(order.clone()),
                Key::Esc => return Step::Close,
                Key::Char('n' | 'N') | Key::Backspace => self.order = None,
                _ => {}
            }
            return Step::Stay;
        }
        let last = self.fields.len() - 1;
        match key {
            Key::Esc => return Step::Close,
            Key::Tab | Key::Down => self.at = if self.at == last { 0 } else { self.at + 1 },
            Key::Up => self.at = self.at.checked_sub(1).unwrap_or(last),
            Key::Enter if self.at < last => self.at += 1,
            Key::Enter => match self.read() {
                Ok(order) => (self.order, self.error) = (Some(order), None),
                Err((field, error)) => (self.at, self.error) = (field, Some(error)),
            },
            Key::Backspace => {
                self.fields[self.at].text.pop();
                self.error = None;
            }
            Key::Char(c) if self.fields[self.at].text.chars().count() < MAX_TEXT => {
                self.fields[self.at].text.push(c);
                self.error = None;
            }
            _ => {}
        }
        Step::Stay
    }

    /// What was filled in; or which field is wrong, and how.
    fn read(&self) -> Result<Order, (usize, String)> {
        let read = |label: &str| {
            let at = self.fields.iter().position(|field| field.label == label).unwrap_or(0);
            (at, self.fields[at].text.trim())
        };
        let (at, text) = read("reason");
        let reason = check_reason(text).map_err(|error| (at, error))?;
        let time = |most| {
            let (at, text) = read("for");
            parse_seconds(text, most).map_err(|error| (at, error))
        };
        let domain = self.subject.name.clone();
        let act = |action, for_s| Order::Act {
            subject: self.subject.clone(),
            action,
            for_s,
            reason: reason.clone(),
        };
        Ok(match self.what {
            What::Drain => act(Action::Drain, Some(time(MAX_OVERRIDE_TIME)?)),
            What::Fail => act(Action::Fail, Some(time(MAX_OVERRIDE_TIME)?)),
            What::Restore => act(Action::Restore, None),
            What::CancelShift => Order::CancelShift { domain, reason },
            What::Shift => {
                let (at, text) = read("keep");
                let keep_percent = parse_percent(text, 0, 99).map_err(|error| (at, error))?;
                Order::Shift { domain, keep_percent, for_s: time(MAX_SHIFT_TIME)?, reason }
            }
        })
    }
}
