//! `weir top`: what happens, as it happens. The model and what is drawn are pure; here is the rim: the terminal, the daemon, time.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
};

use super::{
    client::{Client, ClientError, encode},
    output::{Output, span, uptime, wants_colour},
    shape::parse_period,
};
use crate::{
    api::{
        limits::{DEFAULT_EVENTS, MAX_EVENTS, MAX_WAIT},
        types::{
            Acted, ActionTerms, BackendActionRequest, DomainActionRequest, ShiftCancelRequest, ShiftRequest,
            ShiftView, SubjectKind,
        },
    },
    telemetry::event::Event,
};
use dialog::Order;
use keys::{Effect, Key};
use model::{Model, Sample};
use view::Theme;

mod dialog;
mod keys;
mod model;
#[cfg(test)]
mod tests;
mod tree;
mod view;

const EXAMPLES: &str = "\
Examples:
  weir top
  weir top --interval 5

The tree of regions, zones, racks and backends with rates, shares of the traffic and states; below it the events as they come. Keys: arrows or h j k l \
move, Enter opens and closes, / filters by name or state, d drains, f fails, s shifts, r takes back (each asks why, and whether really), e shows events alone, ? lists \
all keys, q quits. A daemon that goes away is waited for. NO_COLOR=1 leaves colours out. For programs there is `weir stats --watch -o json`.";
/// Between two tries to reach a daemon that went away.
const RETRY: Duration = Duration::from_secs(1);
/// What waits to be taken in.
const QUEUE: usize = 64;

/// Arguments of `weir top`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct TopArgs {
    /// Seconds from one look to the next
    #[arg(short, long, value_parser = parse_period, default_value = "1", value_name = "SECONDS")]
    pub interval: Duration,
}

/// What is not possible.
#[derive(Debug, thiserror::Error)]
#[error("weir top needs a terminal, and draws no JSON or YAML")]
pub struct NoTerminal;

/// What happens.
enum Message {
    Key(Key),
    /// The terminal has another size.
    Resized,
    Sample(Box<Result<Sample, ClientError>>),
    Events(Vec<Event>),
    Done(Result<String, String>),
    End,
}

/// Puts the terminal back when it is dropped.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

pub(super) fn run(args: &TopArgs, client: &Client, out: &Output) -> anyhow::Result<()> {
    if out.is_data() || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(NoTerminal.into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(session(args.interval, client))
}

async fn session(interval: Duration, client: &Client) -> anyhow::Result<()> {
    let begin = Instant::now();
    // A daemon that is not there now is an error, as for every other command.
    let first = sample(client, begin).await?;
    let mut model = Model::new(first, jiff::Timestamp::now());
    let (sender, mut messages) = mpsc::channel(QUEUE);
    let refresh = std::sync::Arc::new(Notify::new());
    let looking = tokio::spawn(look(client.clone(), begin, interval, refresh.clone(), sender.clone()));
    let following = tokio::spawn(follow(client.clone(), sender.clone()));
    let ending = tokio::spawn(end(sender.clone()));
    let theme = Theme { has_colour: wants_colour() };
    let mut screen = Screen(ratatui::try_init()?);
    read_keys(sender.clone())?;
    loop {
        screen.0.draw(|frame| view::draw(frame, &model, theme))?;
        let Some(mut message) = messages.recv().await else { break };
        let quits = loop {
            match take(&mut model, message) {
                Effect::Quit => break true,
                Effect::Do(order) => {
                    let (client, sender, refresh) = (client.clone(), sender.clone(), refresh.clone());
                    tokio::spawn(async move {
                        let outcome = carry_out(&client, order).await.map_err(|error| error.to_string());
                        refresh.notify_one();
                        let _ = sender.send(Message::Done(outcome)).await;
                    });
                }
                Effect::Nothing => {}
            }
            // All that is there already is drawn at once.
            match messages.try_recv() {
                Ok(next) => message = next,
                Err(_) => break false,
            }
        };
        if quits {
            break;
        }
    }
    for task in [looking, following, ending] {
        task.abort();
    }
    Ok(())
}

fn take(model: &mut Model, message: Message) -> Effect {
    let now = jiff::Timestamp::now();
    match message {
        Message::Key(key) => return model.press(key),
        Message::Resized => {}
        Message::Sample(sample) => match *sample {
            Ok(sample) => model.take(sample, now),
            Err(error) => model.lose(error.to_string(), now),
        },
        Message::Events(events) => model.hear(events),
        Message::Done(outcome) => model.done(outcome),
        Message::End => return Effect::Quit,
    }
    Effect::Nothing
}

async fn sample(client: &Client, begin: Instant) -> Result<Sample, ClientError> {
    let status = client.get("/v1/status").await?.parse()?;
    let domains = client.get("/v1/domains").await?.parse()?;
    let backends = client.get("/v1/backends").await?.parse()?;
    Ok(Sample { at: begin.elapsed(), status, domains, backends })
}

async fn look(
    client: Client,
    begin: Instant,
    interval: Duration,
    refresh: std::sync::Arc<Notify>,
    to: mpsc::Sender<Message>,
) {
    loop {
        let pause = tokio::time::sleep(interval);
        tokio::select! {
            () = pause => {}
            () = refresh.notified() => {}
        }
        let sample = sample(&client, begin).await;
        if to.send(Message::Sample(Box::new(sample))).await.is_err() {
            return;
        }
    }
}

/// Events as they come, those that were missed while the daemon was away included.
async fn follow(client: Client, to: mpsc::Sender<Message>) {
    let mut last = None;
    loop {
        let (path, wait) = match last {
            None => (format!("/v1/events?limit={DEFAULT_EVENTS}"), Duration::ZERO),
            Some(last) => {
                let wait = MAX_WAIT.as_secs();
                (format!("/v1/events?after={last}&limit={MAX_EVENTS}&wait={wait}"), MAX_WAIT)
            }
        };
        let answer = client.get_patiently(&path, wait).await;
        let Ok(events) = answer.and_then(|answer| answer.parse::<Vec<Event>>()) else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        last = Some(events.last().map_or(last.unwrap_or(0), |event| event.seq));
        if to.send(Message::Events(events)).await.is_err() {
            return;
        }
    }
}

/// SIGTERM, and a terminal that is closed.
async fn end(to: mpsc::Sender<Message>) {
    let [terminate, hang_up] = [SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let (Ok(mut terminate), Ok(mut hang_up)) = (terminate, hang_up) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    let _ = to.send(Message::End).await;
}

/// Reads the terminal on a thread of its own, which ends with the process.
fn read_keys(to: mpsc::Sender<Message>) -> io::Result<()> {
    let read = move || {
        loop {
            let message = match event::read() {
                Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    key_of(key).map(Message::Key)
                }
                Ok(event::Event::Resize(..)) => Some(Message::Resized),
                Ok(_) => None,
                Err(_) => Some(Message::End),
            };
            let is_over = matches!(message, Some(Message::End));
            if message.is_some_and(|message| to.blocking_send(message).is_err()) || is_over {
                return;
            }
        }
    };
    std::thread::Builder::new().name("weir-keys".to_owned()).spawn(read).map(drop)
}

fn key_of(key: KeyEvent) -> Option<Key> {
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if is_control => Key::Interrupt,
        KeyCode::Char(c) if !is_control && !c.is_control() => Key::Char(c),
        KeyCode::Up | KeyCode::BackTab => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

/// Tells the daemon what to do, and says in a line what it came to.
async fn carry_out(client: &Client, order: Order) -> Result<String, ClientError> {
    match order {
        Order::Act { subject, action, for_s, reason } => {
            let terms = ActionTerms { for_s, ..ActionTerms::default() };
            let answer = match subject.kind {
                SubjectKind::Backend => {
                    let path = format!("/v1/backends/{}/{}", encode(&subject.name), action.name());
                    client.post(&path, &BackendActionRequest::new(reason, terms)).await?
                }
                SubjectKind::Domain => {
                    let request = DomainActionRequest {
                        domain: subject.name.clone(),
                        ..DomainActionRequest::new(reason, terms)
                    };
                    client.post(&format!("/v1/domains/actions/{}", action.name()), &request).await?
                }
            };
            let Acted { subject, from, to, changed, decided_ns, stored_ns, .. } = answer.parse()?;
            let took = span(stored_ns.saturating_sub(decided_ns));
            Ok(match changed {
                true => {
                    format!("{subject}: {} -> {}, in the data plane {took} later", from.name(), to.name())
                }
                false => format!("{subject} is {} already", to.name()),
            })
        }
        Order::Shift { domain, keep_percent, for_s, reason } => {
            let request = ShiftRequest { domain, level: None, keep_percent, for_s, reason, force: false };
            let view: ShiftView = client.post("/v1/shifts", &request).await?.parse()?;
            let keep = view.shift.keep_percent;
            Ok(format!("{} keeps {keep} % of its new flows for {}", view.domain, uptime(view.left_s)))
        }
        Order::CancelShift { domain, reason } => {
            let request = ShiftCancelRequest { domain, reason, force: false };
            let view: ShiftView = client.post("/v1/shifts/cancel", &request).await?.parse()?;
            Ok(format!("{} takes all of its new flows again", view.domain))
        }
    }
}
