//! What the file says about relays: `[[relay]]` with `[[relay.host]]`, and the keys of `[node]`.

use super::fields::{At, Fields, Text, Texts};
use super::report::{Report, Span};

/// The keys of `[node]`.
pub(super) struct RawNodeRelay<'a> {
    pub(super) addresses: Option<Texts<'a>>,
    pub(super) peers: Option<Texts<'a>>,
    pub(super) gue_port: Option<At<i64>>,
}

/// `[[relay]]`: hosts of another region.
pub(super) struct RawRelay<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) name: Option<Text<'a>>,
    pub(super) region: Option<Text<'a>>,
    pub(super) checks: Option<Texts<'a>>,
    pub(super) hosts: Vec<RawHost<'a>>,
}

/// `[[relay.host]]`.
pub(super) struct RawHost<'a> {
    pub(super) name: Option<Text<'a>>,
    pub(super) address: Option<Text<'a>>,
    pub(super) weight: Option<At<i64>>,
}

impl<'a> RawNodeRelay<'a> {
    /// Takes the keys of relays out of the node's table.
    pub(super) fn read(node: &mut Fields<'a>, report: &mut Report) -> Self {
        Self {
            addresses: node.strings("relay_addresses", report),
            peers: node.strings("relay_peers", report),
            gue_port: node.integer("relay_gue_port", report),
        }
    }
}

impl<'a> RawRelay<'a> {
    /// Reads one group.
    pub(super) fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let hosts = fields.tables("host", "[[relay.host]]", report);
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            name: fields.required("name", "name = \"...\"; pools refer to it", report),
            region: fields.required("region", "region = \"...\": the region whose hosts these are", report),
            checks: fields.strings("checks", report),
            hosts: hosts.into_iter().map(|f| RawHost::read(f, report)).collect(),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl<'a> RawHost<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let raw = Self {
            name: fields.required("name", "name = \"...\", unique over all backends", report),
            address: fields.required(
                "address",
                "address = \"...\": one of the relay_addresses of that host",
                report,
            ),
            weight: fields.integer("weight", report),
        };
        fields.finish(report);
        raw
    }
}
