//! The agent's decisions on maps in this process's memory, and its XDP program over maps with the same content.

use super::{INGRESS, action, kernel::Ran};
use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{
        ABI_VERSION,
        agent::{AGENT_FILTER_SOURCES, AgentAddress, AgentReason, AgentRoot, DEFAULT_GUE_PORT},
        heartbeat::{DEFAULT_PORT, STATUS_OK},
        pod::Pod,
    },
    datapath::{agent, buffer::Buffer, ports::AgentTables, verdict::Verdict},
};
use lb_userspace::dataplane::object::{AGENT, AGENT_PROGRAM};
use std::cell::Cell;

/// Largest frame that a test run hands back.
const MAX_FRAME: usize = 4096;

/// What the agent's maps hold.
pub struct AgentFixture {
    root: AgentRoot,
    addresses: Vec<AgentAddress>,
    sources: Vec<(AgentAddress, u32)>,
    counted: Cell<u32>,
}

impl AgentFixture {
    /// An agent with these tunnel endpoints, IPv4 as IPv4-mapped, and, if there are any, these allowed sources with their
    /// prefix lengths of 128.
    #[must_use]
    pub fn new(addresses: &[[u8; 16]], sources: &[([u8; 16], u32)]) -> Self {
        let address = |&address: &[u8; 16]| AgentAddress { address };
        Self {
            root: AgentRoot {
                abi_version: ABI_VERSION,
                flags: if sources.is_empty() { 0 } else { AGENT_FILTER_SOURCES },
                heartbeat_port: DEFAULT_PORT.to_be_bytes(),
                status: STATUS_OK,
                gue_port: DEFAULT_GUE_PORT.to_be_bytes(),
                ..AgentRoot::zeroed()
            },
            addresses: addresses.iter().map(address).collect(),
            sources: sources.iter().map(|(bytes, length)| (address(bytes), *length)).collect(),
            counted: Cell::new(0),
        }
    }

    /// The same agent, taking GUE on another port.
    #[must_use]
    pub fn with_gue_port(mut self, port: u16) -> Self {
        self.root.gue_port = port.to_be_bytes();
        self
    }

    /// Runs a frame through the pure code.
    ///
    /// # Panics
    /// The frame was not counted exactly once.
    #[must_use]
    pub fn run(&self, frame: &[u8]) -> Ran {
        let mut buffer = Buffer::new(frame, INGRESS);
        self.counted.set(0);
        let action = match agent::process(&mut buffer, self) {
            Verdict::Pass => action::PASS,
            Verdict::Drop | Verdict::Redirect(_) | Verdict::Arrival => action::DROP,
            Verdict::Tx => action::TX,
        };
        assert_eq!(self.counted.get(), 1, "how often the packet was counted");
        Ran { action, frame: buffer.frame().to_vec() }
    }
}

impl AgentTables for AgentFixture {
    fn root(&self) -> Option<&AgentRoot> {
        Some(&self.root)
    }

    fn is_local(&self, address: &AgentAddress) -> bool {
        self.addresses.contains(address)
    }

    fn is_allowed_source(&self, address: &AgentAddress) -> bool {
        let differing = |prefix: &AgentAddress| {
            u128::from_be_bytes(address.address) ^ u128::from_be_bytes(prefix.address)
        };
        (self.sources.iter())
            .any(|(prefix, length)| differing(prefix).checked_shr(128 - length).unwrap_or(0) == 0)
    }

    fn count(&self, _: AgentReason, _: u64) {
        self.counted.set(self.counted.get() + 1);
    }
}

/// The agent's XDP program, loaded; nothing is attached.
pub struct AgentKernel {
    ebpf: Ebpf,
}

impl AgentKernel {
    /// Loads the program over maps with a fixture's content.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn load(fixture: &AgentFixture) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().verifier_log_level(VerifierLogLevel::STATS).load(AGENT)?;
        let program: &mut Xdp = ebpf.program_mut(AGENT_PROGRAM).context(AGENT_PROGRAM)?.try_into()?;
        program.load().context(AGENT_PROGRAM)?;
        let bytes: [u8; size_of::<AgentRoot>()] = fixture.root.as_bytes().try_into()?;
        let mut roots: Array<&mut MapData, [u8; size_of::<AgentRoot>()]> =
            Array::try_from(ebpf.map_mut("AGENT_ROOT").context("AGENT_ROOT")?)?;
        roots.set(0, bytes, 0)?;
        let mut addresses: HashMap<&mut MapData, [u8; 16], u32> =
            HashMap::try_from(ebpf.map_mut("AGENT_ADDRESSES").context("AGENT_ADDRESSES")?)?;
        for local in &fixture.addresses {
            addresses.insert(local.address, 1, 0)?;
        }
        let mut sources: LpmTrie<&mut MapData, [u8; 16], u32> =
            LpmTrie::try_from(ebpf.map_mut("AGENT_SOURCES").context("AGENT_SOURCES")?)?;
        for (prefix, length) in &fixture.sources {
            sources.insert(&Key::new(*length, prefix.address), 1, 0)?;
        }
        Ok(Self { ebpf })
    }

    /// Runs the program once on a frame.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&self, frame: &[u8]) -> Result<Ran> {
        let program: &Xdp = self.ebpf.program(AGENT_PROGRAM).context(AGENT_PROGRAM)?.try_into()?;
        let mut out = vec![0; MAX_FRAME];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran { action: result.return_value, frame: out })
    }
}
