//! `weir explain`

use std::{net::SocketAddr, str::FromStr};

use clap::Args;

use super::{
    client::{Client, encode},
    output::Output,
};
use crate::{
    api::types::{Explanation, VerdictKind},
    config::Protocol,
};

const EXAMPLES: &str = "\
Examples:
  weir explain 198.51.100.7:40000 192.0.2.10:80/tcp
  weir explain '[2001:db8:a::7]:40000' '[2001:db8::10]:443/tcp' --established
  weir explain 198.51.100.7:40000 192.0.2.10:53/udp -o json
  weir explain 198.51.100.7:40000 192.0.2.10:80/tcp --from-relay

The data plane's own code decides, with the state of this moment; no packet is sent.";

/// Arguments of `weir explain`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArgs {
    /// The client, as ADDRESS:PORT
    #[arg(value_name = "SRC:PORT", value_parser = parse_client)]
    pub source: SocketAddr,
    /// What it speaks to, as VIP:PORT/tcp or VIP:PORT/udp
    #[arg(value_name = "VIP:PORT/PROTO")]
    pub destination: Destination,
    /// Ask about a packet of an established flow, not about one that opens a flow
    #[arg(long)]
    pub established: bool,
    /// Ask about a packet that another region's Weir relayed to this host: it may use local pools only
    #[arg(long)]
    pub from_relay: bool,
}

fn parse_client(text: &str) -> Result<SocketAddr, String> {
    let form = "write the client's address and port, such as 198.51.100.7:40000 or [2001:db8::7]:40000";
    text.parse().map_err(|_| form.to_owned())
}

/// VIP, port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// VIP and port.
    pub address: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) =
            text.rsplit_once('/').ok_or("it must end with /tcp, /udp or /sctp, as in 192.0.2.10:80/tcp")?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("\"{other}\" is none of tcp, udp and sctp")),
        };
        let address = address.parse().map_err(|_| {
            format!("\"{address}\" is no address with a port, as in 192.0.2.10:80 or [2001:db8::10]:80")
        })?;
        Ok(Self { address, protocol })
    }
}

pub(super) async fn run(args: &ExplainArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let ExplainArgs { source, destination: Destination { address, protocol }, established, from_relay } =
        args;
    let relayed = if *from_relay { "&from_relay=true" } else { "" };
    let path = format!(
        "/v1/explain?src={}&dst={}&protocol={protocol}&opening={}{relayed}",
        encode(&source.to_string()),
        encode(&address.to_string()),
        !established
    );
    let answer = client.get(&path).await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let explanation: Explanation = answer.parse()?;
    for line in lines(&explanation) {
        out.line(line)?;
    }
    Ok(())
}

/// The story in numbered steps, and how it ends.
fn lines(explanation: &Explanation) -> Vec<String> {
    let Explanation { query, hash, steps, .. } = explanation;
    let packet = if query.opening { "opens a flow" } else { "belongs to an established flow" };
    let mut lines = vec![format!(
        "{} -> {}/{}: a packet that {packet}, hash {hash}",
        query.src, query.dst, query.protocol
    )];
    let width = steps.len().to_string().len();
    if query.from_relay {
        lines[0].push_str(", relayed from another region");
    }
    lines.extend(
        steps.iter().enumerate().map(|(index, step)| format!("{:>width$}. {}", index + 1, step.text)),
    );
    lines.push(ending(explanation));
    lines
}

fn ending(explanation: &Explanation) -> String {
    let Explanation { service, backend, outer, next_hop, verdict, reason, .. } = explanation;
    let of = service.as_ref().map_or_else(String::new, |service| format!(" of service {service}"));
    let chosen = backend.as_ref().map_or_else(
        || "a backend".to_owned(),
        |backend| format!("{} in {} ({})", backend.name, backend.rack, backend.address),
    );
    match verdict {
        VerdictKind::Forward => {
            let outer =
                outer.map_or_else(String::new, |o| format!(", from {} to {}", o.source, o.destination));
            let way = next_hop
                .as_ref()
                .map_or_else(String::new, |hop| format!(", by {} to {}", hop.interface, hop.mac));
            format!("=> forwarded to backend {chosen}{of}{outer}{way}")
        }
        VerdictKind::Drop if backend.is_some() => {
            format!("=> dropped on the way to backend {chosen}{of}: {}", words(reason))
        }
        VerdictKind::Drop => format!("=> dropped{of}: {}", words(reason)),
        VerdictKind::Answer => format!("=> answered by Weir itself: {}", words(reason)),
        VerdictKind::Pass => format!("=> passed to the kernel: {}", words(reason)),
    }
}

/// A reason for people; its name where this version does not know it.
fn words(reason: &str) -> &str {
    match reason {
        "pass_not_ip" => "it is neither IPv4 nor IPv6",
        "pass_not_vip" => "its destination is no service",
        "echo_answered" => "it is an echo request to a VIP",
        "malformed" => "it is cut short or inconsistent",
        "fragment" => "it is a fragment",
        "extension_header" => "an extension header hides its ports",
        "icmp_unsupported" => "it is ICMP other than an echo request",
        "all_down" => "no pool of its plan takes it",
        "relay_refused" => "it was relayed already and no local pool takes it",
        "no_next_hop" => "the next hop to the backend is not known",
        "too_big" => "it is too large for the way to the backend once encapsulated",
        "no_headroom" => "the frame cannot be enlarged",
        "inconsistent" => "the data plane's maps contradict each other",
        "fragment_orphan" => "it is a fragment whose datagram's first one was not seen lately",
        "icmp_unmatched" => "it is an ICMP error about no flow of a service",
        "too_big_answered" => "it is too large once encapsulated; the sender was told which size fits",
        "answer_limited" => "it would be answered, but the limit of answers was reached",
        "neighbour_answered" => "it asks for the link address of a VIP",
        "not_on_link" => "its service rewrites Ethernet headers, but the backend is not on the link",
        "pass_leaving" => "it would open a flow of a service that is being removed",
        "source_denied" => "the service denies its source",
        "source_not_allowed" => "the service allows other sources only",
        "service_limited" => "it is over the service's limit",
        "source_limited" => "it is over the limit of its source prefix",
        "shed" => "new flows of its priority class are being shed",
        "emergency" => "an emergency switch forbids it",
        "relay_not_for_us" => "it was relayed here, but by no relay peer, or for no service of this host",
        "relay_malformed" => "it was relayed here, but no whole packet is in the tunnel",
        "redirect_failed" => "the kernel refused the redirect",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::reason::Reason;

    use super::*;

    #[test]
    fn every_reason_has_words() {
        for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::Forwarded) {
            assert_ne!(words(reason.name()), reason.name(), "{reason:?}");
        }
    }

    #[test]
    fn destinations_are_read_or_refused_with_a_hint() {
        let good = "[2001:db8::10]:443/udp".parse::<Destination>().unwrap();
        assert_eq!((good.address.port(), good.protocol), (443, Protocol::Udp));
        for (text, hint) in [
            ("192.0.2.10:80", "must end with /tcp, /udp or /sctp"),
            ("192.0.2.10:80/gre", "none of tcp, udp and sctp"),
            ("192.0.2.10/tcp", "no address with a port"),
            ("2001:db8::10:80/tcp", "no address with a port"),
        ] {
            let error = text.parse::<Destination>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
