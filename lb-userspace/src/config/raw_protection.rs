//! What the file says about protection: `priority`, `[service.access]` and `[service.limits]`.

use super::fields::{At, Fields, Text, Texts};
use super::report::{Report, Span};

/// The protection of a `[[service]]`.
pub(super) struct RawProtection<'a> {
    pub(super) priority: Option<Text<'a>>,
    pub(super) access: Option<RawAccess<'a>>,
    pub(super) limits: Option<RawLimits>,
}

/// `[service.access]`.
pub(super) struct RawAccess<'a> {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) allow: RawList<'a>,
    pub(super) deny: RawList<'a>,
}

/// Prefixes in the file, and a file with more of them.
pub(super) struct RawList<'a> {
    pub(super) prefixes: Option<Texts<'a>>,
    pub(super) file: Option<Text<'a>>,
}

/// `[service.limits]`.
pub(super) struct RawLimits {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) rates: RawRates,
    pub(super) max_new_flows: Option<At<i64>>,
    pub(super) per_source: Option<RawSourceLimits>,
}

/// `per_source` of `[service.limits]`.
pub(super) struct RawSourceLimits {
    pub(super) span: Span,
    /// See [`Fields::mistyped`].
    pub(super) mistyped: bool,
    pub(super) v4: Option<At<i64>>,
    pub(super) v6: Option<At<i64>>,
    pub(super) rates: RawRates,
}

/// Limits on packets and new flows.
pub(super) struct RawRates {
    pub(super) packets_per_second: Option<At<i64>>,
    pub(super) burst: Option<At<i64>>,
    pub(super) new_flows_per_second: Option<At<i64>>,
    pub(super) new_flows_burst: Option<At<i64>>,
}

impl<'a> RawProtection<'a> {
    /// Takes the keys of protection out of a service's table.
    pub(super) fn read(service: &mut Fields<'a>, report: &mut Report) -> Self {
        let access = service.table("access", "[service.access]", report);
        let limits = service.table("limits", "[service.limits]", report);
        Self {
            priority: service.string("priority", report),
            access: access.map(|fields| RawAccess::read(fields, report)),
            limits: limits.map(|fields| RawLimits::read(fields, report)),
        }
    }
}

impl<'a> RawAccess<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            allow: RawList {
                prefixes: fields.strings("allow", report),
                file: fields.string("allow_file", report),
            },
            deny: RawList {
                prefixes: fields.strings("deny", report),
                file: fields.string("deny_file", report),
            },
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl RawLimits {
    fn read(mut fields: Fields<'_>, report: &mut Report) -> Self {
        let per_source = fields.table("per_source", "per_source of [service.limits]", report);
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            rates: RawRates::read(&mut fields, report),
            max_new_flows: fields.integer("max_new_flows", report),
            per_source: per_source.map(|fields| RawSourceLimits::read(fields, report)),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl RawSourceLimits {
    fn read(mut fields: Fields<'_>, report: &mut Report) -> Self {
        let mut raw = Self {
            span: fields.span.clone(),
            mistyped: false,
            v4: fields.integer("v4", report),
            v6: fields.integer("v6", report),
            rates: RawRates::read(&mut fields, report),
        };
        raw.mistyped = fields.mistyped;
        fields.finish(report);
        raw
    }
}

impl RawRates {
    fn read(fields: &mut Fields<'_>, report: &mut Report) -> Self {
        Self {
            packets_per_second: fields.integer("packets_per_second", report),
            burst: fields.integer("burst", report),
            new_flows_per_second: fields.integer("new_flows_per_second", report),
            new_flows_burst: fields.integer("new_flows_burst", report),
        }
    }
}
