//! What keys do. Pure.

use super::{
    dialog::{Dialog, Order, Step},
    model::{Focus, Link, MAX_FILTER, Model, Note},
};

/// Lines that a page has.
const PAGE: usize = 10;

/// A key, as far as it means anything here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Esc,
    Tab,
    Backspace,
    Char(char),
    /// Ctrl-C.
    Interrupt,
}

/// What is to be done after a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Nothing,
    Quit,
    Do(Order),
}

impl Model {
    /// Takes a key.
    pub(super) fn press(&mut self, key: Key) -> Effect {
        if key == Key::Interrupt {
            return Effect::Quit;
        }
        match &mut self.focus {
            Focus::Tree => return self.press_in_tree(key),
            Focus::Filter => self.press_in_filter(key),
            Focus::Help => self.focus = Focus::Tree,
            Focus::Events(_) => return self.press_in_events(key),
            Focus::Dialog(dialog) => match dialog.press(key) {
                Step::Stay => {}
                Step::Close => self.focus = Focus::Tree,
                Step::Do(order) => {
                    self.focus = Focus::Tree;
                    if let Link::Lost { .. } = self.link {
                        self.complain("the daemon is away: nothing was done");
                        return Effect::Nothing;
                    }
                    self.note = Some(Note { text: "...".to_owned(), is_error: false });
                    return Effect::Do(order);
                }
            },
        }
        Effect::Nothing
    }

    fn complain(&mut self, text: impl Into<String>) {
        self.note = Some(Note { text: text.into(), is_error: true });
    }

    fn press_in_tree(&mut self, key: Key) -> Effect {
        self.note = None;
        let at = self.position();
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Up | Key::Char('k') => self.select(at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.select(at + 1),
            Key::PageUp => self.select(at.saturating_sub(PAGE)),
            Key::PageDown => self.select(at + PAGE),
            Key::Home | Key::Char('g') => self.select(0),
            Key::End | Key::Char('G') => self.select(usize::MAX),
            Key::Right | Key::Char('l') => self.open_or_enter(),
            Key::Left | Key::Char('h') => self.close_or_leave(),
            Key::Enter | Key::Char(' ') => self.toggle(),
            Key::Char('a') => self.toggle_all(),
            Key::Char('/') => self.focus = Focus::Filter,
            Key::Esc => {
                self.filter.clear();
                self.keep_selection();
            }
            Key::Char('e') => self.focus = Focus::Events(0),
            Key::Char('?') => self.focus = Focus::Help,
            Key::Char('d') => self.ask(|node| Ok(Dialog::drain(node))),
            Key::Char('f') => self.ask(|node| Ok(Dialog::fail(node))),
            Key::Char('s') => self.ask(Dialog::shift),
            Key::Char('r') => self.ask(Dialog::restore),
            _ => {}
        }
        Effect::Nothing
    }

    fn ask(&mut self, dialog: impl FnOnce(&super::tree::Node) -> Result<Dialog, String>) {
        if let Link::Lost { .. } = self.link {
            return self.complain("the daemon is away: nothing can be done now");
        }
        match self.current().map(dialog) {
            Some(Ok(dialog)) => self.focus = Focus::Dialog(dialog),
            Some(Err(error)) => self.complain(error),
            None => {}
        }
    }

    fn toggle(&mut self) {
        let Some(subject) = self.current().map(|node| node.subject.clone()) else { return };
        if !self.open.remove(&subject) && self.has_inside(&subject) {
            self.open.insert(subject);
        }
    }

    fn toggle_all(&mut self) {
        let all: Vec<_> = self.nodes.iter().map(|node| node.subject.clone()).collect();
        let all: Vec<_> = all.into_iter().filter(|subject| self.has_inside(subject)).collect();
        if all.iter().all(|subject| self.open.contains(subject)) {
            self.open.clear();
        } else {
            self.open.extend(all);
        }
        self.keep_selection();
    }

    fn open_or_enter(&mut self) {
        let Some(subject) = self.current().map(|node| node.subject.clone()) else { return };
        if !self.has_inside(&subject) {
            return;
        }
        if !self.open.insert(subject) {
            self.select(self.position() + 1);
        }
    }

    fn close_or_leave(&mut self) {
        let Some(subject) = self.current().map(|node| node.subject.clone()) else { return };
        if !self.open.remove(&subject)
            && let Some(above) = self.above(&subject)
        {
            self.selected = Some(above);
        }
    }

    fn press_in_filter(&mut self, key: Key) {
        match key {
            Key::Enter | Key::Down | Key::Up => self.focus = Focus::Tree,
            Key::Esc => {
                self.filter.clear();
                self.focus = Focus::Tree;
            }
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Char(c) if self.filter.chars().count() < MAX_FILTER => self.filter.push(c),
            _ => {}
        }
        self.keep_selection();
    }

    fn press_in_events(&mut self, key: Key) -> Effect {
        let Focus::Events(scrolled) = &mut self.focus else { return Effect::Nothing };
        let most = self.events.len().saturating_sub(1);
        let by = |scrolled: usize, lines: usize| scrolled.saturating_add(lines).min(most);
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Char('?') => self.focus = Focus::Help,
            Key::Esc | Key::Char('e') => self.focus = Focus::Tree,
            Key::Up | Key::Char('k') => *scrolled = by(*scrolled, 1),
            Key::PageUp => *scrolled = by(*scrolled, PAGE),
            Key::Home => *scrolled = most,
            Key::Down | Key::Char('j') => *scrolled = scrolled.saturating_sub(1),
            Key::PageDown => *scrolled = scrolled.saturating_sub(PAGE),
            Key::End => *scrolled = 0,
            _ => {}
        }
        Effect::Nothing
    }
}
