//! What the file says about plans and who may serve whom.

use toml::de::DeValue;

use super::fields::{At, Fields, Text, Texts, strings};
use super::report::{Report, Span, quote};

/// `[service.plan]`: client regions with their pools.
pub(super) struct RawPlan<'a> {
    pub(super) span: Span,
    pub(super) entries: Vec<(Text<'a>, RawEntry<'a>)>,
}

/// One line of it: a list of pools, or a table with more to say.
pub(super) struct RawEntry<'a> {
    pub(super) pools: Texts<'a>,
    pub(super) mode: Option<Text<'a>>,
    pub(super) rho: Option<At<f64>>,
}

impl<'a> RawPlan<'a> {
    pub(super) fn read(fields: &Fields<'a>, report: &mut Report) -> Self {
        let entries = fields.entries().filter_map(|(name, value, span)| {
            let entry = match value {
                DeValue::Table(table) => {
                    RawEntry::read(Fields::new(table, span, "an entry of [service.plan]"), report)
                }
                list => strings(list, span, &quote(name.value), report).map(|pools| RawEntry {
                    pools,
                    mode: None,
                    rho: None,
                }),
            };
            Some((name, entry?))
        });
        let entries = entries.collect();
        Self { span: fields.span.clone(), entries }
    }
}

impl<'a> RawEntry<'a> {
    fn read(mut fields: Fields<'a>, report: &mut Report) -> Option<Self> {
        let example = "pools = [\"...\"]: the pools in the order in which they are tried";
        let pools = fields.required_strings("pools", example, report);
        let (mode, rho) = (fields.string("mode", report), fields.number("rho", report));
        fields.finish(report);
        Some(Self { pools: pools?, mode, rho })
    }
}

/// A table whose keys are names and whose values are lists of strings.
pub(super) fn read_lists<'a>(fields: &Fields<'a>, report: &mut Report) -> Vec<(Text<'a>, Texts<'a>)> {
    let lists = fields.entries().filter_map(|(name, value, span)| {
        let list = strings(value, span, &quote(name.value), report)?;
        Some((name, list))
    });
    lists.collect()
}
