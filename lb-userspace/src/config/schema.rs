//! The JSON Schema of the file, for editors: from the list of [keys](super::keys).

use serde_json::{Map, Value, json};

use super::effective::literal;
use super::keys::{Content, Fallback, Key, Section, Type};

/// The schema (draft 2020-12). It knows shapes, types and bounds; that names refer to something `weir check` says.
#[must_use]
pub fn schema() -> Value {
    let mut root = of_table(&[], &[]);
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "weir.toml".into();
    root["description"] = "Configuration of the Weir daemon: see weir.toml(5)".into();
    root
}

fn of_section(section: &'static Section) -> Value {
    let lists = json!({ "type": "object", "additionalProperties": texts() });
    let mut table = match section.content {
        Content::Keys(keys) => of_table(section.path, keys),
        Content::Lists => lists,
        Content::Tables => json!({ "type": "object", "additionalProperties": lists }),
    };
    table["description"] = section.text.into();
    if section.repeats { json!({ "type": "array", "items": table }) } else { table }
}

fn of_table(path: &'static [&'static str], keys: &[Key]) -> Value {
    let mut properties: Map<_, _> = keys.iter().map(|key| (key.name.to_owned(), of_key(key))).collect();
    let mut required: Vec<_> =
        keys.iter().filter(|key| key.default == Fallback::Required).map(|key| key.name).collect();
    for below in Section::children(path) {
        let name = below.path[below.path.len() - 1];
        properties.insert(name.to_owned(), of_section(below));
        if below.required {
            required.push(name);
        }
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties, "required": required })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn of_key(key: &Key) -> Value {
    let mut value = match key.of {
        Type::Text => json!({ "type": "string" }),
        Type::Duration => json!({ "type": "string", "pattern": "^[0-9]+(us|ms|s|m|h)$" }),
        Type::Choice(choices) => json!({ "type": "string", "enum": choices }),
        Type::Texts => texts(),
        Type::Integer(first, last) => json!({ "type": "integer", "minimum": first, "maximum": last }),
        Type::Integers(choices) => json!({ "type": "integer", "enum": choices }),
        Type::Flag => json!({ "type": "boolean" }),
    };
    value["description"] = key.text.into();
    if let Fallback::Is(text) = key.default
        && let Some(default) = literal(text).and_then(|value| serde_json::to_value(value).ok())
    {
        value["default"] = default;
    }
    value
}
