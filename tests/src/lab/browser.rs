//! A real browser in a namespace: headless Chromium, led through its DevTools protocol on two pipes.
use super::{Lab, netns::Netns, netns::making, registry::ProcessId};
use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at the page.
const POLL: Duration = Duration::from_millis(50);
/// What keeps Chromium to itself.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A browser with one page; it ends when dropped.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// What the page wrote to its console as a warning or an error, exceptions included.
    pub complaints: Vec<String>,
}

impl Lab {
    /// Starts Chromium in a namespace.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start_browser(&self, netns: &Netns) -> Result<Browser> {
        let profile = self.directory().join("chromium");
        fs::create_dir_all(&profile)?;
        let log = File::create(self.directory().join("chromium.log"))?;
        let mut command = Command::new("sh");
        // Chromium reads commands from descriptor 3 and writes answers to 4.
        command.args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >&2", "sh"]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let _making = making();
        let mut child = netns.run(|| command.spawn().context("cannot run sh"))?;
        self.entry.record_process(ProcessId::of(child.id() as i32)?)?;
        let commands = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, answers) = mpsc::channel();
        // Ends with the browser.
        thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser =
            Browser { child, commands, answers, session: None, last: 0, complaints: Vec::new() };
        browser.attach().context("chromium does not answer; see chromium.log of the lab")?;
        Ok(browser)
    }
}

impl Browser {
    fn attach(&mut self) -> Result<()> {
        let targets = self.call("Target.getTargets", json!({}))?;
        let pages = targets["targetInfos"].as_array().into_iter().flatten();
        let page = pages.clone().find(|target| target["type"] == "page").context("no page")?;
        let attached =
            self.call("Target.attachToTarget", json!({"targetId": page["targetId"], "flatten": true}))?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Page", "Accessibility"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// Gives a command of the DevTools protocol and waits for its result.
    ///
    /// # Errors
    /// It is refused, or not answered in time.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method});
        message["params"] = parameters;
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).with_context(|| format!("{method}: chromium has ended"))?;
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left).with_context(|| format!("{method}: no answer"))?;
            if answer["id"] == self.last {
                return match answer.get("error") {
                    Some(error) => Err(anyhow!("{method}: {error}")),
                    None => Ok(answer["result"].clone()),
                };
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let what = &event["params"];
        let bad = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => matches!(what["type"].as_str(), Some("error" | "warning")),
            Some("Log.entryAdded") => matches!(what["entry"]["level"].as_str(), Some("error" | "warning")),
            _ => false,
        };
        if bad {
            self.complaints.push(what.to_string());
        }
    }

    /// Opens an address.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn open(&mut self, address: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": address}))?;
        match opened["errorText"].as_str() {
            Some(error) => bail!("{address}: {error}"),
            None => Ok(()),
        }
    }

    /// The value of a JavaScript expression.
    ///
    /// # Errors
    /// It throws.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", parameters)?;
        match result.get("exceptionDetails") {
            Some(thrown) => bail!("{expression}: {thrown}"),
            None => Ok(result["result"]["value"].take()),
        }
    }

    /// Waits until an expression is true. That it throws meanwhile, because what it asks for is not there yet, is no error.
    ///
    /// # Errors
    /// It is not within `timeout`; what it gave last, and what stands on the page, is quoted.
    pub fn wait(&mut self, expression: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let last = self.value(expression);
            if matches!(last, Ok(Value::Bool(true))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = self.value("document.body ? document.body.innerText : ''");
                let complaints = &self.complaints;
                bail!(
                    "{expression}: not within {timeout:?}, but {last:?}; complaints: {complaints:?}; page: {text:?}"
                );
            }
            thread::sleep(POLL);
        }
    }

    /// The size of the window in CSS pixels, and which colours the system asks for: `light` or `dark`.
    ///
    /// # Errors
    /// Chromium has ended.
    pub fn look(&mut self, width: u32, height: u32, colours: &str) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).map(drop)
    }

    /// Presses a key: `Tab`, `Enter`, `ArrowRight`, `Escape`.
    ///
    /// # Errors
    /// Chromium has ended.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "End" => 35,
            "Home" => 36,
            "ArrowRight" => 39,
            other => bail!("no key {other}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        let down =
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", down)?;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).map(drop)
    }

    /// Writes a picture of the whole page.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        let picture =
            self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}))?;
        let bytes = base64(picture["data"].as_str().context("no picture")?)?;
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Roles and names of what a screen reader meets, in order.
    ///
    /// # Errors
    /// Chromium has ended.
    pub fn heard(&mut self) -> Result<Vec<(String, String)>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree["nodes"].as_array().into_iter().flatten().filter(|node| node["ignored"] == false);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With its helpers, which are in its process group.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Bytes of a text in base64 (RFC 4648, section 4).
fn base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for c in text.bytes().filter(|&c| c != b'=') {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("no base64"),
        };
        word = word << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    Ok(bytes)
}
